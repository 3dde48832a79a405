"""A websocket client that shows bytes: it says exactly what a test wants, right or wrong."""

import base64
import os
import re
import socket
import zlib
from dataclasses import dataclass, field

from uws4r.rfc6455 import accept_key

TIMEOUT = 10.0  # seconds until a test that waits for something has failed

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


def masked_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    mask: bytes = b"\x37\xfa\x21\x3d",
    reserved: int = 0,
) -> bytes:
    """A client's frame (RFC 6455 §5.2)."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    whole, rest = divmod(size, 4)
    stream = mask * whole + mask[:rest]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")
    return head + mask + masked


def deflated(payload: bytes, window: int = 15, level: int = 6) -> bytes:
    """A message's compressed payload (RFC 7692 §7.2.1)."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window)
    packed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert packed.endswith(b"\0\0\xff\xff")
    return packed[:-4]


def inflated(packed: bytes, window: int = 15) -> bytes:
    return zlib.decompressobj(-window).decompress(packed + b"\0\0\xff\xff")


def close_frame(code: int = 1000, reason: str = "") -> bytes:
    return masked_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


@dataclass
class Response:
    """The answer to a request: of a 101, nothing is read behind the head."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Frame:
    opcode: int
    payload: bytes
    compressed: bool = False  # on the wire

    @property
    def close_code(self) -> int:
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big")


class Refused(Exception):
    """The handshake did not end with 101."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.status}: {response.body!r}")
        self.response = response


@dataclass
class Client:
    """
    One TCP connection to ``address``: ``(host, port)``, or the path of a Unix socket; or an open socket.

    Used as a context manager it is closed at the end, without a close frame.
    """

    address: tuple[str, int] | str | socket.socket
    buffer: bytes = b""
    response: Response | None = None
    window: int = 0  # bits, where compression was agreed on
    sock: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.address, socket.socket):
            self.sock = self.address
            self.sock.settimeout(TIMEOUT)
            return
        self.sock = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        self.sock.settimeout(TIMEOUT)
        try:
            self.sock.connect(self.address)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    # ------------------------------------------------------------ HTTP

    def request(
        self,
        path: str,
        headers: dict[str, str | None] | None = None,
        *,
        method: str = "GET",
        version: str = "HTTP/1.1",
        after: bytes = b"",
        read: bool = True,
    ) -> Response | None:
        """Send an opening handshake; ``headers`` are added to the usual ones, or take them away with None."""
        key = base64.b64encode(os.urandom(16)).decode()
        fields: dict[str, str | None] = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            **(headers or {}),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        self.sock.sendall(f"{method} {path} {version}\r\n{head}\r\n".encode("latin-1") + after)
        if not read:
            return None
        self.response = self.read_response()
        if self.response.status == 101:
            assert self.response.headers["sec-websocket-accept"] == accept_key(fields["Sec-WebSocket-Key"] or "")
            extensions = self.response.headers.get("sec-websocket-extensions", "")
            if extensions.startswith("permessage-deflate"):
                self.window = int((re.findall(r"server_max_window_bits=(\d+)", extensions) or ["15"])[0])
        return self.response

    def read_response(self) -> Response:
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        response = Response(int(first.split(" ")[1]), headers)
        if response.status != 101 and "content-length" in headers:
            while len(self.buffer) < int(headers["content-length"]):
                self._fill()
            response.body, self.buffer = self.buffer, b""
        return response

    # ------------------------------------------------------------ frames

    def _fill(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"the server closed the connection; unread: {self.buffer!r:.200}")
        self.buffer += data

    def _take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._fill()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.sock.sendall(masked_frame(TEXT, message.encode()))
        else:
            self.sock.sendall(masked_frame(BINARY, message))

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def frame(self) -> Frame:
        """The next frame; a server's is whole and unmasked, and compressed only where that was agreed on."""
        first, second = self._take(2)
        compressed = first & 0xF0 == 0xC0 and self.window > 0 and first & 0x0F in (TEXT, BINARY)
        assert first & 0xF0 == 0x80 or compressed, f"first byte {first:#x}"
        assert not second & 0x80, "a server must not mask"
        size = second
        if second == 126:
            size = int.from_bytes(self._take(2), "big")
        elif second == 127:
            size = int.from_bytes(self._take(8), "big")
        payload = self._take(size)
        return Frame(first & 0x0F, inflated(payload, self.window) if compressed else payload, compressed)

    def receive(self) -> str | bytes:
        """The next message; pings are answered and passed over."""
        while True:
            frame = self.frame()
            if frame.opcode == PING:
                self.send_raw(masked_frame(PONG, frame.payload))
            elif frame.opcode == TEXT:
                return frame.payload.decode()
            elif frame.opcode == BINARY:
                return frame.payload
            else:
                raise AssertionError(f"not a message: {frame}")

    def receive_close(self) -> Frame:
        frame = self.frame()
        assert frame.opcode == CLOSE, frame
        return frame

    def ping(self, payload: bytes = b"?") -> list[str | bytes]:
        """Ping, wait for the pong; return the messages that came before it."""
        self.send_raw(masked_frame(PING, payload))
        messages: list[str | bytes] = []
        while True:
            frame = self.frame()
            if frame.opcode == PONG:
                assert frame.payload == payload
                return messages
            assert frame.opcode in (TEXT, BINARY), frame
            messages.append(frame.payload.decode() if frame.opcode == TEXT else frame.payload)

    def ended(self) -> bool:
        """Whether the server ends the connection without sending anything more."""
        try:
            self._fill()
        except (EOFError, ConnectionResetError):
            return True
        return False


def connect(
    address: tuple[str, int] | str | socket.socket, path: str, headers: dict[str, str | None] | None = None
) -> Client:
    """An open websocket."""
    client = Client(address)
    try:
        response = client.request(path, headers)
        assert response is not None
        if response.status != 101:
            raise Refused(response)
    except BaseException:
        client.sock.close()
        raise
    return client
