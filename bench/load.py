"""A load generator: many websockets in one thread, every message checked."""

import os
import select
import socket
import time
from dataclasses import dataclass, field

import redis

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{cookie}\r\n"
)


def open_websockets(
    address: tuple[str, int], paths: list[str], cookies: list[str] | None = None
) -> list[socket.socket]:
    """Open one websocket for each path; fifty handshakes are under way at a time."""
    sockets: list[socket.socket] = []
    for start in range(0, len(paths), 50):
        group = []
        for index, path in enumerate(paths[start : start + 50], start):
            client = socket.create_connection(address)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            cookie = f"Cookie: sessionid={cookies[index]}\r\n" if cookies else ""
            client.sendall(HANDSHAKE.format(path=path, cookie=cookie).encode())
            group.append(client)
        for client in group:
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(1)  # what follows belongs to somebody else
                if not data:
                    raise ConnectionError(f"refused: {head!r}")
                head += data
            if b" 101 " not in head:
                raise ConnectionError(f"refused: {head!r}")
        sockets += group
    return sockets


def receive_exactly(client: socket.socket, expected: bytes) -> None:
    """Wait for these bytes, and for no others."""
    data = b""
    while len(data) < len(expected):
        more = client.recv(len(expected) - len(data))
        if not more:
            raise ConnectionError(f"closed after {data!r}")
        data += more
    if data != expected:
        raise ConnectionError(f"received {data!r}, not {expected!r}")


@dataclass
class Fanout:
    """What one run has seen."""

    clients: int
    messages: int = 0
    deliveries: int = 0
    wrong: int = 0  # lost, doubled, out of order or corrupt
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds from a publish to a client's receipt, a sample

    def percentile(self, part: float) -> float:
        """Milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1000 if ordered else 0.0


def payload(number: int, size: int) -> bytes:
    """Message number so and so: the number, then the same filling as all others."""
    return b"%012d" % number + b"." * (size - 12)


def frame_of(data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        return bytes([0x81, size]) + data
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + data
    return b"\x81\x7f" + size.to_bytes(8, "big") + data


def fanout(
    sockets: list[socket.socket], publisher: redis.Redis, channel: str, size: int, window: int, seconds: float
) -> Fanout:
    """Publish to all, ``window`` messages in flight, and check what each client receives, byte for byte."""
    result = Fanout(len(sockets))
    poll = select.epoll()
    for client in sockets:
        client.setblocking(False)
        poll.register(client.fileno(), select.EPOLLIN)
    received = dict.fromkeys((client.fileno() for client in sockets), 0)  # bytes
    frame_size = len(frame_of(payload(0, size)))
    published_at: list[float] = []
    stream = bytearray()  # all frames so far, as every client has to receive them
    begin = time.monotonic()
    deadline = begin + seconds
    behind = set(received)  # clients that miss something of what was published

    def publish(count: int) -> None:
        pipeline = publisher.pipeline(transaction=False)
        for _ in range(count):
            number = len(published_at)
            published_at.append(time.monotonic())
            stream.extend(frame_of(payload(number, size)))
            pipeline.publish(channel, payload(number, size))
        pipeline.execute()

    publish(window)
    last_progress = begin
    while behind or time.monotonic() < deadline:
        ready = poll.poll(1.0, 1024)
        now = time.monotonic()
        if not ready and now - last_progress > 5:
            break
        for fd, _ in ready:
            data = os.read(fd, 1 << 20)
            have = received[fd]
            expected = memoryview(stream)[have : have + len(data)]
            if expected != data or not data:
                result.wrong += 1
                poll.unregister(fd)
                behind.discard(fd)
                expected.release()
                continue
            expected.release()
            received[fd] = have + len(data)
            first, last = have // frame_size, (have + len(data)) // frame_size
            if fd % 16 == 0:
                result.latencies += [now - at for at in published_at[first:last]]
            if received[fd] == len(stream):
                behind.discard(fd)
            last_progress = now
        if not behind and now < deadline:
            behind = set(received)
            publish(window)
    result.seconds = time.monotonic() - begin
    result.messages = len(published_at)
    result.deliveries = sum(size // frame_size for size in received.values())
    result.wrong += sum(1 for have in received.values() if have != len(stream))
    poll.close()
    return result
