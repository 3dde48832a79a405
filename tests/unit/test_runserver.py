"""What ``manage.py runserver`` is made of; the whole is in the end-to-end tests."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.test import override_settings

from tests.support.servers import RedisServer
from tests.support.wire import connect
from uws4r.conf import EMBEDDED_REDIS, conf
from uws4r.engines import stop_worker_hub
from uws4r.errors import ConfigurationError
from uws4r.wsgiref_server import SOCKET, WebsocketRunServer, require_runserver


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.close()


def test_importing_the_names_of_ws4redis_does_nothing() -> None:
    """No settings are needed, and Django's own runserver stays as it is."""
    code = """if True:
        from django.core.management.commands import runserver
        from django.core.servers import basehttp
        before = {**vars(runserver)}, {**vars(basehttp)}, {**vars(basehttp.ServerHandler)}
        import uws4r.django_runserver
        assert before == ({**vars(runserver)}, {**vars(basehttp)}, {**vars(basehttp.ServerHandler)})
        assert "uws4r.wsgi" not in __import__("sys").modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("nothing", [{}, None])
def test_what_is_embedded_is_used_where_the_settings_say_nothing(monkeypatch: pytest.MonkeyPatch, nothing: Any) -> None:
    monkeypatch.setenv(EMBEDDED_REDIS, "unix:///embedded")
    with override_settings(WS4REDIS_CONNECTION=nothing):
        assert conf.WS4REDIS_CONNECTION == "unix:///embedded"
    with override_settings(WS4REDIS_CONNECTION={"db": 1}):
        assert conf.WS4REDIS_CONNECTION == {"db": 1}


def test_a_request_of_another_server_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="need the runserver of uws4r"):
        require_runserver({"SERVER_SOFTWARE": "gunicorn"})


def test_a_request_over_tls_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        ssl.create_default_context().wrap_socket(
            ours, server_hostname="localhost", do_handshake_on_connect=False
        ) as wrapped,
        pytest.raises(ConfigurationError, match="SSLSocket"),
    ):
        require_runserver({SOCKET: wrapped})


def test_the_application_of_ws4redis_serves_websockets_in_a_server_of_djangos(server: RedisServer) -> None:
    """``LiveServerTestCase`` with ``httpd.set_app(application)``, as the tests of ws4redis' users have it."""
    from uws4r.django_runserver import application  # sets Django up

    httpd = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    httpd.set_app(application)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with override_settings(WS4REDIS_CONNECTION=server.url, ALLOWED_HOSTS=["*"]):
            with connect(httpd.server_address, "/ws/f?subscribe-broadcast&publish-broadcast&echo") as client:
                assert client.response is not None
                assert set(client.response.headers) == {"upgrade", "connection", "sec-websocket-accept"}
                for message in ("one", "x" * 100_000):
                    client.send(message)
                    assert client.receive() == message
            with closing(HTTPConnection(*httpd.server_address)) as connection:
                for path, status in (("/no-such-page", 404), ("/ws/health", 200), ("/ws/f", 400)):
                    connection.request("GET", path)
                    response = connection.getresponse()
                    response.read()
                    assert response.status == status
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
        stop_worker_hub()


def test_the_class_of_ws4redis_is_an_application_without_arguments() -> None:
    answers: list[str] = []
    body = WebsocketRunServer()({"REQUEST_METHOD": "POST"}, lambda status, headers: answers.append(status))
    assert answers == ["400 Bad Request"]
    assert b"GET" in b"".join(body)
