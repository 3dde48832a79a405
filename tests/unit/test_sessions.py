"""When sessions are looked at, and how many at a time."""

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.support.wire import Client
from uws4r.sessions import READERS, READS, SessionChecks

LATER = int(time.time()) + 10_000


class Sessions:
    """A session store, and what has been read of it."""

    def __init__(self, bench: Bench, period: float) -> None:
        self.bench = bench
        self.read: list[str] = []
        self.gone: set[str] = set()
        self.broken = False
        self.open = threading.Event()
        self.open.set()
        self.checks = SessionChecks(self.look, period, bench.hub)
        bench.hub.each_second = None  # the test's own seconds

    def look(self, key: str, user: str) -> int | None:
        assert user == "mary"
        assert self.open.wait(10)
        self.read.append(key)
        if self.broken:
            raise OSError("no database")
        return None if key in self.gone else LATER

    def waiting(self) -> int:
        return self.checks._reading + len(self.checks._due)

    def second(self, expired: tuple[Client, ...] = ()) -> int:
        """One second passes; return how many sessions are read."""
        before = len(self.read)
        connections = [self.bench.connection_of(client) for client in expired]
        self.bench.call(lambda: self.checks.tick(connections))
        wait_until(lambda: self.bench.call(self.waiting) == 0, "read", pause=0.001)
        return len(self.read) - before


@pytest.fixture
def sessions(bench: Bench) -> Callable[[int, float], tuple[Sessions, list[Client]]]:
    def start(count: int, period: float) -> tuple[Sessions, list[Client]]:
        clients = [
            bench.open("broadcast:f", identity="203.0.113.7 mary /ws/f", session=f"key{number}", expires=LATER)
            for number in range(count)
        ]
        wait_until(lambda: bench.call(lambda: len(bench.hub.loop.connections)) == count, "open")
        return Sessions(bench, period), clients

    return start


def test_a_round_takes_its_period_and_is_spread_evenly(sessions: Callable[..., tuple[Sessions, list[Client]]]) -> None:
    store, _ = sessions(30, 10)
    assert [store.second() for _ in range(10)] == [3] * 10
    assert len(set(store.read)) == 30
    assert [store.second() for _ in range(10)] == [3] * 10
    assert len(store.read) == 60


def test_few_sessions_are_not_read_every_second(sessions: Callable[..., tuple[Sessions, list[Client]]]) -> None:
    store, _ = sessions(2, 8)
    assert sum(store.second() for _ in range(16)) == 4


def test_there_are_never_more_than_so_many_a_second(sessions: Callable[..., tuple[Sessions, list[Client]]]) -> None:
    store, clients = sessions(100, 1)
    assert [store.second() for _ in range(5)] == [READS] * 5
    assert len(set(store.read)) == 100
    assert store.second(tuple(clients[:50])) == READS


def test_reads_that_take_long_do_not_pile_up(sessions: Callable[..., tuple[Sessions, list[Client]]]) -> None:
    store, _ = sessions(100, 1)
    store.open.clear()
    for _ in range(5):
        store.bench.call(lambda: store.checks.tick([]))
    assert store.bench.call(store.waiting) == READS
    assert store.bench.call(lambda: store.checks._reading) == READERS
    store.open.set()
    store.second()


def test_who_is_asked_for_comes_first_and_without_a_period_nobody_else(
    sessions: Callable[..., tuple[Sessions, list[Client]]],
) -> None:
    store, clients = sessions(50, 0)
    assert store.second() == 0
    assert store.second((clients[7],)) == 1
    assert store.read == ["key7"]


def test_a_session_that_is_gone_closes_its_client(sessions: Callable[..., tuple[Sessions, list[Client]]]) -> None:
    store, clients = sessions(3, 1)
    store.gone = {"key1"}
    store.second()
    assert clients[1].receive_close().close_code == 4401
    assert clients[0].ping() == clients[2].ping() == []


def test_what_cannot_be_read_closes_nobody_and_is_logged_once(
    sessions: Callable[..., tuple[Sessions, list[Client]]], caplog: pytest.LogCaptureFixture
) -> None:
    store, clients = sessions(3, 1)
    store.broken, store.gone = True, {"key0"}
    for _ in range(3):
        store.second()
    assert [client.ping() for client in clients] == [[], [], []]
    assert caplog.text.count("sessions cannot be read") == 1
    store.broken = False
    store.second()
    assert clients[0].receive_close().close_code == 4401
