"""
The WSGI application under the name of ws4redis, for a site's ``wsgi.py`` that makes one::

    application = uWSGIWebsocketServer()

New code takes :data:`uws4r.wsgi.application`, or :func:`uws4r.wsgi.wrap`.
"""

import logging
from typing import Any

import django
from django.apps import apps

from uws4r.application import Application
from uws4r.uwsgi_server import require_uwsgi
from uws4r.wsgi import check_once, get_hub, get_way

logger = logging.getLogger("uws4r.application")


class uWSGIWebsocketServer(Application):
    """
    Serves websockets, and nothing else.

    Args:
        redis_connection: What subscribers are given as their connection; None for the site's Redis.
    """

    def __init__(self, redis_connection: Any = None) -> None:
        if not apps.ready:
            django.setup(set_prefix=False)
        check_once()
        super().__init__(get_hub, require_uwsgi, get_way, redis_connection)
        for name in ("upgrade_websocket", "select"):
            if hasattr(self, name):
                logger.warning(
                    "%s.%s is never called: the hub reads and writes its websockets (docs/reference/ws4redis.md)",
                    type(self).__name__,
                    name,
                )


uWSGIWebSocketServer = uWSGIWebsocketServer  # as some manuals spell it
