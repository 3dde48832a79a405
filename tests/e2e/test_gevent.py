"""The hub as a greenlet, under uWSGI's gevent loop."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import SITE, RedisServer, Uwsgi, free_port, wait_until
from tests.support.site import Site, site_env
from tests.support.wire import PING, TEXT, Client, Refused, connect, masked_frame

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PLAIN = {"options": ("--gevent", "50")}
PATCHED = {"options": ("--gevent", "50"), "module": "testsite.patched_wsgi:application"}
ECHO = "/ws/f?subscribe-broadcast&publish-broadcast&echo"


@pytest.fixture(params=[PLAIN, PATCHED], ids=["plain", "patched"])
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def close_code(client: Client) -> int:
    while (frame := client.frame()).opcode in (PING, TEXT):
        pass
    return frame.close_code


def test_the_command_line_of_ws4redis(tmp_path: Path, database: Path, redis_server: RedisServer) -> None:
    port = free_port()
    env = site_env(redis_server.url, database)
    command = ["--http", f"127.0.0.1:{port}", "--gevent", "100", "--http-websockets", "--module", "testsite.wsgi"]
    uwsgi = Uwsgi(tmp_path, [*command, "--die-on-term"], {**env, "PYTHONPATH": f"{env['PYTHONPATH']}:{SITE}"}, port)
    try:
        clients = [connect(uwsgi.address, ECHO) for _ in range(300)]  # three times as many as there are greenlets
        for client in clients:
            client.ping()
        clients[0].send("to all")
        assert {client.receive() for client in clients} == {"to all"}
    finally:
        uwsgi.stop()
    for client in clients:
        client.sock.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_stop_and_reload_closes_with_1012(served: Callable[..., Site], way: dict[str, Any], number: int) -> None:
    site = served(**way, workers=2)
    clients = [site.connect(ECHO) for _ in range(50)]
    for client in clients:
        client.ping()
    begin = time.monotonic()
    site.uwsgi.process.process.send_signal(number)
    assert [close_code(client) for client in clients] == [1012] * 50
    assert time.monotonic() - begin < 2
    site.close_clients()
    if number == signal.SIGHUP:
        wait_until(lambda: site.uwsgi.log.count("spawned uWSGI worker 2") == 2, "reloaded")
        site.connect(ECHO).ping()
    site.uwsgi.assert_healthy()


def test_overridden_methods_delay_nobody_else(served: Callable[..., Site]) -> None:
    """Patched, ``time.sleep`` of a subscriber lets the others go on; not patched, it has a thread of its own."""
    for way in (PLAIN, PATCHED):
        site = served(**way, settings={"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Slow"})
        sleeper, sender = site.connect("/ws/f?publish-broadcast"), site.join(ECHO)
        sleeper.send("sleep")
        begin = time.monotonic()
        for number in range(20):
            sender.send(f"{number}")
            assert sender.receive() == f"{number}"
        assert time.monotonic() - begin < 4
        assert sender.receive() == "sleep"
        site.close_clients()
        site.uwsgi.stop()


def test_redis_goes_and_comes_back(served: Callable[..., Site], way: dict[str, Any], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, **way)
    client = site.join(ECHO)
    own_redis.stop()
    wait_until(lambda: "the link to Redis is lost" in site.uwsgi.log, "lost")
    client.send("kept")
    own_redis.start()
    assert client.receive() == "kept"
    assert client.ping() == []


def test_without_redis_a_handshake_waits_and_holds_up_nobody(
    served: Callable[..., Site], way: dict[str, Any], own_redis: RedisServer
) -> None:
    site = served(redis=own_redis, **way)
    waiting = site.connect(ECHO)
    own_redis.stop()
    wait_until(lambda: "the link to Redis is lost" in site.uwsgi.log, "lost")
    with Client(site.address) as late:
        late.request(ECHO, read=False)
        assert waiting.ping() == []  # the hub goes on meanwhile
        assert late.read_response().status == 503
    with pytest.raises(Refused, match="503"):
        site.connect(ECHO)


def test_a_flood_leaves_room_for_requests(served: Callable[..., Site], way: dict[str, Any]) -> None:
    site = served(**way, settings={"UWS4R_MAX_MESSAGE_RATE": 0})
    reader = site.join("/ws/f?subscribe-broadcast")
    flood = site.connect("/ws/f?publish-broadcast")
    flood.send_raw(b"".join(masked_frame(TEXT, b"%d" % number) for number in range(20_000)))
    begin = time.monotonic()
    assert site.request("GET", "/visit/").status == 200
    assert time.monotonic() - begin < 5
    assert [reader.receive() for _ in range(20_000)] == [f"{number}" for number in range(20_000)]


def test_uwsgis_own_option_patches_too_late_for_django_and_says_so(served: Callable[..., Site]) -> None:
    site = served(options=("--gevent", "50", "--gevent-monkey-patch"))
    assert "gevent-monkey-patch patches when the site is loaded already" in site.uwsgi.log
    client = site.join(ECHO)
    client.send("without the database it works")
    assert client.receive() == "without the database it works"
