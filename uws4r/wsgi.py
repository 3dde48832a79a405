"""
What a server loads: :data:`application` for a uWSGI that serves websockets only, :func:`wrap` for a
site's own ``wsgi.py`` that serves both.

Under uWSGI, loading fails with a :class:`~uws4r.errors.ConfigurationError` where websockets could not work.
"""

import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import django

from uws4r.application import Application, StartResponse, Way
from uws4r.conf import conf
from uws4r.detached import Detached
from uws4r.engines import worker_hub
from uws4r.hub import Hub
from uws4r.logins import give_back, read_session
from uws4r.uwsgi_server import about_server, check_server, detach, engine, native, require_uwsgi, stop_with_worker
from uws4r.worker import make_hub


def get_hub() -> Hub:
    """Return this worker's hub."""
    return worker_hub(_make_hub, stop_with_worker, _run_hub)


def _make_hub() -> Hub:
    # uWSGI's async engine has tables with as many entries as there could be descriptors at its start.
    return make_hub(read_session, give_back, about_server(), raise_limit=conf.UWS4R_MODE != "native")


def _run_hub(hub: Hub) -> object:
    return engine()(hub)


detached = Detached(detach)


def get_way() -> Way:
    """Return how websockets are opened, as ``UWS4R_MODE`` says."""
    return native() if conf.UWS4R_MODE == "native" else detached


check_once = cache(check_server)  # a site's wsgi.py with wrap() would ask twice
application = Application(get_hub, require_uwsgi, get_way)


def wrap(django_application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """
    Return a WSGI application that serves websockets below ``WEBSOCKET_URL`` and leaves the rest to Django::

        application = wrap(get_wsgi_application())
    """
    check_once()

    def both(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").startswith(conf.WEBSOCKET_URL):
            return application(environ, start_response)
        return django_application(environ, start_response)

    return both


if "DJANGO_SETTINGS_MODULE" in os.environ:  # `module = uws4r.wsgi:application`; a site's wsgi.py may set it later
    django.setup(set_prefix=False)
    check_once()
