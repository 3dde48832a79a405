"""
ws4redis' names around ``manage.py runserver``.

``WSGI_APPLICATION = "uws4r.django_runserver.application"`` may stay in a site's settings, and is not needed:
runserver serves websockets whatever WSGI application it has. In another server of Django's, such as the one of
``LiveServerTestCase``, :data:`application` serves them itself.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

from django.core.wsgi import get_wsgi_application

from uws4r.application import StartResponse
from uws4r.conf import conf
from uws4r.wsgiref_server import WebsocketRunServer as WebsocketRunServer
from uws4r.wsgiref_server import serve_beneath


@cache
def _application() -> Any:
    from uws4r.wsgi import wrap  # looks for uWSGI, and sets Django up

    both = wrap(get_wsgi_application())

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        software, path = environ.get("SERVER_SOFTWARE", ""), environ.get("PATH_INFO", "")
        if software.startswith("WSGIServer/") and path.startswith(conf.WEBSOCKET_URL):
            serve_beneath(environ, start_response)
        return both(environ, start_response)

    return application


def __getattr__(name: str) -> Any:
    # Made when it is asked for: the first import of this module may come before Django is ready.
    if name == "application":
        return _application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
