"""``manage.py runserver`` serves websockets and pages on one port, as the uWSGI site would."""

import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_nginx import second_message_delays
from tests.support.runserver import ECHO, RunServer, Runserver, talk
from tests.support.servers import RedisServer, wait_until
from tests.support.site import site_env
from tests.support.wire import PING, TEXT, Client, Refused, close_frame, masked_frame
from uws4r.rfc6455 import accept_key

pytestmark = pytest.mark.e2e

APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, database: Path) -> Iterator[RunServer]:
    server = RunServer(tmp_path_factory.mktemp("runserver"), redis_server, database, "--noreload")
    yield server
    server.stop()


@pytest.fixture
def server(_shared: RunServer) -> Iterator[RunServer]:
    """A server of one process, shared by the tests; Redis is empty."""
    _shared.redis.client.flushall()
    yield _shared
    _shared.close_clients()
    assert "Traceback" not in _shared.log


# ---------------------------------------------------------------- the handshake


def test_bug_p8_the_101_has_the_headers_of_rfc_6455_and_no_other(server: RunServer) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    with Client(server.address) as client:
        client.request("/ws/foo", {"Sec-WebSocket-Key": key, "Sec-WebSocket-Protocol": "a, b"}, read=False)
        while not client.buffer.endswith(b"\r\n\r\n"):
            client._fill()
        assert client.buffer == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n"
            b"Sec-WebSocket-Protocol: a\r\n\r\n"
        )


def test_a_websocket_is_logged_like_a_page(server: RunServer) -> None:
    server.connect("/ws/logged?subscribe-broadcast")
    server.request("GET", "/logged")
    for request, answer in ((r"/ws/logged\?subscribe-broadcast", "101 0"), ("/logged", r"404 \d+")):
        line = re.compile(rf'^\[.+\] "GET {request} HTTP/1.1" {answer}$', re.MULTILINE)
        wait_until(lambda line=line: line.search(server.log), line.pattern)


@pytest.mark.parametrize(
    ("status", "request_of"),
    [
        pytest.param(400, {"headers": {"Sec-WebSocket-Key": "short"}}, id="key"),
        pytest.param(400, {"headers": {"Upgrade": None, "Connection": None}}, id="no websocket"),
        pytest.param(400, {"version": "HTTP/1.0"}, id="HTTP/1.0"),
        pytest.param(
            400,
            {"method": "POST", "headers": {"Content-Length": "9000000"}, "after": b"x" * 9_000_000},
            id="POST with body",
        ),
        pytest.param(403, {"headers": {"Origin": "http://elsewhere.example"}}, id="foreign origin"),
        pytest.param(404, {"path": "/wsx/foo"}, id="another path"),
        pytest.param(426, {"headers": {"Sec-WebSocket-Version": "12"}}, id="version"),
    ],
)
def test_a_refusal_is_an_http_answer(server: RunServer, status: int, request_of: dict[str, Any]) -> None:
    with Client(server.address) as client:
        response = client.request(request_of.pop("path", "/ws/foo"), **request_of)
        assert response is not None
        assert response.status == status
        assert len(response.body) == int(response.headers["content-length"]) > 0
        if status == 426:
            assert response.headers["sec-websocket-version"] == "13"
        if status != 404:
            assert set(response.headers) <= {
                "content-type", "content-length", "cache-control", "connection", "sec-websocket-version", "upgrade",
            }  # fmt: skip
            assert client.ended()


def test_bug_b8_a_client_that_leaves_at_once_is_no_error(server: RunServer) -> None:
    for _ in range(20):
        with Client(server.address) as client:
            client.request("/ws/left", read=False)
    server.connect("/ws/left").ping()


def test_a_client_that_does_not_wait_for_the_101_does_no_harm(server: RunServer) -> None:
    with Client(server.address) as client:
        client.request(ECHO, after=masked_frame(PING, b"early"))
        client.ping(b"later")


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "message",
    ["plain", "é", "€", "Привет, Қазақстан", "😀", "x" * 200_000, "€😀é" * 30_000, b"\xff\x00" * 100_000],
    ids=["ascii", "é", "€", "Cyrillic", "emoji", "200 kB", "200 kB of all", "binary"],
)
def test_bug_p7_every_message_comes_back(server: RunServer, message: str | bytes) -> None:
    client = server.join(ECHO)
    client.send(message)
    assert client.receive() == message


def test_bug_p7_an_empty_text_does_no_harm(server: RunServer) -> None:
    client = server.join(ECHO)
    client.send("")
    client.send("not empty")
    assert client.receive() == "not empty"


def test_bug_p7_fragments_may_split_a_character(server: RunServer) -> None:
    client = server.join(ECHO)
    whole = "a€😀é".encode()
    client.send_raw(masked_frame(TEXT, whole[:1], final=False))
    for place in range(1, len(whole) - 1):
        client.send_raw(masked_frame(0, whole[place : place + 1], final=False))
    client.send_raw(masked_frame(0, whole[-1:]))
    assert client.receive() == "a€😀é"


@pytest.mark.parametrize("code", [1000, 1001, 1012, 3000, 4999])
def test_a_close_code_is_answered_with_itself(server: RunServer, code: int) -> None:
    client = server.connect("/ws/foo")
    client.send_raw(close_frame(code))
    assert client.receive_close().close_code == code
    assert client.ended()


# ---------------------------------------------------------------- beside the pages


def test_bug_b2_pages_have_bodies_sessions_and_keep_alive(server: RunServer) -> None:
    """Two pages and then the websocket on one TCP connection: the pages' handling is Django's own."""
    session = server.log_in("mary")
    server.redis.client.set("user:mary:foo", "joined")
    body = b"facility=foo&audience=user&message=%D0%96"
    with Client(server.address) as client:
        for _ in range(2):
            client.request(
                "/publish/",
                {
                    "Upgrade": None,
                    "Connection": "keep-alive",
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Content-Length": str(len(body)),
                    "Cookie": f"sessionid={session}",
                },
                method="POST",
                after=body,
            )
            assert client.response is not None
            assert (client.response.status, client.response.body) == (200, b'{"reached": 0}')
        client.request("/ws/foo?subscribe-user", {"Cookie": f"sessionid={session}"})
        assert client.receive() == "Ж"


def threads(pid: int) -> int:
    return int(re.findall(r"^Threads:\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0])


def test_l1_websockets_take_no_threads_and_leave_the_pages_alone(server: RunServer) -> None:
    server.join(ECHO)
    wait_until(lambda: threads(server.pid) == 2, "the main thread and the hub's")
    clients = [server.join(ECHO) for _ in range(100)]
    wait_until(lambda: threads(server.pid) == 2, "no more")
    for _ in range(3):
        response = server.request("POST", "/publish/", "facility=foo&audience=broadcast&message=page")
        assert response.body == b'{"reached": 1}'
    assert [[client.receive() for _ in range(3)] for client in clients] == [["page"] * 3] * 100


def test_two_messages_a_millisecond_apart_do_not_wait_for_an_acknowledgement(server: RunServer) -> None:
    delays = second_message_delays(server)
    assert statistics.median(delays) < 0.020, delays


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        pytest.param((), {}, id="autoreload"),
        pytest.param(("--nothreading", "--noreload"), {}, id="nothreading"),
        pytest.param(("--nothreading",), {}, id="nothreading and autoreload"),
        pytest.param(("--noreload",), {"host": "::1"}, id="IPv6"),
        pytest.param(("--noreload",), {"settings": {"WSGI_APPLICATION": "testsite.wsgi.application"}}, id="wrapped"),
        pytest.param(("--noreload",), {"settings": {"DEBUG": False}}, id="not DEBUG"),
    ],
)
def test_ways_to_run(runserver: Runserver, options: tuple[str, ...], arguments: dict[str, Any]) -> None:
    talk(runserver(*options, **arguments))


def test_a11_wsgi_application_of_ws4redis(runserver: Runserver) -> None:
    talk(runserver("--noreload", settings={"WSGI_APPLICATION": "uws4r.django_runserver.application"}))


def test_the_url_is_the_setting(runserver: Runserver) -> None:
    server = runserver("--noreload", settings={"WEBSOCKET_URL": "/sock et/"})
    assert server.connect("/sock%20et/foo").response is not None
    with pytest.raises(Refused, match="404"):
        server.connect("/ws/foo")


def test_a_site_below_a_path_without_the_server_that_takes_it_off(runserver: Runserver) -> None:
    server = runserver("--noreload", settings={"FORCE_SCRIPT_NAME": "/app"})
    for path in ("/app/ws/foo", "/ws/foo"):
        assert server.connect(path).ping() == []


def test_a_balancers_question_is_answered(runserver: Runserver) -> None:
    server = runserver("--noreload")
    assert server.request("GET", "/ws/health").body == b"OK.\n"


# ---------------------------------------------------------------- beside other commands


def static_settings(directory: Path, *apps: str) -> dict[str, Any]:
    (directory / "static").mkdir()
    (directory / "static" / "style.css").write_text("p { color: teal }")
    return {
        "INSTALLED_APPS": [*APPS, *apps],
        "STATIC_URL": "/assets/",
        "STATICFILES_DIRS": [str(directory / "static")],
    }


def test_staticfiles_below_uws4r_serve_as_well(runserver: Runserver, tmp_path: Path) -> None:
    settings = static_settings(tmp_path, "uws4r", "django.contrib.staticfiles")
    server = runserver("--noreload", settings=settings)
    assert server.request("GET", "/assets/style.css").body == b"p { color: teal }"
    talk(server)
    assert "uws4r.W020" not in server.log
    server = runserver("--noreload", "--nostatic", settings=settings)
    assert server.request("GET", "/assets/style.css").status == 404


def test_staticfiles_above_uws4r_serve_as_well(runserver: Runserver, tmp_path: Path) -> None:
    server = runserver("--noreload", settings=static_settings(tmp_path, "django.contrib.staticfiles", "uws4r"))
    assert server.request("GET", "/assets/style.css").body == b"p { color: teal }"
    talk(server)
    assert "uws4r.W020" not in server.log


def test_a_runserver_with_a_server_of_its_own_is_warned_about(runserver: Runserver, tmp_path: Path) -> None:
    source = (
        "from django.core.management.commands.runserver import Command as Base\n"
        "from django.core.servers.basehttp import WSGIServer\n"
        "class Command(Base):\n"
        "    server_cls = type('Own', (WSGIServer,), {})\n"
    )
    path = own_runserver(tmp_path, source)
    settings = {"INSTALLED_APPS": [*APPS, "own", "uws4r"], "WSGI_APPLICATION": "testsite.wsgi.application"}
    server = runserver("--noreload", settings=settings, env={"PYTHONPATH": path})
    assert "(uws4r.W020) manage.py runserver is the one of own, with a server of its own" in server.log
    assert 'HINT: Put "uws4r" above "own" in INSTALLED_APPS' in server.log
    with pytest.raises(Refused, match="500"):
        server.connect("/ws/foo")
    assert 'a websocket is refused: the runserver here is not that of uws4r: put "uws4r" above' in server.log
    assert "Traceback" not in server.log


def own_runserver(directory: Path, source: str) -> str:
    """An app of the site's with this command; return what PYTHONPATH is."""
    commands = directory / "own" / "management" / "commands"
    commands.mkdir(parents=True)
    for package in (directory / "own", commands.parent, commands):
        (package / "__init__.py").touch()
    (commands / "runserver.py").write_text(source)
    return os.pathsep.join([site_env("", directory)["PYTHONPATH"], str(directory)])


@pytest.mark.parametrize(
    ("below", "base"),
    [
        (True, "django.core.management.commands.runserver"),
        (False, "django.core.management.commands.runserver"),
        (False, "uws4r.management.commands.runserver"),
    ],
    ids=["below uws4r", "above uws4r", "above uws4r, derived from its command"],
)
def test_a_runserver_of_the_site_does_its_part(runserver: Runserver, tmp_path: Path, below: bool, base: str) -> None:
    source = (
        f"from {base} import Command as Base\n"
        "class Command(Base):\n"
        "    def inner_run(self, *args, **options):\n"
        "        self.stdout.write('the site says hello')\n"
        "        super().inner_run(*args, **options)\n"
    )
    path = own_runserver(tmp_path, source)
    apps = ["uws4r", "own"] if below else ["own", "uws4r"]
    server = runserver("--noreload", settings={"INSTALLED_APPS": [*APPS, *apps]}, env={"PYTHONPATH": path})
    talk(server)
    assert "the site says hello" in server.log
    assert "uws4r.W020" not in server.log
