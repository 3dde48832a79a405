"""Many websockets at once, as the stress tests of django-websocket-redis had them, and more."""

import resource
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.servers import RedisServer
from tests.support.site import Site

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]

REQUEST = (
    b"GET /ws/stress?subscribe-broadcast HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many as the test needs; 10,000 clients have 10,000 on either side."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 12_000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (12_000, 12_000))  # root may
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Many clients in one thread; each one's bytes are collected until they end as they should."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.poll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}

    def open(self, count: int) -> None:
        """Open so many websockets, fifty handshakes at a time."""
        while count:
            group = [socket.create_connection(self.address) for _ in range(min(50, count))]
            count -= len(group)
            for client in group:
                client.sendall(REQUEST)
            for client in group:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    data = client.recv(4096)
                    assert data, head
                    head += data
                assert head.startswith(b"HTTP/1.1 101 "), head
                client.setblocking(False)
                self.poll.register(client.fileno(), select.EPOLLIN)
                self.sockets[client.fileno()] = client

    def receive(self, expected: bytes) -> None:
        """Every client receives exactly these bytes."""
        received = dict.fromkeys(self.sockets, b"")
        missing = set(received)
        deadline = time.monotonic() + 20
        while missing:
            assert time.monotonic() < deadline, f"{len(missing)} clients miss something"
            for fd, _ in self.poll.poll(1.0, 4096):
                received[fd] += self.sockets[fd].recv(4096)
                assert expected.startswith(received[fd]), received[fd]
                if received[fd] == expected:
                    missing.discard(fd)

    def close(self) -> None:
        self.poll.close()
        for client in self.sockets.values():
            client.close()


@pytest.fixture
def crowd_of() -> Iterator[Callable[[Site], Crowd]]:
    crowds: list[Crowd] = []

    def start(site: Site) -> Crowd:
        crowds.append(Crowd(site.address))
        return crowds[-1]

    yield start
    for crowd in crowds:
        crowd.close()


def test_a_thousand_websockets_one_message_all_within_a_second_and_a_half(
    served: Callable[..., Site], own_redis: RedisServer, crowd_of: Callable[[Site], Crowd]
) -> None:
    """Section 2.7.3 of the manual of django-websocket-redis, with its time for 1,000 greenlets."""
    site = served(redis=own_redis, workers=2, options=("--disable-logging",))
    crowd = crowd_of(site)
    site.connect("/ws/warm").ping()
    begin = time.monotonic()
    crowd.open(1000)
    publisher = site.connect("/ws/stress?publish-broadcast")
    publisher.send("to all")
    crowd.receive(b"\x81\x06to all")
    seconds = time.monotonic() - begin
    print(f"1,000 websockets and one message: {seconds:.2f} s")
    assert seconds < 1.5


def test_ten_thousand_websockets_in_one_worker(
    served: Callable[..., Site], own_redis: RedisServer, crowd_of: Callable[[Site], Crowd]
) -> None:
    site = served(redis=own_redis, workers=1, options=("--disable-logging", "--max-fd", "12000"))
    crowd = crowd_of(site)
    begin = time.monotonic()
    crowd.open(10_000)
    opened = time.monotonic()
    assert len(own_redis.links()) == 1
    # Kept as well as published, as publishers do: the last ones to come may still be joining.
    own_redis.client.pipeline().publish("broadcast:stress", "to all of you").set(
        "broadcast:stress", "to all of you"
    ).execute()
    crowd.receive(b"\x81\x0dto all of you")
    print(f"10,000 handshakes: {opened - begin:.2f} s, one message: {time.monotonic() - opened:.3f} s")
