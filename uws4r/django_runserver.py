"""
ws4redis' names around ``manage.py runserver``.

``WSGI_APPLICATION = "uws4r.django_runserver.application"`` may stay in a site's settings, and is not needed:
runserver serves websockets whatever WSGI application it has.
"""

from functools import cache
from typing import Any

from django.core.wsgi import get_wsgi_application

from uws4r.wsgiref_server import WebsocketRunServer as WebsocketRunServer


@cache
def _application() -> Any:
    from uws4r.wsgi import wrap  # looks for uWSGI, and sets Django up

    return wrap(get_wsgi_application())


def __getattr__(name: str) -> Any:
    # Made when it is asked for: the first import of this module may come before Django is ready.
    if name == "application":
        return _application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
