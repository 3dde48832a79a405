"""The shipped NGiNX file, as it is, in front of the shipped vassals."""

import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployed import Emperor, Nginx
from tests.support.servers import ROOT, SITE, RedisServer, wait_until
from tests.support.site import Site, site_env
from tests.support.wire import PONG, TEXT, connect, masked_frame

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def fronts(redis_server: RedisServer, database: Path) -> Iterator[dict[str, Site]]:
    """The test site through the emperor, and through NGiNX."""
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:
        directory = Path(name)
        static = directory / "static"
        static.mkdir()
        (static / "hello.txt").write_text("a static file")
        env = {**site_env(redis_server.url, database), "UWS4R_SITE": str(SITE), "UWS4R_STATIC": str(static)}
        emperor = Emperor(directory, env)
        nginx = Nginx(directory, emperor)
        yield {
            front: Site(redis_server, env, ("127.0.0.1", port), emperor.uwsgi, workers=2)
            for front, port in (("emperor", emperor.port), ("nginx", nginx.port))
        }
        nginx.stop()
        emperor.stop()


@pytest.fixture(params=["emperor", "nginx"])
def front(request: pytest.FixtureRequest, fronts: dict[str, Site]) -> Iterator[Site]:
    site = fronts[request.param]
    site.redis.client.flushall()
    yield site
    site.close_clients()
    site.uwsgi.assert_healthy()


@pytest.fixture
def nginx(fronts: dict[str, Site]) -> Iterator[Site]:
    fronts["nginx"].redis.client.flushall()
    yield fronts["nginx"]
    fronts["nginx"].close_clients()


def test_pages_static_files_and_websockets(front: Site) -> None:
    session = front.log_in("john")
    client = front.join("/ws/foo?subscribe-user&publish-user&echo", session=session, channel="user:john:foo")
    front.request("POST", "/publish/", "facility=foo&audience=user&message=from+a+view", session=session)
    assert client.receive() == "from a view"
    for message in ("short", "x" * 200_000, b"\xff" * 1000):
        client.send(message)
        assert client.receive() == message
    client.send_raw(b"".join(masked_frame(TEXT, b"%d" % i) for i in range(100)))
    assert [client.receive() for _ in range(100)] == [str(i) for i in range(100)]
    url = f"http://127.0.0.1:{front.address[1]}/static/hello.txt"
    assert urllib.request.urlopen(url).read() == b"a static file"


def test_the_clients_own_address_is_logged(nginx: Site) -> None:
    """NGiNX is believed, because it calls over a Unix socket; what the client itself claims is not."""
    with connect(nginx.address, "/ws/address", {"X-Forwarded-For": "203.0.113.7"}) as client:
        client.ping()
    wait_until(lambda: " 127.0.0.1 - /ws/address open" in nginx.uwsgi.log, "logged")
    assert "203.0.113.7" not in nginx.uwsgi.log


def second_message_delays(site: Site) -> list[float]:
    """Seconds that each second message needs, a millisecond behind a first one; sorted."""
    client = site.join("/ws/nagle?subscribe-broadcast")
    delays: list[float] = []
    for i in range(30):
        sent: list[float] = []

        def publish(i: int = i, sent: list[float] = sent) -> None:
            site.redis.client.publish("broadcast:nagle", f"{i} first")
            until = time.monotonic() + 0.001
            while time.monotonic() < until:
                pass
            sent.append(time.monotonic())
            site.redis.client.publish("broadcast:nagle", f"{i} second")

        client.send_raw(masked_frame(PONG))  # a client that also talks delays its acknowledgements
        publisher = threading.Thread(target=publish)
        publisher.start()
        assert [client.receive(), client.receive()] == [f"{i} first", f"{i} second"]
        received = time.monotonic()
        publisher.join()
        delays.append(received - sent[0])
    return sorted(delays)


def test_two_messages_a_millisecond_apart_do_not_wait_for_an_acknowledgement(front: Site) -> None:
    """With Nagle's algorithm the second waits for the client's delayed ACK: 41 ms in the median, seen here."""
    delays = second_message_delays(front)
    assert statistics.median(delays) < 0.020, delays


def test_nor_do_they_without_anything_in_front(site: Site) -> None:
    delays = second_message_delays(site)
    assert statistics.median(delays) < 0.020, delays


def test_the_file_has_what_websockets_need() -> None:
    text = (ROOT / "nginx" / "uws4r.conf").read_text()
    for line in ("tcp_nodelay on;", 'proxy_set_header Connection "Upgrade";', "proxy_http_version 1.1;"):
        assert line in text
