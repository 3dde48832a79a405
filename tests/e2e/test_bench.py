"""The load generator of ``bench/`` finds what is wrong with a server, and nothing where all is well."""

import json
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.servers import ROOT, RedisServer
from tests.support.site import Site
from uws4r.rfc6455 import accept_key

pytestmark = pytest.mark.e2e

CLIENTS = 3
NUMBER = 5  # of the message that a faulty server treats badly


def load(redis: RedisServer, port: int, *options: str) -> tuple[int, dict[str, Any], dict[str, int]]:
    """Run it; return its exit status, the figures of its one case, and what of the failures is not 0."""
    command = [
        ROOT / "bench" / "load", "--url", f"ws://127.0.0.1:{port}/ws/bench?subscribe-broadcast", "--clients", CLIENTS,
        "--redis", f"redis://127.0.0.1:{redis.port}", "--window", 2, "--seconds", 0.3, "--json", "-", *options,
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    [case] = json.loads(done.stdout)["cases"]
    return done.returncode, case, {name: count for name, count in case["failures"].items() if count}


class FaultyServer:
    """Hands on what Redis publishes, but for what ``fault`` makes of the frames for a client."""

    def __init__(self, redis: RedisServer, fault: Callable[[int, bytes], list[bytes]]) -> None:
        self.fault = fault
        self.sockets: list[socket.socket] = []
        self.subscription = redis.client.pubsub()
        self.subscription.subscribe("broadcast:bench")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.accept), threading.Thread(target=self.deliver)]
        for thread in self.threads:
            thread.start()

    def accept(self) -> None:
        for _ in range(CLIENTS):
            client = self.listener.accept()[0]
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
            client.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept_key(key).encode()
            )
            self.sockets.append(client)

    def deliver(self) -> None:
        while not self.ended.is_set():
            push = self.subscription.get_message(ignore_subscribe_messages=True, timeout=0.05)
            if push is None:
                continue
            payload = push["data"]
            size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
            frames = self.fault(int(payload[16:24], 16), b"\x81" + size + payload)
            for client in list(self.sockets):
                try:
                    client.sendall(b"".join(frames))
                except OSError:
                    pass  # it has seen enough

    def close(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()
        self.listener.close()
        self.subscription.close()
        for client in self.sockets:
            client.close()


held: list[bytes] = []


def lose(number: int, frame: bytes) -> list[bytes]:
    return [] if number == NUMBER else [frame]


def double(number: int, frame: bytes) -> list[bytes]:
    return [frame, frame] if number == NUMBER else [frame]


def swap(number: int, frame: bytes) -> list[bytes]:
    if number == NUMBER:
        held.append(frame)
        return []
    return [frame, held.pop()] if held else [frame]


def corrupt(number: int, frame: bytes) -> list[bytes]:
    return [frame[:-1] + b"\x7f"] if number == NUMBER else [frame]


def keep_all_from_there(number: int, frame: bytes) -> list[bytes]:
    return [frame] if number < NUMBER or number == 0xFFFFFFFF else []


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lose, {"lost": CLIENTS}),
        (double, {"duplicated": CLIENTS}),
        (swap, {"disordered": CLIENTS}),
        (corrupt, {"corrupt": CLIENTS}),
        (keep_all_from_there, {"lost": 2 * CLIENTS}),  # what was in flight
    ],
)
def test_load_finds_what_a_server_does_wrong(
    own_redis: RedisServer, fault: Callable[[int, bytes], list[bytes]], found: dict[str, int]
) -> None:
    server = FaultyServer(own_redis, fault)
    try:
        status, case, failures = load(own_redis, server.port, "--patience", "0.5")
    finally:
        server.close()
    assert (status, failures) == (1, found)
    assert case["messages"] > NUMBER


def test_fan_out_of_uws4r_is_clean(site: Site) -> None:
    status, case, failures = load(site.redis, site.address[1])
    assert (status, failures) == (0, {})
    assert case["deliveries"] == CLIENTS * case["messages"] > 0


def test_echo_of_uws4r_is_clean(site: Site) -> None:
    url = f"ws://127.0.0.1:{site.address[1]}/ws/echo{{i}}?subscribe-broadcast&publish-broadcast&echo"
    status, case, failures = load(site.redis, site.address[1], "--mode", "echo", "--url", url, "--size", "300")
    assert (status, failures) == (0, {})
    assert case["deliveries"] == case["messages"] > 0
