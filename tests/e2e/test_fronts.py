"""
Everything that may stand in front of the workers, with the shipped files as they are: the same small suite for all.

What one of them cannot do, or does otherwise, is a row of :data:`DIFFERENCES`, and of the table in
``docs/how-to/deploy.md``; the tests assert it.
"""

import os
import re
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_nginx import second_message_delays
from tests.support.fronts import CLIENT, Apache, Certificate, Front, Fronts, reloaded_vassal
from tests.support.servers import ROOT, RedisServer, Uwsgi, free_port, wait_until
from tests.support.site import Site, site_env
from tests.support.wire import BINARY, PING, PONG, TEXT, Client, Refused, close_frame, deflated, masked_frame

pytestmark = pytest.mark.e2e

NAMES = (
    "emperor",
    "nginx",
    "nginx TLS",
    "apache",
    "apache TLS",
    "apache wstunnel",
    "apache wstunnel TLS",
    "router",
    "router TLS",
)


@pytest.fixture(scope="module")
def fronts(redis_server: RedisServer, database: Path) -> Iterator[Fronts]:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:  # short: it is the path of Unix sockets
        fronts = Fronts(Path(name), redis_server, database)
        yield fronts
        fronts.stop()


@pytest.fixture(params=NAMES)
def front(request: pytest.FixtureRequest, fronts: Fronts) -> Iterator[Front]:
    site = fronts.sites[request.param]
    site.redis.client.flushall()
    yield site
    site.close_clients()
    site.uwsgi.assert_healthy()


def test_pages_and_static_files(front: Front) -> None:
    assert front.request("GET", "/static/hello.txt").body == b"a static file"
    response = front.request("POST", "/visit/")
    assert response.status == 200
    assert "sessionid=" in response.headers["set-cookie"]
    assert front.request("GET", "/no-such-page").status == 404


def test_messages_of_every_kind(front: Front) -> None:
    client = front.join("/ws/foo?subscribe-broadcast&publish-broadcast&echo")
    for message in ("short", "x" * (1 << 20), b"\xff" * 1000, "snow ☃"):
        client.send(message)
        assert client.receive() == message
    fragments = [(TEXT, b"in ", False), (0, b"three ", False), (0, b"parts", True)]
    client.send_raw(b"".join(masked_frame(opcode, text, final=final) for opcode, text, final in fragments))
    assert client.receive() == "in three parts"
    client.send_raw(b"".join(masked_frame(TEXT, b"%d" % i) for i in range(500)))
    assert [client.receive() for _ in range(500)] == [str(i) for i in range(500)]
    assert client.ping(b"") == client.ping(b"p" * 125) == []


def test_a_view_publishes_to_the_user_of_the_session(front: Front) -> None:
    session = front.log_in("john")
    his = front.join("/ws/foo?subscribe-user", session=session, channel="user:john:foo")
    everybody = front.join("/ws/foo?subscribe-broadcast")
    front.request("POST", "/publish/", "facility=foo&audience=user&message=to+john", session=session)
    front.request("POST", "/publish/", "facility=foo&audience=broadcast&message=to+all")
    assert his.receive() == "to john"
    assert everybody.receive() == "to all"


def test_the_last_message_is_kept_for_those_who_come_later(front: Front) -> None:
    front.request("POST", "/publish/", "facility=kept&audience=broadcast&message=kept")
    assert front.connect("/ws/kept?subscribe-broadcast").receive() == "kept"


@pytest.mark.parametrize(
    ("path", "facility"),
    [("foo", "foo"), ("a/b", "a/b"), ("a%2Fb", "a/b"), ("a//b", "a//b"), ("caf%C3%A9%20%25+&", "café %+&")],
)
def test_the_facility_is_what_the_url_says(front: Front, path: str, facility: str) -> None:
    """And has no slash in front, as with a prefix that a proxy takes away and does not put back."""
    front.join(f"/ws/{path}?subscribe-broadcast", channel=f"broadcast:{facility}")


def test_compression_is_agreed_on(front: Front) -> None:
    path = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"
    client = front.connect(path, {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"})
    assert client.window
    message = b"again and again " * 1000
    client.send_raw(masked_frame(BINARY, deflated(b"\xff" + message), reserved=4))
    frame = client.frame()
    assert (frame.payload, frame.compressed) == (b"\xff" + message, True)


def test_a_subprotocol_is_agreed_on(front: Front) -> None:
    client = front.connect("/ws/foo", {"Sec-WebSocket-Protocol": "chat, more"})
    assert client.response is not None
    assert client.response.headers["sec-websocket-protocol"] == "chat"


@pytest.mark.parametrize("code", [1000, 1001, 4000, 4999])
def test_a_close_code_of_the_client_arrives_and_comes_back(front: Front, code: int) -> None:
    client = front.join("/ws/foo?subscribe-broadcast")
    client.send_raw(close_frame(code, "bye"))
    assert client.receive_close().close_code == code
    assert client.ended()
    wait_until(lambda: f"/ws/foo closed: {code} 'bye'" in front.uwsgi.log, "logged")


def test_a_close_code_of_the_server_arrives(front: Front) -> None:
    for mistake, code in (
        (b"\x81\x02hi", 1002),
        (masked_frame(TEXT, b"\xff"), 1007),
        (masked_frame(TEXT, b"x" * ((1 << 20) + 1)), 1009),
    ):
        client = front.join("/ws/foo?subscribe-broadcast&publish-broadcast")
        client.send_raw(mistake)
        assert client.receive_close().close_code == code


def test_a_client_that_leaves_without_a_word_is_noticed(front: Front) -> None:
    client = front.join("/ws/leaves?subscribe-broadcast")
    assert front.redis.subscriptions("broadcast:leaves") == 1
    client.sock.close()
    wait_until(lambda: front.redis.subscriptions("broadcast:leaves") == 0, "unsubscribed")


def test_a_refusal_comes_with_its_sentence(front: Front) -> None:
    for headers, status, sentence in (
        ({"Origin": "http://evil.example"}, 403, b"This Origin may not open websockets here.\n"),
        ({"Sec-WebSocket-Version": "8"}, 426, None),
        ({"Sec-WebSocket-Key": "short"}, 400, None),
    ):
        with pytest.raises(Refused) as refused:
            front.connect("/ws/foo", headers)
        response = refused.value.response
        assert response.status == status
        assert sentence in (None, response.body)
        assert response.headers["content-type"].startswith("text/plain")


def test_the_origin_has_to_be_the_site_with_scheme_and_port(front: Front) -> None:
    host = front.origin.partition("://")[2]
    front.connect("/ws/foo", {"Host": host, "Origin": front.origin})
    other = "http" if front.tls else "https"
    for foreign in (f"{other}://{host}", front.origin + "0", front.origin.rpartition(":")[0]):
        with pytest.raises(Refused, match="403: b'This Origin"):
            front.connect("/ws/foo", {"Host": host, "Origin": foreign})


def test_a_client_cannot_pretend_to_come_through_tls(front: Front) -> None:
    if front.tls:
        return
    host = front.origin.partition("://")[2]
    claims: dict[str, str | None] = {"Host": host, "Origin": f"https://{host}", "X-Forwarded-Proto": "https"}
    with pytest.raises(Refused, match="403: b'This Origin"):
        front.connect("/ws/foo", claims)


def test_the_clients_own_address_is_logged_and_not_what_it_claims(front: Front) -> None:
    facility = f"address-{front.address[1]}"
    front.connect(f"/ws/{facility}", {"X-Forwarded-For": "203.0.113.7"}).ping()
    wait_until(lambda: f" {CLIENT} - /ws/{facility} open" in front.uwsgi.log, "logged")
    assert "203.0.113.7" not in front.uwsgi.log


def test_two_messages_a_millisecond_apart_do_not_wait_for_an_acknowledgement(front: Front) -> None:
    delays = second_message_delays(front)
    assert statistics.median(delays) < 0.020, delays


def test_what_is_no_handshake(front: Front) -> None:
    response = front.request("GET", "/ws/foo")
    print(response)


def test_frames_sent_with_the_handshake(front: Front) -> None:
    client = Client(front.dial())
    front.opened.append(client)
    client.request("/ws/foo?subscribe-broadcast&publish-broadcast&echo", after=masked_frame(PING, b"early"))
    client.sock.settimeout(1)
    print(client.frame())


def test_a_long_cookie(front: Front) -> None:
    client = Client(front.dial())
    front.opened.append(client)
    print(client.request("/ws/foo", {"Cookie": "a=" + "b" * 16000}))


def test_a_vassal_that_reloads_says_1012_through_all_of_them(fronts: Fronts) -> None:
    sites = [site for site in fronts.sites.values() if site.uwsgi is fronts.emperor.uwsgi]
    clients = [site.join("/ws/foo?subscribe-broadcast") for site in sites]
    with reloaded_vassal():
        for client in clients:
            assert client.receive_close().close_code == 1012
            client.send_raw(close_frame(1012))
            assert client.ended()
    for site in sites:
        site.join("/ws/foo?subscribe-broadcast")
        site.close_clients()


def test_the_routers_workers_reload_with_1012_and_the_router_stays(fronts: Fronts) -> None:
    sites = [site for site in fronts.sites.values() if site.uwsgi is fronts.router.uwsgi]
    clients = [site.join("/ws/foo?subscribe-broadcast") for site in sites for _ in range(5)]
    fronts.router.reload()
    for client in clients:
        assert client.receive_close().close_code == 1012
    for site in sites:
        site.join("/ws/foo?subscribe-broadcast")
        site.close_clients()
    assert fronts.router.uwsgi.log.count("spawned uWSGI http 1") == 1
