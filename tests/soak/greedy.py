"""
Clients that send all the time, each within every limit, and what becomes of those beside them.

They are driven from a process of their own, as fast as the server takes it and their rates allow.
"""

import multiprocessing
import select
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.soak.clients import COMPRESSED, handshake
from tests.support.site import Site
from tests.support.wire import BINARY, CLOSE, PING, TEXT, Client, connect, masked_frame

PATH = "/ws/greedy?publish-broadcast"
LATE = 0.1  # seconds within which 99 of 100 messages of a client beside them come back
PINGS = {"UWS4R_PING_INTERVAL": 1.0, "UWS4R_PING_TIMEOUT": 2.0}  # of a site that finds out soon who does not answer
RATE = 900  # messages a second of one client, of 1,000 that it may send
BYTES = 9 << 20  # the same, inflated


def empty_blocks(count: int) -> bytes:
    """So many blocks of deflate, in eights, that stand for nothing, each with codes of its own: the dearest bytes."""
    # RFC 1951 §3.2.7. Two codes of one bit, for 0 and for the block's end, and none for distances.
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    fields = [(0, 1), (2, 2), (0, 5), (10, 5), (len(order) - 4, 4)]
    fields += [(int(symbol in (1, 18)), 3) for symbol in order]
    one, zeros = (0, 1), (1, 1)  # the codes of "length 1", and of "so many zeros"
    fields += [one, zeros, (138 - 11, 7), zeros, (117 - 11, 7), one, zeros, (0, 7)]
    fields += [(1, 1)]  # the block's end
    bits = position = 0
    for _ in range(8):  # so many make whole bytes
        for value, width in fields:
            bits |= value << position
            position += width
    # A stored block of no length ends it, as every message ends; what follows its three bits is not sent.
    return bits.to_bytes(position // 8, "little") * (count // 8) + b"\0"


# By name: (whether compression is agreed on, one message on the wire, its size inflated).
def kinds() -> dict[str, tuple[bool, bytes, int]]:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bomb.compress(b"x" * ((1 << 20) - 1)) + bomb.flush(zlib.Z_SYNC_FLUSH)
    blocks = empty_blocks(2000)
    assert zlib.decompressobj(-15).decompress(blocks + b"\0\0\xff\xff") == b""
    return {
        "pings": (False, masked_frame(PING), 0),
        "messages": (False, masked_frame(TEXT, b"x"), 1),
        "long messages": (False, masked_frame(BINARY, b"x" * 60_000), 60_000),
        "bombs": (True, masked_frame(TEXT, packed[:-4], reserved=4), (1 << 20) - 1),
        "blocks": (True, masked_frame(BINARY, blocks, reserved=4), 0),
    }


def attack(address: tuple[str, int], kind: str, clients: int, seconds: float, started: Any, ending: Any) -> None:
    """In a process of its own: so many clients of a kind, until told to end."""
    compressed, message, inflated = kinds()[kind]
    pace = min(RATE, BYTES / (len(message) + inflated))  # messages a second
    data = message * max(1, min(2000, (1 << 17) // len(message)))
    poll = select.epoll()
    open_ones: dict[int, tuple[socket.socket, list[float]]] = {}
    begin = time.monotonic()

    def join() -> None:
        sock = socket.create_connection(address, 30)
        sock.sendall(handshake(PATH, COMPRESSED if compressed else ""))
        sock.recv(4096)
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN | select.EPOLLOUT)
        open_ones[sock.fileno()] = sock, [time.monotonic(), 0.0]  # since when; bytes sent

    for _ in range(clients):
        join()
    started.set()
    while not ending.is_set() and time.monotonic() < begin + seconds:
        busy = False
        for fd, events in poll.poll(0.01):
            sock, (since, sent) = open_ones[fd]
            try:
                if events & select.EPOLLIN and not sock.recv(1 << 16):
                    raise ConnectionResetError
                # A burst of ten seconds is what the rates allow.
                allowed = (time.monotonic() - since + 9) * pace * len(message) - sent
                if events & select.EPOLLOUT and allowed > 0:
                    start = int(sent) % len(message)
                    size = sock.send(data[start : start + int(min(allowed, 1 << 16)) + 1])
                    open_ones[fd][1][1] += size
                    busy = True
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(sock)
                sock.close()
                del open_ones[fd]
                join()  # thrown out: it comes back
        if not busy:
            ending.wait(0.005)
    for sock, _ in open_ones.values():
        sock.close()


@contextmanager
def attackers(site: Site, kind: str, clients: int, seconds: float) -> Iterator[None]:
    """So many clients of a kind beside what is done here."""
    context = multiprocessing.get_context("spawn")
    started, ending = context.Event(), context.Event()
    process = context.Process(target=attack, args=(site.address, kind, clients, seconds, started, ending))
    process.start()
    try:
        assert started.wait(60), "the attackers are not there"
        yield
    finally:
        ending.set()
        process.join(20)
        if process.is_alive():
            process.kill()
            process.join()


class Bystanders:
    """Clients that do nothing but answer pings; ``closed`` has those that were closed all the same."""

    def __init__(self, site: Site, count: int) -> None:
        self.clients = [site.connect("/ws/bystanders?subscribe-broadcast") for _ in range(count)]
        self.closed: list[int] = []
        self.pings = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        by_socket: dict[Any, Client] = {client.sock: client for client in self.clients}
        while by_socket and not self._ending.is_set():
            for sock in select.select(list(by_socket), [], [], 0.05)[0]:
                try:
                    frame = by_socket[sock].frame()
                except OSError:
                    frame = None
                if frame is None or frame.opcode == CLOSE:
                    self.closed.append(0 if frame is None else frame.close_code)
                    del by_socket[sock]
                elif frame.opcode == PING:
                    by_socket[sock].send_raw(masked_frame(10, frame.payload))
                    self.pings += 1

    def __enter__(self) -> "Bystanders":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()


def round_trips(client: Client, seconds: float) -> list[float]:
    """A message each 20 ms and back, for so many seconds; return the seconds that each took."""
    took = []
    end = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < end:
        message = f"{len(took)}"
        begin = time.monotonic()
        client.send(message)
        while (frame := client.frame()).opcode == PING:
            client.send_raw(masked_frame(10, frame.payload))
        assert frame.opcode == TEXT, f"the sentinel was closed: {frame}"
        assert frame.payload == message.encode()
        took.append(time.monotonic() - begin)
        pause.wait(0.02)
    return sorted(took)


class Newcomers:
    """One client after the other comes, sends a message at once and goes when it is back; ``took`` has the seconds."""

    def __init__(self, site: Site) -> None:
        self.took: list[float] = []
        self._site = site
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ending.wait(0.05):
            number = len(self.took)
            path = f"/ws/newcomer{number}?subscribe-broadcast&publish-broadcast&echo"
            with connect(self._site.address, path) as client:
                begin = time.monotonic()
                client.send(str(number))
                assert client.receive() == str(number)
                self.took.append(time.monotonic() - begin)

    def __enter__(self) -> "Newcomers":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()


def p99(took: list[float]) -> float:
    return sorted(took)[int(len(took) * 0.99)]


def beside(site: Site, kind: str, clients: int, seconds: float, innocent: int = 20) -> dict[str, Any]:
    """Greedy clients of a kind: those beside them, old and new, are served within :data:`LATE`, and none is closed."""
    sentinel = site.join("/ws/sentinel?subscribe-broadcast&publish-broadcast&echo")
    with (
        Bystanders(site, innocent) as bystanders,
        attackers(site, kind, clients, seconds + 60),
        Newcomers(site) as newcomers,
    ):
        took = round_trips(sentinel, seconds)
    first = newcomers.took
    site.close_clients()
    figures = {
        "clients": clients,
        "kind": kind,
        "messages beside them": len(took),
        "median ms": round(statistics.median(took) * 1000, 1),
        "p99 ms": round(p99(took) * 1000, 1),
        "slowest ms": round(took[-1] * 1000, 1),
        "newcomers": len(first),
        "their p99 ms": round(p99(first) * 1000, 1),
        "innocent closed": len(bystanders.closed),
        "pings answered": bystanders.pings,
    }
    assert not bystanders.closed, f"{figures}: closed with {bystanders.closed}"
    assert bystanders.pings >= innocent * int(seconds / 2.1), figures
    assert p99(took) < LATE, figures
    assert len(first) > seconds, figures
    assert p99(first) < LATE, figures
    site.uwsgi.assert_healthy()
    return figures
