"""The server class of ws4redis under its old name; see :mod:`uws4r.uwsgi_runserver`."""

from uws4r.uwsgi_runserver import uWSGIWebsocketServer as WebsocketWSGIServer

__all__ = ["WebsocketWSGIServer"]
