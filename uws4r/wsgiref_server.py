"""
What is wsgiref's, the server behind ``manage.py runserver``: a websocket leaves it before it answers.

wsgiref forbids the headers of a 101, adds others of its own, and shuts a request's socket down, which would hit
every duplicate of it. So the request handler answers a websocket itself and takes the socket away from the
server; what is not below ``WEBSOCKET_URL`` never notices.
"""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

from django.conf import settings
from django.core.servers.basehttp import ServerHandler, WSGIRequestHandler

from uws4r.application import Application
from uws4r.conf import conf
from uws4r.detached import Detached
from uws4r.engines import worker_hub
from uws4r.errors import ConfigurationError
from uws4r.hub import Hub
from uws4r.logins import give_back, read_session
from uws4r.worker import make_hub

SOCKET = "uws4r.socket"  # in the environ of a websocket request: the socket it came in through


def require_runserver(environ: dict[str, Any]) -> None:
    """
    Make sure that a request has come in through :class:`WebsocketRequests`, without TLS.

    Raises:
        ConfigurationError: It has not: there is no socket to detach.
    """
    connection = environ.get(SOCKET)
    if connection is None:
        raise ConfigurationError('websockets need the runserver of uws4r: is "uws4r" above in INSTALLED_APPS?')
    if type(connection) is not socket.socket:
        raise ConfigurationError(f"websockets cannot be detached from a {type(connection).__name__}")


def detach(environ: dict[str, Any]) -> int:
    """
    Take the request's socket away from the server, which then has nothing left to shut down.

    Raises:
        OSError: The client has gone.
    """
    connection: socket.socket = environ[SOCKET]
    # Joining small writes is the hub's job.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection.detach()


def get_hub() -> Hub:
    """Return this process's hub."""
    return worker_hub(partial(make_hub, read_session, give_back, {"name": "runserver"}), lambda hub: None)


class WebsocketRunServer(Application):
    """
    The websockets of ``runserver``, as a WSGI application.

    Args:
        redis_connection: What subscribers are given as their connection; None for the site's Redis.
    """

    def __init__(self, redis_connection: Any = None) -> None:
        super().__init__(get_hub, require_runserver, lambda: Detached(detach), redis_connection)


websockets = WebsocketRunServer()


class Answer:
    """The server's side of PEP 3333 with nothing added to what the application says, and nothing forbidden."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self.status = ""
        self.size = 0  # bytes of the body
        self._send = send
        self._head = b""

    def start_response(self, status: str, headers: list[tuple[str, str]]) -> Callable[[bytes], object]:
        self.status = status.partition(" ")[0]
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), "", ""]
        self._head = "\r\n".join(lines).encode("latin-1")
        return self.write

    def write(self, data: bytes) -> None:
        self._send(self._head + data)
        self._head = b""
        self.size += len(data)


class WebsocketRequests:
    """Goes in front of Django's WSGIRequestHandler, and answers what is below ``WEBSOCKET_URL``."""

    def parse_request(self: Any) -> bool:
        """Return whether the request still has to be answered."""
        if not super().parse_request():  # type: ignore[misc]
            return False
        path = unquote(self.path.partition("?")[0], "iso-8859-1")  # as get_environ() makes PATH_INFO
        mounted = (settings.FORCE_SCRIPT_NAME or "").rstrip("/")  # a server in front would take it off
        if mounted and path.startswith(mounted + conf.WEBSOCKET_URL) and self.path.startswith(mounted):
            self.path = self.path.removeprefix(mounted)
            path = path.removeprefix(mounted)
        if not path.startswith(conf.WEBSOCKET_URL):
            return True
        self.close_connection = True
        self.serve_websocket()
        return False

    def serve_websocket(self: Any) -> None:
        """Open a websocket, or refuse it."""
        handler = ServerHandler(self.rfile, self.wfile, self.get_stderr(), self.get_environ())
        handler.setup_environ()
        environ = {**handler.environ, SOCKET: self.connection}
        answer = Answer(self.wfile.write)
        for data in websockets(environ, answer.start_response):
            answer.write(data)
        self.log_request(answer.status, answer.size)
        if answer.status != "101":
            # A socket that is closed with unread data takes the answer back.
            handler.get_stdin().read()


def serve_beneath(environ: dict[str, Any], start_response: Any) -> None:
    """
    Serve a websocket in a server of Django's that knows nothing of it, in the middle of its request.

    Tests for ws4redis had ``server_thread.httpd.set_app(application)``: Django's own handler is around the application.

    Raises:
        ConfigurationError: It is another server, or the request came over TLS.
        ConnectionAbortedError: It has been served; wsgiref takes this for a client that has left, and says no more.
    """
    handler = getattr(getattr(start_response, "__self__", None), "request_handler", None)
    if not isinstance(handler, WSGIRequestHandler):
        raise ConfigurationError(f"websockets cannot be served in {environ.get('SERVER_SOFTWARE') or 'this server'}")
    handler.close_connection = True
    WebsocketRequests.serve_websocket(handler)
    raise ConnectionAbortedError


class WebsocketServer:
    """Goes in front of Django's WSGIServer, and has its requests handled by :class:`WebsocketRequests` first."""

    def __init__(self, address: Any, handler: type, *arguments: Any, **options: Any) -> None:
        handler = type(handler.__name__, (WebsocketRequests, handler), {})
        super().__init__(address, handler, *arguments, **options)  # type: ignore[call-arg]
