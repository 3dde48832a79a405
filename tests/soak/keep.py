"""Strangers who leave as much in Redis as they can, with a new facility at each connection; a chat beside them."""

import json
import random
import socket
import threading
import time
from typing import Any

from tests.soak.clients import COMPRESSED, frames_in, handshake
from tests.support.servers import wait_until
from tests.support.site import Site, manage
from tests.support.wire import BINARY, CLOSE, TEXT, TIMEOUT, close_frame, connect, deflated, masked_frame
from uws4r.keeping import SAVED

MIB = 1 << 20
PER_IP, PER_WORKER = 256 << 10, 1 << 20  # bytes a second: the settings' defaults
PROXY = {"UWS4R_PROXIES": ["127.0.0.1"]}  # what the site has to be told for ``forwarded``
EVERYWHERE = "publish-broadcast&publish-user&publish-group&publish-session"


class Stranger(threading.Thread):
    """Floods from one address until it is told to end."""

    def __init__(self, site: Site, address: int, number: int, seed: int, forwarded: bool, session: str | None) -> None:
        super().__init__()
        self.site = site
        self.address = address
        self.number = number
        self.chance = random.Random(f"{seed} {number}")
        self.forwarded = forwarded
        self.session = session
        self.ending = threading.Event()
        self.connections = 0
        self.sent = 0  # bytes of messages
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                self.visit()
                self.connections += 1
        except BaseException as error:
            self.error = error

    def message(self) -> tuple[bytes, bytes, int]:
        """Return a frame, its payload and its opcode; it is large, or there are only names."""
        kind = self.chance.randrange(4)
        if kind == 0:
            payload = b"x"
            return masked_frame(TEXT, payload), payload, TEXT
        payload = (b"%d " % self.connections).ljust(self.chance.choice([300, 10_000, 500_000, MIB]), b"x")
        if kind == 1:
            payload = b"\xff" + payload[1:]
            return masked_frame(BINARY, payload), payload, BINARY
        if kind == 2:
            return masked_frame(TEXT, payload), payload, TEXT
        return masked_frame(TEXT, deflated(payload, level=1), reserved=4), payload, TEXT

    def visit(self) -> None:
        """Connect, publish a few messages, see the last one come back, and go."""
        facility = f"{self.number}-{self.connections}-".ljust(self.chance.choice([20, 1000]), "f")
        flags = EVERYWHERE if self.session and self.chance.random() < 0.5 else "publish-broadcast"
        more = COMPRESSED
        if self.forwarded:
            more += f"X-Forwarded-For: 203.0.113.{self.address}\r\n"
        if self.session:
            more += f"Cookie: sessionid={self.session}\r\n"
        frames = [self.message() for _ in range(self.chance.choice([1, 1, 1, 4]))]
        self.sent += sum(len(payload) for _, payload, _ in frames)
        source = "127.0.0.1" if self.forwarded else f"127.0.0.{self.address}"
        with socket.create_connection(self.site.address, 20, (source, 0)) as sock:
            sock.sendall(handshake(f"/ws/{facility}?{flags}", more))
            head = b""
            while b"\r\n\r\n" not in head:
                head += self.received(sock)
            assert head.startswith(b"HTTP/1.1 101"), head
            sock.sendall(b"".join(frame for frame, _, _ in frames) + close_frame())
            buffer = bytearray(head.partition(b"\r\n\r\n")[2])
            while not any(first & 15 == CLOSE for first, _ in frames_in(buffer)):
                buffer += self.received(sock)

    @staticmethod
    def received(sock: socket.socket) -> bytes:
        data = sock.recv(1 << 16)
        assert data, "the server closed the connection"
        return data


class Chat(threading.Thread):
    """
    People of one address who talk beside it: all that they say is delivered, and the last of it is kept.

    Every now and then one of them reloads the page, or opens another room.
    """

    def __init__(self, site: Site, forwarded: bool) -> None:
        super().__init__()
        self.site = site
        self.headers: dict[str, str | None] = {"X-Forwarded-For": "198.51.100.1"} if forwarded else {}
        self.ending = threading.Event()
        self.turns = 0
        self.slowest = 0.0  # seconds
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                self.talk(f"chat{self.turns % 3}")
        except BaseException as error:
            self.error = error

    def talk(self, room: str) -> None:
        last = self.site.redis.client.get(f"broadcast:{room}")
        path = f"/ws/{room}?subscribe-broadcast&publish-broadcast&echo"
        source = "127.0.0.1" if self.headers else "127.0.0.99"
        sock = socket.create_connection(self.site.address, TIMEOUT, (source, 0))
        with connect(sock, path, self.headers) as speaker:
            assert last is None or speaker.receive() == last.decode(), "a newcomer gets the last message"
            for _ in range(20):
                message = f"{self.turns} ".ljust(300, "c")
                begin = time.monotonic()
                speaker.send(message)
                assert speaker.receive() == message
                self.slowest = max(self.slowest, time.monotonic() - begin)
                assert self.site.redis.client.get(f"broadcast:{room}") == message.encode(), "it is kept"
                self.turns += 1
                self.ending.wait(0.002)


def memory(site: Site) -> int:
    """Bytes that Redis has for what it keeps: all but what it has for its clients."""
    told: Any = site.redis.client.info("memory")
    return int(told["used_memory"]) - int(told["mem_clients_normal"])


def flood(
    site: Site,
    seconds: float,
    seed: int,
    addresses: int = 1,
    each: int = 4,
    forwarded: bool = False,
    session: str | None = None,
) -> dict[str, Any]:
    """
    Have strangers flood for so many seconds.

    Args:
        each: So many at a time come from each address.
        forwarded: They come through a proxy, which says from where; the site has to have :data:`PROXY`.
        session: They are logged in, and publish to several audiences.
    """
    site.redis.client.flushall()
    before = memory(site)
    chat = Chat(site, forwarded)
    strangers = [
        Stranger(site, 2 + number % addresses, number, seed, forwarded, session) for number in range(addresses * each)
    ]
    begin = time.monotonic()
    for thread in (chat, *strangers):
        thread.start()
    chat.join(seconds)  # less where it has failed
    took = time.monotonic() - begin
    for thread in (chat, *strangers):
        thread.ending.set()
    for thread in (chat, *strangers):
        thread.join()
        if thread.error is not None:
            raise AssertionError(f"{thread}, seed {seed}") from thread.error
    site.close_clients()
    site.uwsgi.assert_healthy()
    allowed = site.workers * min(addresses * PER_IP, PER_WORKER) * (took + SAVED)
    wait_until(lambda: memory(site) - before <= allowed + MIB, f"at most {allowed:.0f} bytes are kept", 3)
    workers = json.loads(manage(site.env, "uws4r", "status", "--json"))
    refused = sum(sum(worker["not_kept"].values()) for worker in workers)
    assert refused > 0
    lines = site.uwsgi.log.count("delivered, and not kept")
    assert 0 < lines <= 3 * site.workers * (took / 60 + 1), lines
    assert chat.turns > 0
    return {
        "addresses": addresses,
        "websockets at a time": len(strangers),
        "connections": sum(stranger.connections for stranger in strangers),
        "published MiB": round(sum(stranger.sent for stranger in strangers) / MIB),
        "seconds": round(took),
        "kept MiB": round((memory(site) - before) / MIB, 1),
        "of at most": round(allowed / MIB, 1),
        "not kept": refused,
        "chat's messages": chat.turns,
        "its slowest ms": round(chat.slowest * 1000),
        "seed": seed,
    }
