"""Clients that behave badly, and one that watches what becomes of the others."""

import random
import socket
import struct
import threading
import time

from tests.support.site import Site
from tests.support.wire import Client, masked_frame

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{more}"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
COMPRESSED = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


def handshake(path: str, more: str = "") -> bytes:
    return HANDSHAKE.format(path=path, more=more).encode()


def deaf_client(site: Site, path: str) -> Client:
    """An open websocket with next to no room for what it does not read."""
    sock = socket.socket()
    # Set before connecting: it limits the window, and with it what the server's kernel takes off the hub.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(site.address)
    client = Client(sock)
    site.opened.append(client)
    response = client.request(path)
    assert response is not None
    assert response.status == 101, response
    return client


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def frames_in(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Take all whole frames of a server off a buffer: ``(first byte, payload)``."""
    frames = []
    start, end = 0, len(buffer)
    while end - start >= 2:
        size, head = buffer[start + 1], 2
        if size == 126:
            size, head = int.from_bytes(buffer[start + 2 : start + 4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(buffer[start + 2 : start + 10], "big"), 10
        if end - start < head + size:
            break
        frames.append((buffer[start], bytes(buffer[start + head : start + head + size])))
        start += head + size
    del buffer[:start]
    return frames


class Sentinel:
    """
    A well-behaved client beside the others: it publishes and receives all the time, and checks every byte.

    Used as a context manager; what goes wrong with it is raised at the end.
    """

    def __init__(self, site: Site, facility: str = "sentinel") -> None:
        self.client = site.join(f"/ws/{facility}?subscribe-broadcast&publish-broadcast&echo")
        self.turns = 0
        self.slowest = 0.0  # seconds
        self.error: BaseException | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        sizes = random.Random(1)
        try:
            while not self._ending.wait(0.001):
                message = f"{self.turns} ".encode().ljust(sizes.choice([20, 200, 2000, 70_000]), b"s")
                begin = time.monotonic()
                self.client.send_raw(masked_frame(1, message))
                frame = self.client.frame()
                while frame.opcode == 9:
                    frame = self.client.frame()
                assert (frame.opcode, frame.payload) == (1, message), f"{frame!r:.200}"
                self.slowest = max(self.slowest, time.monotonic() - begin)
                self.turns += 1
        except BaseException as error:
            self.error = error

    @property
    def broken(self) -> bool:
        return self.error is not None

    def __enter__(self) -> "Sentinel":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._ending.set()
        self._thread.join()
        if kind is None:
            if self.error is not None:
                raise AssertionError("the sentinel") from self.error
            assert self.turns > 0
