"""Connections that are opened and closed in every way there is leave nothing behind."""

import random
import select
import socket
import threading
import time
from typing import Any

from tests.soak.clients import handshake, reset
from tests.support.process import allocated, descriptors, idle_descriptors, pss, worker_pid
from tests.support.servers import wait_until
from tests.support.site import Site
from tests.support.wire import TEXT, close_frame, masked_frame

AT_A_TIME = 50
FACILITIES = 100
CLOSE_TIME = 5.0  # seconds that a client has to answer a close frame
MAY_GROW = 2048  # KiB


class Fanout:
    """Somebody publishes to random facilities all the time, so that every end comes in the middle of it."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.chance = random.Random(seed)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        pipeline = self.site.redis.client.pipeline(transaction=False)
        while not self._ending.wait(0.002):
            for _ in range(5):
                pipeline.publish(f"broadcast:churn-{self.chance.randrange(FACILITIES)}", b"x" * 500)
            pipeline.execute()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()


def churn(site: Site, connections: int, seed: int, warm_up: int = 2000) -> dict[str, Any]:
    """So many connections, and ``warm_up`` before; the worker and Redis are afterwards as they were before."""
    pid = worker_pid(site)
    chance = random.Random(seed)
    idle = idle_descriptors(site)
    allocated(site)  # the first page loads what pages need
    with Fanout(site, seed):
        some_connections(site, warm_up, chance)
    all_gone(site, pid, idle)
    before, malloc, links = pss(pid), allocated(site), len(site.redis.links())
    begin = time.monotonic()
    with Fanout(site, seed):
        some_connections(site, connections, chance)
    seconds = time.monotonic() - begin
    all_gone(site, pid, idle)
    grown = pss(pid) - before
    grown_malloc = (allocated(site) - malloc) // 1024
    assert grown <= MAY_GROW, f"{grown} KiB more after {connections} connections; seed {seed}"
    # Exact, where pages also tell of the order in which blocks came and went.
    assert grown_malloc <= MAY_GROW // 4, f"{grown_malloc} KiB of malloc's more; seed {seed}"
    assert len(site.redis.links()) == links
    site.uwsgi.assert_healthy()
    return {
        "connections": connections,
        "seconds": round(seconds),
        "descriptors": f"{idle} as before",
        "PSS KiB": f"{before} {grown:+d}",
        "malloc KiB": f"{malloc // 1024} {grown_malloc:+d}",
        "links": links,
        "seed": seed,
    }


def all_gone(site: Site, pid: int, idle: int) -> None:
    """Wait until no channel is subscribed to, and the descriptors are those of a worker without clients."""
    wait_until(lambda: not site.redis.channels(), "unsubscribed from everything", CLOSE_TIME + 5)
    wait_until(lambda: descriptors(pid) == idle, f"{idle} descriptors", CLOSE_TIME + 5)


def some_connections(site: Site, count: int, chance: random.Random) -> None:
    while count:
        group = min(AT_A_TIME, count)
        count -= group
        opened: list[socket.socket] = []
        for _ in range(group):
            sock = socket.create_connection(site.address, 10)
            request = handshake(
                f"/ws/churn-{chance.randrange(FACILITIES)}?subscribe-broadcast&subscribe-session&publish-user"
            )
            if chance.random() < 0.1:
                end_in_handshake(sock, request, chance)
            else:
                sock.sendall(request)
                opened.append(sock)
        for sock in opened:
            head = sock.recv(12)
            assert head == b"HTTP/1.1 101", head
        chance.shuffle(opened)
        waiting = [sock for sock in opened if not end(sock, chance)]
        read_to_the_end(waiting)


def end_in_handshake(sock: socket.socket, request: bytes, chance: random.Random) -> None:
    """Half a request, or a whole one whose answer nobody waits for."""
    sock.sendall(request[: chance.choice([0, 1, len(request) // 2, len(request) - 1, len(request)])])
    if chance.random() < 0.5:
        reset(sock)
    else:
        sock.close()


def end(sock: socket.socket, chance: random.Random) -> bool:
    """End a websocket in one way or another; return False where the server's end is to be awaited."""
    way = chance.randrange(6)
    if way == 0:
        sock.sendall(close_frame())
        return False
    if way == 1:
        reset(sock)
        return True
    if way == 2:
        sock.sendall(masked_frame(TEXT, b"x" * 1000)[: chance.randrange(1, 1008)])
    elif way == 3:
        sock.sendall(masked_frame(TEXT, b"", final=False))
        sock.shutdown(socket.SHUT_WR)
        return False
    elif way == 4:
        sock.sendall(b"\x81\x02hi")  # not masked: closed with 1002
        if chance.random() < 0.5:
            return False
    sock.close()
    return True


def read_to_the_end(sockets: list[socket.socket]) -> None:
    """Read until the server closes, and close."""
    with select.epoll() as poll:
        left = {sock.fileno(): sock for sock in sockets}
        for fd in left:
            poll.register(fd, select.EPOLLIN)
        while left:
            ready = poll.poll(10)
            assert ready, f"{len(left)} connections do not end"
            for fd, _ in ready:
                try:
                    if left[fd].recv(1 << 16):
                        continue
                except ConnectionResetError:
                    pass
                poll.unregister(fd)
                left.pop(fd).close()
