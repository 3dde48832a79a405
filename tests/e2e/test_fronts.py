"""
Everything that may stand in front of the workers, with the shipped files as they are: the same small suite for all.

What one of them cannot do, or does otherwise, is a cell of the table in ``docs/how-to/deploy.md``, and is what the
tests expect of it.
"""

import contextlib
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_nginx import second_message_delays
from tests.support.fronts import APACHE_THREADS, CLIENT, Front, Fronts, reloaded_vassal
from tests.support.servers import ROOT, RedisServer, Uwsgi, free_port, wait_until
from tests.support.site import Site, site_env
from tests.support.wire import BINARY, PING, PONG, TEXT, Client, Refused, close_frame, deflated, masked_frame

pytestmark = pytest.mark.e2e

DEPLOY = (ROOT / "docs" / "how-to" / "deploy.md").read_text()


def differences() -> dict[str, dict[str, str]]:
    """The table of the documentation: ``{row: {front: cell}}``."""
    section = DEPLOY.partition("## What differs")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
    (_, *names), _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {row: dict(zip((name.lower() for name in names), cells, strict=True)) for row, *cells in rows}


DIFFERENCES = differences()
PLAIN = tuple(DIFFERENCES["TLS"])
NAMES = (*PLAIN, *(f"{name} TLS" for name, can in DIFFERENCES["TLS"].items() if can == "yes"))
# A site that believes all that a proxy may say.
SETTINGS = {
    "SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"],
    "USE_X_FORWARDED_HOST": True,
    "WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.tell_claims",
}
each_without_tls = pytest.mark.parametrize("front", PLAIN, indirect=True)


def expected(front: Front, row: str) -> str:
    return DIFFERENCES[row][front.name.removesuffix(" TLS")]


@pytest.fixture(scope="module")
def fronts(redis_server: RedisServer, database: Path) -> Iterator[Fronts]:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:  # short: it is the path of Unix sockets
        fronts = Fronts(Path(name), redis_server, database, settings=SETTINGS)
        assert set(fronts.sites) == set(NAMES)
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


@pytest.mark.parametrize(("mistake", "code"), [(b"\x81\x02hi", 1002), (masked_frame(TEXT, b"\xff"), 1007)])
def test_a_close_code_of_the_server_arrives(front: Front, mistake: bytes, code: int) -> None:
    client = front.join("/ws/foo?subscribe-broadcast&publish-broadcast")
    client.send_raw(mistake)
    assert client.receive_close().close_code == code
    client.send_raw(close_frame(code))
    assert client.ended()


def test_a_close_code_for_a_client_that_is_still_sending(front: Front) -> None:
    client = front.join("/ws/foo?subscribe-broadcast&publish-broadcast")
    may_be_lost = expected(front, "close frame for one who is still sending") == "may be lost"
    with contextlib.suppress(OSError, EOFError) if may_be_lost else contextlib.nullcontext():
        with contextlib.suppress(OSError):  # over TLS, who is still sending learns it sooner than he can read it
            client.send("x" * ((1 << 20) + 1))
        assert client.receive_close().close_code == 1009
    wait_until(lambda: "/ws/foo closed: 1009" in front.uwsgi.log, "closed")


def test_a_client_that_leaves_without_a_word_is_noticed(front: Front) -> None:
    client = front.join("/ws/leaves?subscribe-broadcast")
    assert front.redis.subscriptions("broadcast:leaves") == 1
    client.sock.close()
    wait_until(lambda: front.redis.subscriptions("broadcast:leaves") == 0, "unsubscribed")


def test_a_refusal_comes_with_its_sentence(front: Front) -> None:
    refusals: tuple[tuple[dict[str, str | None], int, bytes | None], ...] = (
        ({"Origin": "http://evil.example"}, 403, b"This Origin may not open websockets here.\n"),
        ({"Sec-WebSocket-Version": "8"}, 426, None),
        ({"Sec-WebSocket-Key": "short"}, 400, None),
    )
    for headers, status, sentence in refusals:
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


def test_what_a_client_says_of_its_scheme(front: Front) -> None:
    other = "http" if front.tls else "https"
    host = front.origin.partition("://")[2]
    claims: dict[str, str | None] = {"Host": host, "Origin": f"{other}://{host}", "X-Forwarded-Proto": other}
    with pytest.raises(Refused, match="403: b'This Origin"):
        front.connect("/ws/foo", claims)


SPELLINGS = [f"X{first}Forwarded{second}%s" for first in "-_" for second in "-_"]  # all the same to uWSGI
LIES = {"For": "203.0.113.%d", "Proto": "lie%d", "Host": "lie%d.example"}


@pytest.mark.parametrize("order", [1, -1], ids=["twins-behind", "twins-in-front"])
@pytest.mark.parametrize("kind", ["page", "websocket"])
def test_no_spelling_of_what_a_proxy_says_is_believed_of_a_client(front: Front, kind: str, order: int) -> None:
    host = front.origin.partition("://")[2]
    lies = {spelling % name: lie % i for name, lie in LIES.items() for i, spelling in enumerate(SPELLINGS)}
    headers: dict[str, str | None] = {"Host": host, **dict(list(lies.items())[::order])}
    if kind == "page":
        with Client(front.dial()) as client:
            response = client.request("/forwarded/", {**headers, "Upgrade": None, "Connection": "close"})
            assert response is not None
            assert response.status == 200, response
            said = json.loads(response.body)
    else:
        facility = f"/ws/claims-{front.address[1]}-{order}"
        front.connect(facility, headers)
        wait_until(lambda: f"claims of {facility} {{" in front.uwsgi.log, "told")
        said = json.JSONDecoder().raw_decode(front.uwsgi.log.rpartition(f"claims of {facility} ")[2])[0]
    scheme = "https" if front.tls else "http"
    # Of a proxy the client may be one itself: what it says of its own client's address stands in front, and only that.
    assert said.pop("FOR") in (CLIENT, f"{LIES['For'] % 0}, {CLIENT}")
    assert said == {"PROTO": scheme, "HOST": host, "host": host, "secure": front.tls is not None}


def test_the_clients_own_address_is_logged_and_not_what_it_claims(front: Front) -> None:
    facility = f"address-{front.address[1]}"
    front.connect(f"/ws/{facility}", {"X-Forwarded-For": "203.0.113.7"}).ping()
    wait_until(lambda: f" {CLIENT} - /ws/{facility} open" in front.uwsgi.log, "logged")
    assert "203.0.113.7" not in front.uwsgi.log


def test_two_messages_a_millisecond_apart_do_not_wait_for_an_acknowledgement(front: Front) -> None:
    delays = second_message_delays(front)
    assert statistics.median(delays) < 0.020, delays


def test_a_request_below_the_websockets_url_that_is_no_handshake(front: Front) -> None:
    response = front.request("GET", "/ws/foo")
    if expected(front, "below `/ws/`, but no handshake") == "Django's 404":
        assert (response.status, b"websocket" in response.body) == (404, False)
    else:
        assert response.status == 400
        assert response.body.startswith(b"Client does not wish to upgrade to a websocket")


def test_frames_that_come_with_the_handshake(front: Front) -> None:
    client = Client(front.dial())
    front.opened.append(client)
    client.request("/ws/foo", after=masked_frame(PING, b"early"))
    client.send_raw(masked_frame(PING, b"later"))
    pongs = [b"later"] if expected(front, "frames that come before the 101") == "lost" else [b"early", b"later"]
    for pong in pongs:
        frame = client.frame()
        assert (frame.opcode, frame.payload) == (PONG, pong)


def test_a_long_cookie(front: Front) -> None:
    with Client(front.dial()) as client:
        response = client.request("/ws/foo", {"Cookie": "long=" + "x" * (16 << 10)})
        assert response is not None
        cell = expected(front, "a header of 16 KB, a long cookie")
        assert response.status == (101 if cell == "passes" else int(cell))


@each_without_tls
def test_many_websockets_at_once(front: Front) -> None:
    """More of them than Apache has threads here."""

    def open_or_wait() -> bool:
        client = Client(front.dial())
        front.opened.append(client)
        client.request("/ws/many?subscribe-broadcast", read=False)
        client.sock.settimeout(1.0)
        try:
            return client.read_response().status == 101
        except TimeoutError:
            return False

    opened = 0
    while opened < APACHE_THREADS + 10 and open_or_wait():
        opened += 1
    if expected(front, "an open websocket occupies") == "a thread":
        assert opened <= APACHE_THREADS
        front.opened[0].sock.close()
        front.opened[-1].sock.settimeout(10)
        assert front.opened[-1].read_response().status == 101
    else:
        assert opened == APACHE_THREADS + 10
    for client in front.opened[1:]:
        assert client.ping() == []


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


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLAIN if name != "emperor"] + ["emperor"])
def test_a_reload_of_the_one_in_front(fronts: Fronts, name: str) -> None:
    """The emperor is the last: all that is behind it starts anew."""
    sites = [fronts.sites[name], *([fronts.sites[f"{name} TLS"]] if DIFFERENCES["TLS"][name] == "yes" else [])]
    clients = [site.join("/ws/reload?subscribe-broadcast") for site in sites for _ in range(5)]
    ready = fronts.emperor.uwsgi.log.count("is ready to accept requests")
    fronts.reload(name)
    for client in clients:
        if DIFFERENCES["a reload of the one in front"][name] == "stays":
            assert client.ping() == []
        else:
            assert client.receive_close().close_code == 1012
    if name == "emperor":
        wait_until(lambda: fronts.emperor.uwsgi.log.count("is ready to accept requests") == ready + 2, "vassals", 30)
    for site in sites:
        site.join("/ws/reload?subscribe-broadcast").ping()
        site.close_clients()


def test_the_router_says_1012_before_it_stops(fronts: Fronts) -> None:
    """The last test of this file that needs it."""
    sites = [site for site in fronts.sites.values() if site.uwsgi is fronts.router.uwsgi]
    clients = [site.join("/ws/foo?subscribe-broadcast") for site in sites for _ in range(5)]
    fronts.router.stop_softly()
    for client in clients:
        assert client.receive_close().close_code == 1012
    for site in sites:
        site.close_clients()


def test_the_routers_command_line_as_the_how_to_has_it(
    tmp_path: Path, redis_server: RedisServer, database: Path
) -> None:
    (command, _) = re.findall(r"^```sh\n(.*?)^```$", DEPLOY.partition("## uWSGI's router")[2], re.MULTILINE | re.DOTALL)
    port = free_port()
    for said, here in (("uwsgi ", ""), (":8000", f"127.0.0.1:{port}"), ("mysite.wsgi", "testsite.wsgi")):
        assert said in command
        command = command.replace(said, here)
    env = site_env(redis_server.url, database)
    options: list[str | Path] = [*command.split(), "--virtualenv", sys.prefix, "--die-on-term"]
    uwsgi = Uwsgi(tmp_path, options, env, port)
    try:
        site = Site(redis_server, env, uwsgi.address, uwsgi, workers=2)
        session = site.log_in("mary")
        client = site.join("/ws/foo?subscribe-user&publish-user&echo", session=session, channel="user:mary:foo")
        client.send("x" * 100_000)
        assert client.receive() == "x" * 100_000
        site.close_clients()
        uwsgi.assert_healthy()
    finally:
        uwsgi.stop()


def test_plain_http_on_the_port_of_tls_is_sent_to_tls(fronts: Fronts) -> None:
    site = fronts.sites["nginx TLS"]
    with Client(site.address) as client:
        response = client.request("/page/", {"Host": f"localhost:{site.address[1]}", "Upgrade": None})
        assert response is not None
        assert (response.status, response.headers["location"]) == (308, f"{site.origin}/page/")


# ---------------------------------------------------------------- silence

SHORT = 3  # seconds that the files of the next tests have in the place of 120


def with_short_timeouts(directory: Path) -> Path:
    """The shipped files, but for the time after which a silent websocket is ended."""
    for name in ("nginx", "apache", "router"):
        shutil.copytree(ROOT / name, directory / name)
    for path, line in (
        ("nginx/uws4r.conf", "proxy_read_timeout 120s"),
        ("apache/uws4r.conf", " timeout=120"),
        ("router/uwsgi.ini", "http-timeout = 120"),
    ):
        text = (directory / path).read_text()
        assert line in text
        (directory / path).write_text(text.replace(line, line.replace("120", str(SHORT))))
    return directory


@pytest.fixture
def silent(request: pytest.FixtureRequest, redis_server: RedisServer, database: Path) -> Iterator[Fronts]:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:
        directory = Path(name)
        settings = {"UWS4R_PING_INTERVAL": request.param}
        fronts = Fronts(directory, redis_server, database, with_short_timeouts(directory), settings, timeout=SHORT)
        yield fronts
        fronts.stop()


@pytest.mark.slow
@pytest.mark.parametrize("silent", [0.5], indirect=True)
def test_pings_keep_an_idle_websocket(silent: Fronts) -> None:
    clients = {name: site.join("/ws/idle?subscribe-broadcast") for name, site in silent.sites.items()}
    since = time.monotonic()
    while time.monotonic() - since < 2.5 * SHORT:
        for name, client in clients.items():
            frame = client.frame()
            assert frame.opcode == PING, name
            client.send_raw(masked_frame(PONG, frame.payload))


@pytest.mark.slow
@pytest.mark.parametrize("silent", [2 * SHORT], indirect=True)
def test_without_them_it_is_ended_where_the_table_says_so(silent: Fronts) -> None:
    clients = {name: site.join("/ws/idle?subscribe-broadcast") for name, site in silent.sites.items()}
    for name, client in clients.items():
        if DIFFERENCES["silence that ends a websocket"][name.removesuffix(" TLS")] == "never":
            assert client.frame().opcode == PING, name
        else:
            assert client.ended(), name
