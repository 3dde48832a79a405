"""
The opening handshake of RFC 6455 §4.2: what a request must be, and what the 101 says.

Looks at the WSGI environ only; who the client is and what it may do is decided in ``access``.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any

from uws4r.errors import HandshakeError
from uws4r.rfc6455 import VERSION, accept_key

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2


def _tokens(value: str) -> list[str]:
    return [token.strip() for token in value.split(",") if token.strip()]


def check_handshake(environ: Mapping[str, Any]) -> str:
    """
    Return the client's ``Sec-WebSocket-Key``.

    Raises:
        HandshakeError: The request is no opening handshake (§4.2.1); says what is wrong with it.
    """
    if environ.get("REQUEST_METHOD") != "GET":
        raise HandshakeError("HTTP method must be a GET")
    if "websocket" not in map(str.lower, _tokens(environ.get("HTTP_UPGRADE", ""))):
        raise HandshakeError("Client does not wish to upgrade to a websocket: this address speaks nothing else")
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        raise HandshakeError("HTTP server protocol must be 1.1")
    if "upgrade" not in map(str.lower, _tokens(environ.get("HTTP_CONNECTION", ""))):
        raise HandshakeError("The header Connection: Upgrade is missing")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != str(VERSION):
        raise HandshakeError(
            f"The only version of the protocol spoken here is {VERSION}",
            status=426,
            headers=(("Sec-WebSocket-Version", str(VERSION)), ("Upgrade", "websocket")),
        )
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()
    try:
        valid = len(b64decode(key, validate=True)) == 16
    except (Base64Error, ValueError):
        valid = False
    if not valid:
        raise HandshakeError("Sec-WebSocket-Key must be 16 bytes in base64")
    return key


def choose_protocol(environ: Mapping[str, Any]) -> str | None:
    """
    Return one of the subprotocols that the client offers, or None where it offers none (§4.2.2).

    Raises:
        HandshakeError: The offer is not a list of tokens.
    """
    offered = _tokens(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""))
    for name in offered:
        if not TOKEN.fullmatch(name):
            raise HandshakeError("Sec-WebSocket-Protocol must be a list of tokens")
    # A browser gives up when it offered some and is told none.
    return offered[0] if offered else None


def accept_headers(key: str, protocol: str | None) -> list[tuple[str, str]]:
    """Return the headers of the 101 (§4.2.2)."""
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))]
    if protocol is not None:
        headers.append(("Sec-WebSocket-Protocol", protocol))
    return headers
