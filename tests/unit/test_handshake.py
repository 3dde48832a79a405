"""What a request must be to become a websocket (RFC 6455 §4.2.1)."""

import pytest

from uws4r.errors import HandshakeError
from uws4r.handshake import accept_headers, check_handshake, checked_headers, choose_protocol

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": KEY,
}


def test_the_example_of_the_rfc() -> None:
    assert check_handshake(GOOD) == KEY
    assert accept_headers(KEY, "chat") == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("Sec-WebSocket-Protocol", "chat"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"HTTP_CONNECTION": "keep-alive, Upgrade"},
        {"HTTP_CONNECTION": "upgrade"},
        {"HTTP_UPGRADE": "WebSocket"},
        {"HTTP_UPGRADE": "h2c, websocket"},
        {"HTTP_SEC_WEBSOCKET_VERSION": " 13 "},
    ],
)
def test_spelling_does_not_matter(change: dict[str, str]) -> None:
    assert check_handshake({**GOOD, **change}) == KEY


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"REQUEST_METHOD": "POST"}, 400, "GET"),
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, 400, "1.1"),
        ({"SERVER_PROTOCOL": "HTTP/2"}, 400, "1.1"),
        ({"HTTP_UPGRADE": ""}, 400, "upgrade to a websocket"),
        ({"HTTP_UPGRADE": "websockets"}, 400, "upgrade to a websocket"),
        ({"HTTP_CONNECTION": "keep-alive"}, 400, "Connection"),
        ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, 426, "13"),
        ({"HTTP_SEC_WEBSOCKET_VERSION": ""}, 426, "13"),
        ({"HTTP_SEC_WEBSOCKET_KEY": ""}, 400, "Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "abc"}, 400, "Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "x" * 24}, 400, "Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZTEyMw=="}, 400, "Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25j\u20acZQ=="}, 400, "Key"),
    ],
)
def test_refusals(change: dict[str, str], status: int, sentence: str) -> None:
    with pytest.raises(HandshakeError, match=sentence) as caught:
        check_handshake({**GOOD, **change})
    assert caught.value.status == status
    assert (status == 426) == (("Sec-WebSocket-Version", "13") in caught.value.headers)


def test_one_subprotocol_is_chosen_never_a_list() -> None:
    assert choose_protocol({}) is None
    assert choose_protocol({"HTTP_SEC_WEBSOCKET_PROTOCOL": "chat.v2, chat"}) == "chat.v2"
    with pytest.raises(HandshakeError):
        choose_protocol({"HTTP_SEC_WEBSOCKET_PROTOCOL": "chat\r\nX-Evil: 1"})


def test_spoken_subprotocols_only() -> None:
    offer = {"HTTP_SEC_WEBSOCKET_PROTOCOL": "chat.v3, chat.v1, chat.v2"}
    assert choose_protocol(offer, ["chat.v2", "chat.v1"]) == "chat.v1"
    assert choose_protocol(offer, ["chat.v4"]) is None


@pytest.mark.parametrize("bad", ["chat\r\nX-Evil: 1", "chat\n", "\rchat", "chat\0", "ch\x7fat", "caf\u00e9"])
def test_nothing_that_would_end_a_header_goes_into_one(bad: str) -> None:
    with pytest.raises(ValueError, match="not a header"):
        accept_headers(bad)
    with pytest.raises(ValueError, match="not a header"):
        accept_headers(KEY, bad)
    with pytest.raises(ValueError, match="not a header"):
        accept_headers(KEY, "chat", bad)
    with pytest.raises(ValueError, match="not a header"):
        checked_headers([("X-Reason", bad)])
    with pytest.raises(ValueError, match="not a header"):
        checked_headers([(bad, "reason")])
