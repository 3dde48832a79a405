"""
A websocket client that blocks, with a time limit for all that it does: what the doctor sees of a site's front.

It says what happened and judges nothing; ``diagnosis`` does. Errors are those of sockets and of TLS, and
:class:`~uws4r.errors.ProtocolError` for what is no websocket. It knows the codec; Django is unknown to it.
"""

import os
import re
import socket
import ssl
import time
import zlib
from base64 import b64encode
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from uws4r._decoder import unmask
from uws4r._frames import encode_close, encode_frame
from uws4r.errors import ProtocolError
from uws4r.rfc6455 import VERSION, CloseCode, Opcode, accept_key
from uws4r.threads import within

HEAD_LIMIT = 1 << 16  # bytes of an answer's head
BODY_LIMIT = 1 << 16  # bytes of its body; a page says in its first lines whose it is
FRAME_LIMIT = 1 << 20  # bytes of a frame; the doctor publishes nothing longer


class Target(NamedTuple):
    """Where the websockets are."""

    secure: bool
    host: str  # without the brackets of an IPv6 address
    port: int
    path: str  # in front of the facility

    @property
    def authority(self) -> str:
        """The header ``Host``, as browsers write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """The Origin of the site's own pages."""
        return f"{'https' if self.secure else 'http'}://{self.authority}"

    @property
    def url(self) -> str:
        """The address of the websockets."""
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.path}"


def parse_target(url: str, websocket_url: str) -> Target:
    """
    Return where the websockets of a site are.

    Args:
        url: Of the site, ``https://www.example.com/``; or of its websockets, ``wss://www.example.com/ws/``.
        websocket_url: The setting; added to the address of a site.
    Raises:
        ValueError: It is no such URL; says what is wrong with it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ws", "wss"):
        raise ValueError("begin it with https://, http://, wss:// or ws://")
    if "@" in parts.netloc or not parts.hostname:
        raise ValueError("a host has to follow ://, without user and password")
    port = parts.port  # a ValueError says what is wrong with it
    host = parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode()
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~") or "/"
    if not path.endswith("/"):
        path += "/"
    exact = parts.scheme in ("ws", "wss") and path != "/"
    if not exact and not path.endswith(websocket_url):
        path = path.removesuffix("/") + quote(websocket_url)
    secure = parts.scheme in ("https", "wss")
    return Target(secure, host, port if port is not None else (443 if secure else 80), path)


class Answer(NamedTuple):
    """What a server has answered; ``status`` 0: it was no HTTP, and ``body`` is all that came."""

    status: int
    reason: str
    headers: dict[str, str]  # names in small letters; of several the last
    body: bytes

    @property
    def text(self) -> str:
        """The body, readable as far as it can be made so."""
        body = self.body
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            body = _unchunked(body)
        if self.headers.get("content-encoding", "").lower() in ("gzip", "deflate"):
            try:
                body = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, BODY_LIMIT)
            except zlib.error:  # it may have been cut
                return ""
        return body.decode("utf-8", "replace")


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while (head := re.match(rb"([0-9A-Fa-f]{1,8})[^\r\n]*\r\n", body)) is not None:
        size = int(head[1], 16)
        whole += body[head.end() : head.end() + size]
        body = body[head.end() + size + 2 :]
    return whole


def parse_answer(data: bytes) -> Answer:
    """Return what these bytes say, all that a server has sent."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status = re.fullmatch(r"HTTP/\d\.\d (\d{3}) ?(.*)", first)
    if status is None:
        return Answer(0, "", {}, data)
    fields = (line.partition(":") for line in lines)
    return Answer(int(status[1]), status[2], {name.lower(): value.strip() for name, _, value in fields}, body)


def resolve(host: str, port: int, timeout: float) -> list[tuple[Any, ...]]:
    """
    Return the addresses of a host, as ``socket.getaddrinfo`` does.

    Raises:
        OSError: It has none, or nobody says so in time.
    """
    return within(timeout, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def reach(address: tuple[Any, ...], timeout: float) -> socket.socket:
    """
    Return a socket that is connected to one of the addresses of :func:`resolve`.

    Raises:
        OSError: It cannot be.
    """
    family, kind, protocol, _, name = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(timeout)
        connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


def secured(connection: socket.socket, host: str, timeout: float, trusting: bool = False) -> ssl.SSLSocket:
    """
    Return the socket with TLS on it, as browsers would speak it.

    Args:
        trusting: Take any certificate.
    Raises:
        OSError: No TLS, or a certificate that is not trusted; the socket is closed then.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])  # what is chosen otherwise has no Upgrade
    if trusting:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    connection.settimeout(timeout)
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


class Probe:
    """
    One connection to a site, that becomes a websocket.

    Args:
        connection: Connected, with TLS where the site has it; :meth:`close` closes it.
        timeout: Seconds for each thing that is sent.
    """

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._socket = connection
        self._timeout = timeout
        self._buffer = b""
        self.pings = 0  # of the server
        self.pinged = 0.0  # when the last one came; of the monotonic clock

    def close(self) -> None:
        """Say goodbye, if there is anybody to say it to."""
        try:
            self._send(Opcode.CLOSE, encode_close(CloseCode.NORMAL))
        except OSError:
            pass
        self._socket.close()

    # ------------------------------------------------------------ HTTP

    def ask(self, path: str, headers: dict[str, str], timeout: float) -> Answer:
        """
        Send an opening handshake, and return what is answered.

        Args:
            path: With its query.
            headers: Besides those that each handshake has.
        Raises:
            TimeoutError: No head of an answer within ``timeout`` seconds.
            OSError: The connection broke.
            ProtocolError: The answer is a 101 that does not answer this handshake.
        """
        deadline = time.monotonic() + timeout
        key = b64encode(os.urandom(16)).decode()
        fields = {
            **headers,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": str(VERSION),
            "Sec-WebSocket-Key": key,
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self._socket.settimeout(self._timeout)
        self._socket.sendall("\r\n".join(lines).encode("latin-1"))
        while b"\r\n\r\n" not in self._buffer and len(self._buffer) < HEAD_LIMIT:
            if not self._buffer.startswith(b"HTTP/"[: len(self._buffer)]) or not self._fill(deadline):
                break
        answer = parse_answer(self._buffer)
        if answer.status != 101:
            return self._whole(answer, deadline)
        self._buffer = answer.body
        if answer.headers.get("sec-websocket-accept") != accept_key(key):
            raise ProtocolError("Sec-WebSocket-Accept does not answer the key that was sent")
        return answer._replace(body=b"")

    def _whole(self, answer: Answer, deadline: float) -> Answer:
        """Return the answer with as much of its body as comes; a body that does not end is none of our concern."""
        length = answer.headers.get("content-length", "")
        size = min(int(length), BODY_LIMIT) if length.isascii() and length.isdigit() else BODY_LIMIT
        try:
            while answer.status and len(answer.body) < size and not answer.body.endswith(b"\r\n0\r\n\r\n"):
                if not self._fill(deadline):
                    break
                answer = parse_answer(self._buffer)
        except OSError:
            pass
        return answer

    # ------------------------------------------------------------ frames

    def _fill(self, deadline: float) -> bool:
        """Read what comes; return whether there was any before the end."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("nothing came in time")
        self._socket.settimeout(left)
        data = self._socket.recv(1 << 16)
        self._buffer += data
        return bool(data)

    def _send(self, opcode: int, payload: bytes = b"") -> None:
        self._socket.settimeout(self._timeout)
        self._socket.sendall(masked(opcode, payload))

    def ping(self, payload: bytes) -> None:
        """Send a ping."""
        self._send(Opcode.PING, payload)

    def receive(self, deadline: float) -> tuple[int, bytes]:
        """
        Return opcode and payload of the next frame that is no ping; pings are answered.

        Args:
            deadline: Of the monotonic clock.
        Raises:
            TimeoutError: Nothing whole has come until then.
            EOFError: The connection has ended, without a close frame.
            OSError: It broke.
            ProtocolError: What came is no frame of a server.
        """
        while True:
            while (frame := parse_frame(self._buffer)) is None:
                if not self._fill(deadline):
                    raise EOFError("the connection has ended")
            opcode, payload, size = frame
            self._buffer = self._buffer[size:]
            if opcode != Opcode.PING:
                return opcode, payload
            self.pings += 1
            self.pinged = time.monotonic()
            self._send(Opcode.PONG, payload)


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a frame as clients send it (RFC 6455 §5.3)."""
    frame = bytearray(encode_frame(payload, opcode))
    head = frame[: len(frame) - len(payload)]
    head[1] |= 0x80
    key = os.urandom(4)
    body = bytearray(payload)
    unmask(body, key)  # masking and unmasking are the same
    return bytes(head) + key + body


def parse_frame(data: bytes) -> tuple[int, bytes, int] | None:
    """
    Return opcode, payload and size of the server's frame at the beginning, None where it is not whole yet.

    Raises:
        ProtocolError: These bytes are no such frame (§5.1, §5.2); nothing is compressed that nobody has offered.
    """
    if len(data) < 2:
        return None
    if data[0] & 0x70 or data[1] & 0x80:
        raise ProtocolError("what came is no frame of a websocket server")
    size, start = data[1], 2
    if size > 125:
        start = 4 if size == 126 else 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start], "big")
        if size > FRAME_LIMIT:
            raise ProtocolError(f"a frame of {size} bytes came, which nobody has published")
    if len(data) < start + size:
        return None
    return data[0] & 0x0F, data[start : start + size], start + size
