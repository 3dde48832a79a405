"""When sessions are looked at, and how many at a time."""

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.support.wire import Client
from uws4r.attachment import CHANGED, ENDED, GONE, OWN, TOLD, Over
from uws4r.sessions import READERS, READS, SessionChecks

LATER = int(time.time()) + 10_000


class Sessions:
    """A session store, and what has been read of it."""

    def __init__(self, bench: Bench, period: float) -> None:
        self.bench = bench
        self.read: list[str] = []
        self.over: dict[str, Over] = {}
        self.ends = LATER
        self.broken = False
        self.open = threading.Event()
        self.open.set()
        self.checks = SessionChecks(self.look, period, bench.hub)
        bench.hub.each_second = None  # the test's own seconds

    def look(self, key: str, user: str) -> int | Over:
        assert user == "mary"
        assert self.open.wait(10)
        self.read.append(key)
        if self.broken:
            raise OSError("no database")
        return self.over.get(key, self.ends)

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


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (GONE, GONE, 4501),  # it may go on under another key
        (CHANGED, CHANGED, 4501),
        (ENDED, ENDED, 4401),
        (ENDED, GONE, 4501),  # the password was changed, and a moment later the key: it was this browser
        (GONE, ENDED, 4401),
    ],
)
def test_a_login_that_is_over_is_looked_at_again_and_closes_its_client(
    sessions: Callable[..., tuple[Sessions, list[Client]]], first: Over, second: Over, code: int
) -> None:
    store, clients = sessions(3, 1)
    store.over["key1"] = first
    store.second()
    assert [client.ping() for client in clients] == [[], [], []]
    store.over["key1"] = second
    store.second()
    assert clients[1].receive_close().close_code == code
    assert clients[0].ping() == clients[2].ping() == []


def test_a_session_that_is_there_again_stays(sessions: Callable[..., tuple[Sessions, list[Client]]]) -> None:
    store, clients = sessions(3, 1)
    for over in (GONE, None, GONE, None):
        store.over = {"key1": over} if over else {}
        store.second()
    assert [client.ping() for client in clients] == [[], [], []]


def test_what_ends_at_its_time_is_over(sessions: Callable[..., tuple[Sessions, list[Client]]]) -> None:
    store, clients = sessions(2, 0)
    store.bench.connection_of(clients[1]).expires = int(time.time()) - 1
    store.over = {"key0": GONE, "key1": GONE}
    for _ in range(2):
        store.second(tuple(clients))
    assert [client.receive_close().close_code for client in clients] == [4501, 4401]


def test_a_logout_that_the_site_has_told_needs_one_look(
    sessions: Callable[..., tuple[Sessions, list[Client]]],
) -> None:
    store, clients = sessions(2, 0)
    store.over = {"key0": GONE}
    connections = [store.bench.connection_of(client) for client in clients]
    store.bench.call(lambda: store.checks.ask(connections, TOLD))
    store.bench.call(lambda: store.checks.ask(connections))
    store.bench.call(lambda: store.checks.ask(connections, GONE))
    store.second()
    assert clients[0].receive_close().close_code == 4401
    assert clients[1].ping() == []


def test_what_cannot_be_read_closes_nobody_and_is_logged_once(
    sessions: Callable[..., tuple[Sessions, list[Client]]], caplog: pytest.LogCaptureFixture
) -> None:
    store, clients = sessions(3, 1)
    store.broken, store.over = True, {"key0": ENDED}
    for _ in range(3):
        store.second()
    assert [client.ping() for client in clients] == [[], [], []]
    assert caplog.text.count("sessions cannot be read") == 1
    store.broken = False
    store.second()
    store.second()
    assert clients[0].receive_close().close_code == 4401


def test_a_login_of_the_sites_is_looked_at_only_where_the_site_can_tell(bench: Bench) -> None:
    mary = {"identity": "203.0.113.7 mary /ws/f"}
    silent = bench.join("broadcast:f", session=OWN + "silent", **mary)
    tells = bench.join("broadcast:f", session=OWN + "tells", expires=LATER, **mary)
    store = Sessions(bench, 1)
    clients = (silent, tells)
    store.over = {OWN + "silent": ENDED, OWN + "tells": ENDED}
    for _ in range(2):
        store.second(clients)
    assert set(store.read) == {OWN + "tells"}
    assert tells.receive_close().close_code == 4401
    assert silent.ping() == []
