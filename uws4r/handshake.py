"""
The opening handshake of RFC 6455 §4.2: what a request must be, and what the 101 says.

The only extension is permessage-deflate (RFC 7692), without taking over any context.

Looks at the WSGI environ only; who the client is and what it may do is decided in ``access``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from uws4r.errors import HandshakeError
from uws4r.rfc6455 import VERSION, accept_key

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
# RFC 6455 §9.1: a name, then parameters, whose values may be quoted.
PARAMETER = re.compile(rf'\s*;\s*({TOKEN.pattern})(?:\s*=\s*("?)({TOKEN.pattern})\2)?\s*')
WINDOW_BITS = re.compile("[89]|1[0-5]")
# Bits of the windows within which messages are compressed. Each window in use costs another compression of each
# message; a client that wants less than the wide one gets the narrow one (RFC 7692 §7.1.2.1).
NARROW, WIDE = 9, 15
# In an environ.
UPGRADE, PROTOCOL, EXTENSIONS = "HTTP_UPGRADE", "HTTP_SEC_WEBSOCKET_PROTOCOL", "HTTP_SEC_WEBSOCKET_EXTENSIONS"
SPOKEN = str(VERSION)  # in Sec-WebSocket-Version
LONGEST_OFFER = 1000  # characters of Sec-WebSocket-Extensions; browsers' have 50
KEY = re.compile("[A-Za-z0-9+/]{22}==")  # 16 bytes in base64


def _tokens(value: str) -> list[str]:
    return [token.strip() for token in value.split(",") if token.strip()]


def _names(value: str, token: str) -> bool:
    """Whether a list has a token, however it is spelled."""
    value = value.lower()
    return value == token or token in _tokens(value)


def check_handshake(environ: Mapping[str, Any]) -> str:
    """
    Return the client's ``Sec-WebSocket-Key``.

    Raises:
        HandshakeError: The request is no opening handshake (§4.2.1); says what is wrong with it.
    """
    if environ.get("REQUEST_METHOD") != "GET":
        raise HandshakeError("HTTP method must be a GET")
    if not _names(environ.get(UPGRADE, ""), "websocket"):
        raise HandshakeError("Client does not wish to upgrade to a websocket: this address speaks nothing else")
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        raise HandshakeError("HTTP server protocol must be 1.1")
    if not _names(environ.get("HTTP_CONNECTION", ""), "upgrade"):
        raise HandshakeError("The header Connection: Upgrade is missing")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != SPOKEN:
        raise HandshakeError(
            f"The only version of the protocol spoken here is {VERSION}",
            status=426,
            headers=(("Sec-WebSocket-Version", SPOKEN), ("Upgrade", "websocket")),
        )
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()
    if not KEY.fullmatch(key):
        raise HandshakeError("Sec-WebSocket-Key must be 16 bytes in base64")
    return key


def choose_protocol(environ: Mapping[str, Any], spoken: Sequence[str] = ()) -> str | None:
    """
    Return the first of the subprotocols that the client offers, in its order of preference, or None (§4.2.2).

    Args:
        spoken: Those that may be chosen; none given: any.
    Raises:
        HandshakeError: The offer is not a list of tokens.
    """
    offered = _tokens(environ.get(PROTOCOL, ""))
    for name in offered:
        if not TOKEN.fullmatch(name):
            raise HandshakeError("Sec-WebSocket-Protocol must be a list of tokens")
    # A browser gives up when it offered some and is told none.
    return next((name for name in offered if not spoken or name in spoken), None)


class Accepted(NamedTuple):
    """A handshake that ends with a 101."""

    key: str  # the client's
    protocol: str | None
    headers: list[tuple[str, str]]  # of the 101


class Compression(NamedTuple):
    """What was agreed on (RFC 7692 §7.1)."""

    window: int  # NARROW or WIDE: bits of the window within which messages to the client are compressed
    header: str  # the answer in ``Sec-WebSocket-Extensions``


def choose_compression(environ: Mapping[str, Any]) -> Compression | None:
    """
    Return the answer to the first offer of permessage-deflate that can be accepted, or None.

    Raises:
        HandshakeError: The offers are no list of extensions, or it is too long.
    """
    header = environ.get(EXTENSIONS, "")
    if len(header) > LONGEST_OFFER:
        raise HandshakeError("Sec-WebSocket-Extensions is too long")
    return _answer(header)


@lru_cache(maxsize=16)  # browsers have two ways to put it
def _answer(header: str) -> Compression | None:
    for name, parameters in list(_offers(header)):
        if name == "permessage-deflate" and (answer := _accept_offer(parameters)) is not None:
            return answer
    return None


def _offers(header: str) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    position = 0
    header = header.strip()
    while position < len(header):
        if header[position] in ", \t":  # a list may have empty elements (RFC 9110 §5.6.1)
            position += 1
            continue
        name = TOKEN.match(header, position)
        if name is None:
            break
        position = name.end()
        parameters = []
        while (parameter := PARAMETER.match(header, position)) is not None:
            parameters.append((parameter[1], parameter[3]))
            position = parameter.end()
        yield name[0], parameters
        rest = header[position:].lstrip()
        if rest and not rest.startswith(","):
            break
    else:
        return
    raise HandshakeError("Sec-WebSocket-Extensions must be a list of extensions")


def _accept_offer(parameters: list[tuple[str, str | None]]) -> Compression | None:
    """Return the answer to one offer; None where it has to be declined (RFC 7692 §7.1)."""
    given = dict(parameters)
    if len(given) < len(parameters):
        return None
    asked = given.pop("server_max_window_bits", str(WIDE))
    client_window = given.pop("client_max_window_bits", None)
    for name in ("server_no_context_takeover", "client_no_context_takeover"):
        if given.pop(name, None) is not None:
            return None
    if given or asked is None or not WINDOW_BITS.fullmatch(asked) or int(asked) < NARROW:  # zlib has no window of 8
        return None
    if client_window is not None and not WINDOW_BITS.fullmatch(client_window):
        return None
    header = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    window = WIDE if int(asked) == WIDE else NARROW
    if "server_max_window_bits" in dict(parameters):
        header += f"; server_max_window_bits={window}"
    return Compression(window, header)


def accept_headers(key: str, protocol: str | None = None, extensions: str | None = None) -> list[tuple[str, str]]:
    """
    Return the headers of the 101 (§4.2.2).

    Raises:
        ValueError: An argument has characters that end a header, or that no header may have.
    """
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))]
    if protocol is not None:
        headers.append(("Sec-WebSocket-Protocol", protocol))
    if extensions is not None:
        headers.append(("Sec-WebSocket-Extensions", extensions))
    given = f"{key}{protocol or ''}{extensions or ''}"  # in one look; the names are ours
    if not given.isascii() or not given.isprintable():
        raise ValueError(f"not a header of HTTP: {given!r}")
    return headers


def checked_headers(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """
    Return headers of an answer.

    Raises:
        ValueError: One has characters that end a header, or that no header may have (RFC 9110 §5.5).
    """
    for name, value in headers:
        if not TOKEN.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise ValueError(f"not a header of HTTP: {name!r}: {value!r}")
    return list(headers)
