"""The loop's own list of connections: who is in it, and that each is held exactly as long as it is."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from itertools import permutations

import pytest

from tests.support.wire import BINARY, TEXT, masked_frame
from uws4r._connection import Connection, Limits
from uws4r._fanout import Fanout
from uws4r._hub import Loop

LIMITS = Limits(1 << 20)


class Owner:
    """A loop, and the clients' ends of what it has."""

    def __init__(self) -> None:
        self.loop = Loop(Fanout(), 1 << 20, LIMITS)
        self.clients: list[socket.socket] = []

    def add(self) -> Connection:
        ours, theirs = socket.socketpair()
        self.clients.append(theirs)
        connection = Connection(ours.detach(), "test", (), 0, LIMITS, False, False, 0, None)
        self.loop.add(connection)
        return connection


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    for connection in owner.loop.connections:
        owner.loop.remove(connection)
    owner.loop.close()
    for client in owner.clients:
        client.close()


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_whoever_goes_the_others_stay(owner: Owner, order: tuple[int, ...]) -> None:
    connections = [owner.add() for _ in range(4)]
    left = set(connections)
    for index in order:
        owner.loop.remove(connections[index])
        left.remove(connections[index])
        assert owner.loop.count == len(owner.loop.connections) == len(left)
        assert set(owner.loop.connections) == left
        assert [connection.is_gone for connection in connections].count(False) == len(left)
    assert all(client.recv(1) == b"" for client in owner.clients)


def test_a_connection_is_held_until_it_is_removed(owner: Owner) -> None:
    connection, other = owner.add(), owner.add()
    alone = sys.getrefcount(Connection(-1, "test", (), 0, LIMITS, False, False, 0, None))
    assert sys.getrefcount(connection) == alone + 2  # the loop's, and ours
    owner.loop.remove(connection)
    owner.loop.remove(connection)  # once is enough
    assert sys.getrefcount(connection) == alone + 1
    assert owner.loop.connections == [other]


def test_a_loop_that_ends_lets_go_of_its_connections() -> None:
    owner = Owner()
    connections = [owner.add() for _ in range(3)]
    held = [sys.getrefcount(connection) for connection in connections]
    del owner.loop
    left = [sys.getrefcount(connection) for connection in connections]
    assert left == [count - 1 for count in held]
    for connection in connections:
        os.close(connection.fd)
    for client in owner.clients:
        client.close()


def test_another_thread_may_look_while_clients_come_and_go(owner: Owner) -> None:
    wrong: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen = [connection.fd for connection in owner.loop.connections]
            if len(seen) != len(set(seen)) or not 10 <= len(seen) <= 210:
                wrong.append(f"{len(seen)} seen, {len(set(seen))} of them different")

    for _ in range(10):
        owner.add()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(10):
            for connection in [owner.add() for _ in range(200)]:
                owner.loop.remove(connection)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not wrong


def test_a_connection_says_who_it_is_and_what_its_session_is(owner: Owner) -> None:
    connection = owner.add()
    assert connection.identity == "test"
    assert str(connection) == f"#{connection.fd} test"
    assert connection.session is None
    for key in ("a key", "Schlüssel", "\udc80"):  # the last one of a cookie that is no text
        connection.session = key
        assert connection.session == key
    connection.session = None
    assert connection.session is None
    connection.expires = 1 << 33  # a site whose sessions last for centuries
    assert connection.expires == (1 << 32) - 1


def taken(owner: Owner, client: int, message: bytes = masked_frame(TEXT, b"m"), seconds: float = 0.0) -> bool:
    """Spend so long on a message of a client; return whether it was looked at behind everything else."""
    owner.clients[client].sendall(message)
    owner.loop.wait(False)
    heavy = (found := owner.loop.next_received(False)) is None
    while found is not None or (found := owner.loop.next_received(True)) is not None:
        while found.next_event() is not None:
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass
        found = owner.loop.next_received(heavy)
    return heavy


def test_a_client_is_heavy_when_it_has_used_much_time_and_not_when_it_has_just_come(owner: Owner) -> None:
    for seconds, heavy in ((0.0, False), (0.0001, False), (0.002, True), (0.005, True)):
        client = len(owner.clients)
        owner.add()
        assert taken(owner, client, seconds=seconds) is False
        assert taken(owner, client) is heavy


def test_what_a_client_sends_counts_as_well(owner: Owner) -> None:
    """It is copied, goes to Redis, and comes back to those who listen."""
    owner.add()
    assert [taken(owner, 0, masked_frame(BINARY, bytes(60_000))) for _ in range(12)][-1] is True
