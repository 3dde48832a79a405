"""How much of what clients publish is kept: the budget, with a clock of the tests' own, and the hub's part."""

import logging
import os
from collections.abc import Callable

import pytest

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.support.wire import TEXT, masked_frame
from uws4r import keeping
from uws4r._connection import Connection, Limits
from uws4r._outbox import Outgoing
from uws4r.attachment import Identity
from uws4r.counters import NOT_KEPT, counters
from uws4r.keeping import SAVED, Keeping, price

KIB = 1 << 10
HOUR = 3600
DEFAULTS = 64 * KIB, 256 * KIB, 1024 * KIB, 1 << 20
ADDRESS = "192.0.2.1"


class Crowd:
    """Websockets that publish, and the time."""

    def __init__(self, *rates: float) -> None:
        self.now = 1000.0
        self.keeping = Keeping(*(rates or DEFAULTS))
        self.names = 0

    def open(self, address: str = ADDRESS, user: str | None = None) -> Connection:
        identity = str(Identity.of(address, user, "/ws/foo"))
        return Connection(-1, identity, (), HOUR, Limits(1 << 20), False, False, 0, None)

    def close(self, client: Connection) -> None:
        self.keeping.closed(client, self.now)

    def keeps(self, client: Connection, size: int, *names: str, expire: int = HOUR) -> bool:
        """Whether a message may be kept: under a name that nobody has used, unless one is given."""
        self.names += 1
        keys = tuple(name.encode() for name in names) or (b"new:%d" % self.names,)
        outgoing = Outgoing(client, bytes(size), True, keys, expire)
        return outgoing.paid(self.keeping.shares, self.now) or self.keeping.keeps(client, keys, size, expire, self.now)

    def flood(self, client: Connection, size: int = 1000, most: int = 1 << 30) -> int:
        """Bytes that new keys take in Redis until one is refused."""
        taken = 0
        while taken < most and self.keeps(client, size):
            taken += int(price(size, (b"new:%d" % self.names,)))
        return taken


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


def about(value: float) -> object:
    return pytest.approx(value, rel=0.01)


# ---------------------------------------------------------------- the average, and the burst


def test_a_client_may_save_up_a_minute_and_then_has_its_rate(crowd: Crowd) -> None:
    client = crowd.open()
    assert crowd.flood(client) == about(SAVED * 64 * KIB)
    crowd.now += 10
    assert crowd.flood(client) == about(10 * 64 * KIB)
    crowd.now += 1000
    assert crowd.flood(client) == about(SAVED * 64 * KIB)


def test_what_is_refused_costs_nothing(crowd: Crowd) -> None:
    client = crowd.open()
    crowd.flood(client)
    assert not any(crowd.keeps(client, 100_000) for _ in range(1000))
    crowd.now += 10
    assert crowd.flood(client) == about(10 * 64 * KIB)


def test_an_address_has_a_share_of_its_own(crowd: Crowd) -> None:
    taken = sum(crowd.flood(crowd.open()) for _ in range(20))
    assert taken == about(SAVED * 256 * KIB)
    assert crowd.keeps(crowd.open("192.0.2.2"), 100_000)


def test_a_worker_has_one_for_all(crowd: Crowd) -> None:
    taken = sum(crowd.flood(crowd.open(f"10.0.{n // 250}.{n % 250}", f"user{n}")) for n in range(1000))
    assert taken == about(SAVED * 1024 * KIB)
    crowd.now += 1
    assert sum(crowd.flood(crowd.open(f"10.1.0.{n}")) for n in range(250)) == about(1024 * KIB)


def test_a_message_of_the_maximum_size_fits_whatever_the_rates_are() -> None:
    for rates in (DEFAULTS, (1, 1, 1, 1 << 20), (64 * KIB, 256 * KIB, 1024 * KIB, 100 << 20)):
        assert Crowd(*rates).keeps(Crowd().open(), rates[3], "b" * 1000)


def test_no_rate_is_no_limit() -> None:
    client = Crowd().open()
    assert Crowd(0, 0, 0, 1000).flood(client, 1 << 20) >= 1 << 30
    assert Crowd(0, 256 * KIB, 0, 1000).flood(client) == about(SAVED * 256 * KIB)
    assert Crowd(0, 0, 1024 * KIB, 1000).flood(client) == about(SAVED * 1024 * KIB)


def test_each_name_that_a_message_is_kept_under_counts(crowd: Crowd) -> None:
    names = [f"group:{number}:foo" for number in range(1000)]
    assert crowd.keeps(crowd.open(), 1000, *names)
    assert not crowd.keeps(crowd.open(), 1 << 20, *names)  # a GiB


def test_a_long_name_counts(crowd: Crowd) -> None:
    client = crowd.open()
    kept = 0
    while crowd.keeps(client, 1, f"broadcast:{kept}".ljust(1034, "x")):
        kept += 1
    assert kept * 1424 < SAVED * 64 * KIB  # what Redis 7 takes for each


# ---------------------------------------------------------------- what never notices it


def test_a_busy_chat_behind_one_address_never_notices(crowd: Crowd) -> None:
    clients = [crowd.open() for _ in range(200)]
    for _ in range(600):  # ten minutes
        for client in clients:
            assert all(crowd.keeps(client, 300, "broadcast:chat") for _ in range(10))
        crowd.now += 1


def test_a_drawing_board_with_its_strokes_and_pictures_never_notices(crowd: Crowd) -> None:
    """A picture of half a MiB each second, and strokes in between: 2 GB in an hour, of which one picture stays."""
    client = crowd.open()
    for _ in range(2 * HOUR):
        assert crowd.keeps(client, 500_000, "broadcast:board")
        assert all(crowd.keeps(client, 200, "broadcast:board") for _ in range(5))
        crowd.now += 1


def test_a_large_room_that_comes_back_after_a_reload_never_notices(crowd: Crowd) -> None:
    assert all(crowd.keeps(crowd.open(), 300, "broadcast:chat") for _ in range(5000))


def test_what_a_client_keeps_for_hours_is_paid_for_again(crowd: Crowd) -> None:
    """The same MiB for three hours costs the same as three."""
    client = crowd.open()
    for _ in range(3 * HOUR):
        assert crowd.keeps(client, 1 << 20, "broadcast:f")
        crowd.now += 1
    crowd.now += HOUR
    assert crowd.flood(client) == about(SAVED * 64 * KIB)
    assert crowd.keeping._spent <= crowd.now + SAVED


@pytest.mark.parametrize("expire", [1, 600, HOUR])
def test_what_is_in_redis_is_never_more_than_was_paid_for(expire: int) -> None:
    """Of many who leave a key and come back to it in time, so that it stays: a tenth more than the rate says."""
    rate = price(100, (b"f00",)) * 60 / expire  # so that sixty may stay, and what is saved up
    crowd = Crowd(0, rate, 0, 100)
    ends: dict[str, float] = {}
    clients = {f"f{number:02}": crowd.open() for number in range(100)}
    most = 1.1 * rate * expire + max(SAVED * rate, price(100, (b"",)) + 5120)
    for _ in range(300):
        for name, client in clients.items():
            due = name not in ends or ends[name] - crowd.now < expire / 20
            if due and crowd.keeps(client, 100, name, expire=expire):
                ends[name] = crowd.now + expire
        there = sum(price(100, (name.encode(),)) for name, end in ends.items() if end > crowd.now)
        assert there <= most
        crowd.now += expire / 50


def test_other_names_and_other_times_are_paid_for_again(crowd: Crowd) -> None:
    client = crowd.open()
    size = 500_000
    kept = 0
    while crowd.keeps(client, size, f"f{kept % 2}"):  # as a subscriber class of a site may do
        kept += 1
    assert kept < 10
    crowd.now += 100
    assert crowd.keeps(client, size, "f", expire=10)
    assert crowd.keeps(client, size, "f", expire=10)
    before = crowd.keeping.shares[client].spent
    assert crowd.keeps(client, size, "f", expire=HOUR)
    assert crowd.keeping.shares[client].spent - before == about(price(size, (b"f",)) / (64 * KIB))


# ---------------------------------------------------------------- to come back


def test_to_come_back_renews_nothing() -> None:
    crowd = Crowd(64 * KIB, 0, 0, 1000)
    taken = 0
    for _ in range(50):
        client = crowd.open()
        taken += crowd.flood(client)
        crowd.close(client)
    assert taken == about(SAVED * 64 * KIB)
    crowd.now += 10
    assert crowd.flood(crowd.open()) == about(10 * 64 * KIB)
    assert crowd.flood(crowd.open(user="mary")) == about(SAVED * 64 * KIB)
    assert crowd.flood(crowd.open("192.0.2.2")) == about(SAVED * 64 * KIB)


def test_debts_of_several_add_up_to_a_full_one_at_most() -> None:
    crowd = Crowd(64 * KIB, 0, 0, 1000)
    clients = [crowd.open() for _ in range(10)]
    for client in clients:
        crowd.flood(client)
    for client in clients:
        crowd.close(client)
    assert crowd.flood(crowd.open()) == 0
    crowd.now += SAVED + 1
    assert crowd.flood(crowd.open()) == about(SAVED * 64 * KIB)


@pytest.mark.parametrize("nobodys", ["unix", "127.0.0.1", "::1"])
def test_a_client_without_an_address_or_a_user_inherits_nobodys_debt(crowd: Crowd, nobodys: str) -> None:
    for _ in range(8):
        client = crowd.open(nobodys)
        assert crowd.flood(client) == about(SAVED * 64 * KIB)
        crowd.close(client)
    client = crowd.open(nobodys, "mary")
    crowd.flood(client)
    crowd.close(client)
    assert not crowd.keeps(crowd.open(nobodys, "mary"), 1000)


def test_without_addresses_the_workers_budget_bounds_those_who_come_back(crowd: Crowd) -> None:
    taken = 0
    for _ in range(100):
        client = crowd.open("unix")
        taken += crowd.flood(client)
        crowd.close(client)
    assert taken == about(SAVED * 1024 * KIB / 2)
    assert crowd.keeps(crowd.open("unix", "mary"), 1000)  # of whom more is known


def test_the_state_of_a_websocket_ends_with_it(crowd: Crowd) -> None:
    assert len(crowd.keeping) == 0
    client = crowd.open()
    assert crowd.keeps(client, 10)
    assert len(crowd.keeping) == 1
    crowd.close(client)
    assert len(crowd.keeping) == 0


def test_one_that_is_gone_already_leaves_its_debt_at_once() -> None:
    crowd = Crowd(64 * KIB, 0, 0, 1000)
    client = crowd.open()
    crowd.flood(client)
    crowd.close(client)
    client.set_state(3)
    assert not crowd.keeps(client, 100_000)
    assert len(crowd.keeping) == 0
    assert not crowd.keeps(crowd.open(), 100_000)


def test_the_state_of_quiet_websockets_is_given_up(crowd: Crowd) -> None:
    early = [crowd.open("unix") for _ in range(1000)]
    for client in early:
        crowd.keeps(client, 10)
    crowd.now += 2 * HOUR
    late = [crowd.open("unix") for _ in range(3000)]
    for client in late:
        crowd.keeps(client, 10)
    assert len(crowd.keeping) == 3000


# ---------------------------------------------------------------- one does not hurt another


def test_those_who_keep_little_are_kept_while_others_flood(crowd: Crowd) -> None:
    """From 30 addresses, and with more than the worker's budget."""
    chat = crowd.open()
    assert crowd.keeps(chat, 300, "broadcast:chat")
    for _ in range(2 * HOUR // 20):
        for number in range(30):
            client = crowd.open(f"10.0.0.{number}")
            crowd.flood(client, 50_000)
            crowd.close(client)
        crowd.now += 20
        assert crowd.keeps(chat, 300, "broadcast:chat")
        assert crowd.keeps(crowd.open(), 300, "broadcast:another chat")


# ---------------------------------------------------------------- addresses


def test_a_network_of_ipv6_shares_a_budget() -> None:
    crowd = Crowd(0, 256 * KIB, 0, 1000)
    taken = sum(crowd.flood(crowd.open(f"2001:db8::{number:x}")) for number in range(100))
    assert taken == about(SAVED * 256 * KIB)
    crowd = Crowd(0, 256 * KIB, 0, 1000)
    taken = sum(crowd.flood(crowd.open(address)) for address in ("192.0.2.1", "::ffff:192.0.2.1"))
    assert taken == about(SAVED * 256 * KIB)


# ---------------------------------------------------------------- a full table


def test_a_full_table_is_no_way_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST", 100)
    crowd = Crowd(0, 10 * KIB, 0, 1000)
    taken = [crowd.flood(crowd.open(f"10.0.{n // 250}.{n % 250}")) for n in range(1000)]
    assert sum(taken) == about(101 * SAVED * 10 * KIB)
    assert len(crowd.keeping._addresses) == 101
    crowd.now += SAVED + 1  # all have paid: there is room again
    assert crowd.flood(crowd.open("10.9.9.9")) == about(SAVED * 10 * KIB)
    assert len(crowd.keeping._addresses) <= 2


def test_a_full_table_of_debts_is_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST", 10)
    crowd = Crowd(10 * KIB, 0, 0, 1000)
    for number in range(20):
        client = crowd.open(user=f"user{number}")
        crowd.flood(client)
        crowd.close(client)
    assert len(crowd.keeping._debts) == 11
    for _ in range(3):
        client = crowd.open(user="user15")
        assert crowd.flood(client) == 0
        crowd.close(client)


# ---------------------------------------------------------------- what is said


def test_it_is_counted_and_logged_once_a_minute(crowd: Crowd, caplog: pytest.LogCaptureFixture) -> None:
    before = counters.snapshot()[NOT_KEPT].get("more than UWS4R_KEEP_RATE", 0)
    client = crowd.open()
    crowd.flood(client)
    for _ in range(50):
        crowd.keeps(client, 10_000_000)
        crowd.now += 1
    crowd.now += 11
    crowd.flood(client)
    assert counters.snapshot()[NOT_KEPT]["more than UWS4R_KEEP_RATE"] == before + 52
    line = f"{client} publishes more than UWS4R_KEEP_RATE allows: delivered, and not kept"
    assert [record.getMessage() for record in caplog.records] == [line, f"{line}; 50 more since the last such line"]
    assert caplog.records[0].levelno == logging.WARNING
    assert ADDRESS in caplog.text


# ---------------------------------------------------------------- a hub carries it out


@pytest.fixture
def tight(make: Callable[..., Bench]) -> Bench:
    """A hub in which a client may keep 5 KB at once, and hardly any more for a day."""
    bench = make()
    bench.hub.keeping = Keeping(0.01, 0, 0, 100)
    return bench


def rejected(bench: Bench) -> int:
    assert bench.hub.keeping is not None
    return bench.call(lambda: sum(counters.snapshot()[NOT_KEPT].values()))


def test_what_is_beyond_the_budget_is_delivered_and_the_last_message_forgotten(tight: Bench) -> None:
    reader = tight.join("broadcast:a", "broadcast:b", "broadcast:new")
    publish = "broadcast:a", "broadcast:b", "broadcast:new"
    for name in publish[:2]:
        tight.redis.set(name, "older", ex=500)
    client = tight.join(publish=publish, expire=HOUR)
    client.send(b"\xff" * 10_000)
    assert reader.receive() == b"\xff" * 10_000
    assert tight.redis.mget(*publish) == [b"", b"", None]
    assert 0 < tight.redis.ttl("broadcast:a") <= 500
    newcomer = tight.join("broadcast:a", "broadcast:b", "broadcast:new")
    assert newcomer.ping() == []
    client.send("short")
    assert newcomer.receive() == "short"
    assert tight.redis.mget(*publish) == [b"short"] * 3
    assert 500 < tight.redis.ttl("broadcast:a") <= HOUR


def test_what_is_not_stored_anyway_needs_no_budget(tight: Bench) -> None:
    reader = tight.join("broadcast:a")
    tight.redis.set("broadcast:a", "of the site")
    before = rejected(tight)
    client = tight.join(publish=("broadcast:a",), expire=0)
    client.send("x" * 10_000)
    assert reader.receive() == "x" * 10_000
    assert tight.redis.get("broadcast:a") == b"of the site"
    assert rejected(tight) == before
    assert tight.hub.keeping is not None
    assert len(tight.hub.keeping) == 0


def test_to_come_back_to_a_hub_renews_nothing(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.hub.keeping = Keeping(10 * KIB, 0, 0, 100)
    reader = bench.join("broadcast:end")
    for number in range(100):
        client = bench.join(publish=(f"broadcast:{number}",), expire=HOUR, identity=f"{ADDRESS} - /ws/{number}")
        client.send("x" * 20_000)
        client.send_raw(masked_frame(8))
        client.receive_close()
    wait_until(lambda: bench.call(lambda: bench.hub.loop.count) == 1, "all others are gone")
    bench.redis.publish("broadcast:end", "end")
    assert reader.receive() == "end"
    kept = [number for number in range(100) if bench.redis.get(f"broadcast:{number}")]
    assert len(kept) == int(SAVED * 10 * KIB / price(20_000, (b"broadcast:00",)))


def test_what_waits_for_redis_is_counted_when_it_comes(make: Callable[..., Bench]) -> None:
    """And not kept when Redis is back, where it was too much."""
    bench = make()
    bench.hub.keeping = Keeping(0.01, 0, 0, 100)
    reader = bench.join("broadcast:a")
    client = bench.join(publish=("broadcast:a",), expire=HOUR)
    bench.call(lambda: bench.hub.keeper.lost("a test"))
    before = rejected(bench)
    client.send_raw(b"".join(masked_frame(TEXT, os.urandom(5000).hex().encode()) for _ in range(20)))
    for _ in range(20):
        assert len(reader.receive()) == 10_000
    assert rejected(bench) == before + 20
    assert bench.redis.get("broadcast:a") is None


def test_without_a_budget_all_is_kept(bench: Bench) -> None:
    assert bench.hub.keeping is None
    reader = bench.join("broadcast:a")
    client = bench.join(publish=("broadcast:a",), expire=HOUR)
    client.send("x" * 1_000_000)
    assert reader.receive() == "x" * 1_000_000
    assert bench.redis.strlen("broadcast:a") == 1_000_000
