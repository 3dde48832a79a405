"""Every way to serve websockets without anything in front: the same small suite for all."""

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_latecomers import log_in
from tests.support.modes import MODES, serve_in, stop
from tests.support.runserver import RunServer
from tests.support.servers import RedisServer, wait_until
from tests.support.site import Site
from tests.support.wire import (
    BINARY,
    PING,
    TEXT,
    TIMEOUT,
    Client,
    Refused,
    close_frame,
    connect,
    deflated,
    masked_frame,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ECHO = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"

# What differs from mode to mode is in a table of docs/how-to/deploy.md.
COMPRESSING = [*(mode for mode in MODES if mode != "native"), "runserver"]
PAGES = [*(mode for mode in MODES if mode != "websockets only"), "runserver"]


@pytest.fixture(scope="module")
def serving(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, database: Path
) -> Iterator[Callable[[str], Site]]:
    """A site in a mode, started when it is first asked for."""
    sites: dict[str, Site] = {}

    def site(mode: str) -> Site:
        if mode not in sites:
            sites[mode] = serve_in(mode, tmp_path_factory.mktemp("mode"), redis_server, database)
        return sites[mode]

    yield site
    for each in sites.values():
        stop(each)


@pytest.fixture(params=[*MODES, "runserver"])
def site(request: pytest.FixtureRequest, serving: Callable[[str], Site]) -> Iterator[Site]:
    found = serving(request.param)
    found.redis.client.flushall()
    yield found
    found.close_clients()
    assert "Traceback" not in found.uwsgi.log


def close_of(client: Client) -> tuple[int, bytes]:
    while (frame := client.frame()).opcode in (TEXT, BINARY, PING):
        pass
    return frame.close_code, frame.payload[2:]


def test_messages_of_every_kind(site: Site) -> None:
    client = site.join(ECHO)
    for message in ("short", "x" * (1 << 20), b"\xff" * 1000, "snow \u2603"):
        client.send(message)
        assert client.receive() == message
    client.send_raw(masked_frame(TEXT, b"in ", final=False) + masked_frame(0, b"two ", final=False))
    client.send_raw(masked_frame(PING, b"between") + masked_frame(0, b"and more"))
    assert client.frame().payload == b"between"
    assert client.receive() == "in two and more"
    client.send_raw(b"".join(masked_frame(TEXT, b"%d" % number) for number in range(500)))
    assert [client.receive() for _ in range(500)] == [str(number) for number in range(500)]


def test_everybody_hears_it_in_every_worker_and_in_order(site: Site) -> None:
    clients = site.join_all_workers("/ws/foo?subscribe-broadcast")
    for number in range(100):
        site.redis.client.publish("broadcast:foo", f"{number}")
    for client in clients:
        assert [client.receive() for _ in range(100)] == [f"{number}" for number in range(100)]


@pytest.mark.parametrize("site", PAGES, indirect=True)
def test_a_view_publishes_to_the_user_of_the_session(site: Site) -> None:
    session = site.log_in("john")
    his = site.join("/ws/foo?subscribe-user", session=session, channel="user:john:foo")
    everybody = site.join("/ws/foo?subscribe-broadcast")
    site.request("POST", "/publish/", "facility=foo&audience=user&message=to+john", session=session)
    site.request("POST", "/publish/", "facility=foo&audience=broadcast&message=to+all")
    assert his.receive() == "to john"
    assert everybody.receive() == "to all"
    site.request("GET", "/logout/", session=session)
    assert close_of(his)[0] == 4401


def test_the_last_message_is_kept(site: Site) -> None:
    publisher = site.join("/ws/kept?subscribe-broadcast&publish-broadcast&echo")
    publisher.send("kept")
    assert publisher.receive() == "kept"
    assert site.connect("/ws/kept?subscribe-broadcast").receive() == "kept"


def test_what_a_client_keeps_has_a_budget_that_it_cannot_renew_by_coming_back(site: Site) -> None:
    message = "x" * (1 << 20)
    for number in range(12):
        # An address of its own, whose debt no other test inherits.
        sock = socket.create_connection(site.address, TIMEOUT, ("127.0.0.9", 0))
        with connect(sock, f"/ws/mine{number}?subscribe-broadcast&publish-broadcast&echo") as client:
            client.send(message)
            assert client.receive() == message
            client.send_raw(close_frame())
            close_of(client)
    kept = [number for number in range(12) if site.redis.client.get(f"broadcast:mine{number}")]
    workers = 1 if isinstance(site, RunServer) else 2
    # Two such messages may be saved up, in each worker; one more is earned in 20 seconds.
    assert 2 <= len(kept) <= 3 * workers + 1
    assert "allows: delivered, and not kept" in site.uwsgi.log


def test_own_messages_come_back_with_echo_only(site: Site) -> None:
    silent = site.join("/ws/foo?subscribe-broadcast&publish-broadcast")
    echo = site.join(ECHO)
    silent.send("from the silent one")
    assert echo.receive() == "from the silent one"
    echo.send("from the other one")
    assert (silent.receive(), echo.receive()) == ("from the other one", "from the other one")


OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


@pytest.mark.parametrize("site", COMPRESSING, indirect=True)
def test_compression(site: Site) -> None:
    client = site.connect(ECHO, OFFER)
    client.send_raw(masked_frame(TEXT, deflated(b"again and again " * 1000), reserved=4))
    frame = client.frame()
    assert (frame.payload, frame.compressed) == (b"again and again " * 1000, True)


@pytest.mark.parametrize("site", ["native"], indirect=True)
def test_where_nothing_is_compressed_it_is_not_agreed_on(site: Site) -> None:
    client = site.connect(ECHO, OFFER)
    assert client.response is not None
    assert "sec-websocket-extensions" not in client.response.headers
    client.send("again and again " * 1000)
    frame = client.frame()
    assert (frame.payload, frame.compressed) == (b"again and again " * 1000, False)


@pytest.mark.parametrize("code", [1000, 4999])
def test_a_close_code_of_the_client_comes_back(site: Site, code: int) -> None:
    client = site.connect(ECHO)
    client.send_raw(close_frame(code, "bye"))
    assert close_of(client)[0] == code
    assert client.ended()


@pytest.mark.parametrize(("mistake", "code"), [(b"\x81\x02hi", 1002), (masked_frame(TEXT, b"\xff"), 1007)])
def test_a_mistake_closes_its_sender_only(site: Site, mistake: bytes, code: int) -> None:
    client, neighbour = site.connect(ECHO), site.join(ECHO)
    client.send_raw(mistake)
    assert close_of(client)[0] == code
    neighbour.send("all well")
    assert neighbour.receive() == "all well"


def test_a_refusal_is_an_http_answer(site: Site) -> None:
    with pytest.raises(Refused, match="403: b'This Origin may not open websockets here"):
        site.connect("/ws/foo", {"Origin": "http://evil.example"})


def test_many_are_open_at_the_same_time(site: Site) -> None:
    clients = [site.connect("/ws/many?subscribe-broadcast") for _ in range(300)]
    for client in clients:
        assert client.ping() == []


@pytest.mark.parametrize("mode", MODES)
def test_a_reload_closes_with_1012_and_serves_again(serving: Callable[[str], Site], mode: str) -> None:
    site = serving(mode)
    clients = [site.connect(ECHO) for _ in range(50)]
    for client in clients:
        client.ping()
    before = site.uwsgi.log.count("spawned uWSGI worker")
    site.uwsgi.process.process.send_signal(signal.SIGHUP)
    assert [close_of(client)[0] for client in clients] == [1012] * 50
    site.close_clients()
    wait_until(lambda: site.uwsgi.log.count("spawned uWSGI worker") == before + 2, "reloaded")
    site.connect(ECHO).ping()


def test_cookies_in_several_lines(site: Site) -> None:
    session = log_in(site, "mary")
    for cookies in (["theme=dark", f"sessionid={session}", "x=y"], [f"sessionid={session}; x=y", "theme=dark"]):
        client = Client(site.dial())
        site.opened.append(client)
        # A header with a line break is two.
        client.request("/ws/foo?subscribe-user", {"Cookie": "\r\nCookie: ".join(cookies)})
        wait_until(lambda: site.redis.subscriptions("user:mary:foo") == 1, "mary's")
        client.sock.close()
        wait_until(lambda: site.redis.subscriptions("user:mary:foo") == 0, "left")
