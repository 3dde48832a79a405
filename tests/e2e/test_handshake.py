"""The opening handshake, row by row, as a real server sees it (RFC 6455 §4.2, RFC 7692 §7.1)."""

from collections.abc import Callable

import pytest

from tests.support.servers import wait_until
from tests.support.site import Site
from tests.support.wire import PING, TEXT, Client, Response, deflated, masked_frame

pytestmark = pytest.mark.e2e

Headers = dict[str, str | None]

ACCEPTED: dict[str, Headers] = {
    "Connection: keep-alive, Upgrade": {"Connection": "keep-alive, Upgrade"},
    "Connection: upgrade": {"Connection": "upgrade"},
    "Connection without spaces": {"Connection": "keep-alive,UPGRADE"},
    "Upgrade: WebSocket": {"Upgrade": "WebSocket"},
    "Upgrade: a list": {"Upgrade": "h2c, websocket"},
    "no Origin": {"Origin": None},
    "own Origin": {"Host": "localhost", "Origin": "http://localhost"},
    "a host with a port": {"Host": "localhost:8000", "Origin": "http://localhost:8000"},
    "Content-Length: 0": {"Content-Length": "0"},
    "unknown extensions": {"Sec-WebSocket-Extensions": "x-unknown; a=b"},
    "cookies that are none": {"Cookie": ";;; =; \x01"},
    "headers nobody asked for": {"X-Forwarded-Host": "evil.example", "Accept-Encoding": "gzip", "Expect": ""},
}

REFUSED: dict[str, tuple[Headers, int, str]] = {
    "no Upgrade": ({"Upgrade": None}, 400, "not wish to upgrade"),
    "plain HTTP": ({"Upgrade": None, "Connection": "close"}, 400, "not wish to upgrade"),
    "Upgrade: h2c": ({"Upgrade": "h2c"}, 400, "not wish to upgrade"),
    "Upgrade: websockets": ({"Upgrade": "websockets"}, 400, "not wish to upgrade"),
    "empty Upgrade": ({"Upgrade": ""}, 400, "not wish to upgrade"),
    "no Connection": ({"Connection": None}, 400, "Connection: Upgrade"),
    "Connection: keep-alive": ({"Connection": "keep-alive"}, 400, "Connection: Upgrade"),
    "Connection: close": ({"Connection": "close"}, 400, "Connection: Upgrade"),
    "Connection: upgraded": ({"Connection": "upgraded"}, 400, "Connection: Upgrade"),
    "no version": ({"Sec-WebSocket-Version": None}, 426, "13"),
    "version 8": ({"Sec-WebSocket-Version": "8"}, 426, "13"),
    "version 013": ({"Sec-WebSocket-Version": "013"}, 426, "13"),
    "version 13, 8": ({"Sec-WebSocket-Version": "13, 8"}, 426, "13"),
    "version thirteen": ({"Sec-WebSocket-Version": "thirteen"}, 426, "13"),
    "no key": ({"Sec-WebSocket-Key": None}, 400, "Sec-WebSocket-Key"),
    "empty key": ({"Sec-WebSocket-Key": ""}, 400, "Sec-WebSocket-Key"),
    "short key": ({"Sec-WebSocket-Key": "abc"}, 400, "Sec-WebSocket-Key"),
    "key of 15 bytes": ({"Sec-WebSocket-Key": "MTIzNDU2Nzg5MDEyMzQ1"}, 400, "Sec-WebSocket-Key"),
    "key of 17 bytes": ({"Sec-WebSocket-Key": "MTIzNDU2Nzg5MDEyMzQ1Njc="}, 400, "Sec-WebSocket-Key"),
    "key without its padding": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ"}, 400, "Sec-WebSocket-Key"),
    "key that is not base64": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25j!!=="}, 400, "Sec-WebSocket-Key"),
    "two keys": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="}, 400, "Sec-WebSocket-Key"),
    "foreign Origin": ({"Origin": "http://evil.example"}, 403, "Origin"),
    "Origin: null": ({"Origin": "null"}, 403, "Origin"),
    "unknown host": ({"Host": "evil.example"}, 400, "ALLOWED_HOSTS"),
    "host that is none": ({"Host": "local host"}, 400, "ALLOWED_HOSTS"),
    "no host": ({"Host": None}, 400, "ALLOWED_HOSTS"),
    "subprotocols that are no tokens": ({"Sec-WebSocket-Protocol": "chat, a chat"}, 400, "list of tokens"),
    "extensions that are no list": ({"Sec-WebSocket-Extensions": "permessage-deflate;;"}, 400, "list of extensions"),
}


def answer(site: Site, headers: Headers, **request: str) -> Response:
    with Client(site.address) as client:
        response = client.request("/ws/foo", headers, **request)  # type: ignore[arg-type]
        assert response is not None
        return response


@pytest.mark.parametrize("headers", ACCEPTED.values(), ids=ACCEPTED)
def test_a_handshake_is_accepted(site: Site, headers: Headers) -> None:
    client = site.connect("/ws/foo", headers)
    assert client.response is not None
    assert set(client.response.headers) == {"upgrade", "connection", "sec-websocket-accept"}
    assert client.response.headers["upgrade"] == "websocket"
    assert client.response.headers["connection"] == "Upgrade"
    client.ping()


def assert_refused(response: Response, status: int, sentence: str) -> None:
    assert (response.status, sentence in response.body.decode()) == (status, True), response
    assert response.body.count(b"\n") == 1
    assert "sec-websocket-accept" not in response.headers
    assert (response.headers.get("sec-websocket-version") == "13") == (status == 426)


@pytest.mark.parametrize(("headers", "status", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_handshake_is_refused_with_a_sentence(site: Site, headers: Headers, status: int, sentence: str) -> None:
    assert_refused(answer(site, headers), status, sentence)


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "CONNECT", "get", "HEAD"])
def test_only_get_opens_a_websocket(site: Site, method: str) -> None:
    assert_refused(answer(site, {"Content-Length": "0"}, method=method), 400, "GET" if method != "HEAD" else "")


def test_http_1_0_has_no_websockets(site: Site) -> None:
    assert_refused(answer(site, {}, version="HTTP/1.0"), 400, "1.1")


# ---------------------------------------------------------------- subprotocols


@pytest.mark.parametrize(
    ("spoken", "offered", "chosen"),
    [
        ([], None, None),
        ([], "chat", "chat"),
        ([], "chat, superchat", "chat"),
        ([], " superchat ,chat", "superchat"),
        (["chat.v2", "chat.v1"], "chat.v1, chat.v2", "chat.v1"),
        (["chat.v2", "chat.v1"], "other, chat.v2", "chat.v2"),
        (["chat.v2", "chat.v1"], "other", None),
        (["chat.v2"], None, None),
        (["chat.v2"], "CHAT.V2", None),
    ],
)
def test_one_subprotocol_is_chosen_never_a_list(
    served: Callable[..., Site], spoken: list[str], offered: str | None, chosen: str | None
) -> None:
    """BUG-P4: a list in the answer makes browsers give up."""
    site = served(settings={"UWS4R_SUBPROTOCOLS": spoken})
    client = site.connect("/ws/foo", {"Sec-WebSocket-Protocol": offered})
    assert client.response is not None
    assert client.response.headers.get("sec-websocket-protocol") == chosen
    client.ping()


# ---------------------------------------------------------------- compression

DEFLATE: Headers = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


def test_a_client_that_offers_compression_gets_it(site: Site) -> None:
    client = site.connect("/ws/foo?subscribe-broadcast&publish-broadcast&echo", DEFLATE)
    assert client.response is not None
    assert client.response.headers["sec-websocket-extensions"] == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    )
    client.send_raw(masked_frame(TEXT, deflated(b"short"), reserved=4))
    frame = client.frame()
    assert (frame.payload, frame.compressed) == (b"short", False)
    client.send_raw(masked_frame(TEXT, deflated(b"long " * 200), reserved=4))
    frame = client.frame()
    assert (frame.payload, frame.compressed) == (b"long " * 200, True)


def test_compression_may_be_switched_off(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_COMPRESSION": None})
    client = site.connect("/ws/foo", DEFLATE)
    assert client.response is not None
    assert "sec-websocket-extensions" not in client.response.headers
    client.send_raw(masked_frame(TEXT, deflated(b"hello"), reserved=4))
    assert client.receive_close().close_code == 1002


def test_the_length_from_which_on_is_a_setting(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_COMPRESSION": 100})
    client = site.join("/ws/foo?subscribe-broadcast")
    client.sock.close()
    client = site.connect("/ws/foo?subscribe-broadcast&publish-broadcast&echo", DEFLATE)
    for size in (100, 101):
        client.send("x" * size)
        assert client.frame().compressed == (size > 100)


# ---------------------------------------------------------------- time


def test_bytes_behind_the_handshake_in_the_same_segment_do_no_harm(site: Site) -> None:
    """RFC 6455 §4.1 forbids it; whether they are lost is not defined, that nothing hangs is."""
    for early in (
        masked_frame(TEXT, b"early"),
        masked_frame(PING),
        masked_frame(TEXT, b"x" * 1000)[:500],
        b"\0" * 5000,
    ):
        with Client(site.address) as client:
            response = client.request("/ws/foo?publish-broadcast", after=early)
            assert response is not None
            assert response.status == 101
    site.connect("/ws/foo").ping()


def test_a_handshake_in_small_pieces(site: Site) -> None:
    with Client(site.address) as client:
        head = (
            b"GET /ws/foo?subscribe-broadcast HTTP/1.1\r\nHost: localhost\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        for start in range(0, len(head), 10):
            client.send_raw(head[start : start + 10])
        response = client.read_response()
        assert response.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        wait_until(lambda: site.redis.subscriptions("broadcast:foo") > 0, "open")
        client.ping()
