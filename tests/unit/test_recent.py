"""Orders that came while a handshake was under way."""

import json
import time
from types import SimpleNamespace
from typing import Any

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.unit.test_control import JOHN, order, publishes
from uws4r.attachment import GONE, Over
from uws4r.control import Control
from uws4r.recent import KEPT, MOST_NAMES, MOST_ORDERS, Recent
from uws4r.sessions import SessionChecks

LATER = int(time.time()) + 10_000


def an_order(received: float, size: int = 1) -> Any:
    return SimpleNamespace(received=received, size=size)


def test_those_since_a_time_are_returned_the_newest_first() -> None:
    recent = Recent()
    for second in range(10):
        recent.keep(an_order(float(second)))
    assert [each.received for each in recent.since(7.0)] == [9.0, 8.0, 7.0]
    assert list(recent.since(9.5)) == []
    assert len(list(recent.since(float("-inf")))) == 10
    assert recent.forgotten == float("-inf")


def test_old_ones_are_forgotten() -> None:
    recent = Recent()
    for second in (0.0, 1.0, KEPT, KEPT + 0.5, KEPT + 1.5):
        recent.keep(an_order(second))
    assert recent.forgotten == 1.0
    assert [each.received for each in recent.since(0.0)] == [KEPT + 1.5, KEPT + 0.5, KEPT]


def test_no_more_than_so_many_are_kept() -> None:
    recent = Recent()
    for number in range(MOST_ORDERS + 10):
        recent.keep(an_order(number / 1000))
    assert len(recent) == MOST_ORDERS
    assert recent.forgotten == 0.009
    for number in range(5):
        recent.keep(an_order(10 + number, MOST_NAMES // 2))
    assert len(recent) == 2
    recent.keep(an_order(20, 2 * MOST_NAMES))
    assert [each.received for each in recent.since(0)] == [20]


def test_an_order_meets_who_began_before_it_and_nobody_else(bench: Bench) -> None:
    control = Control(bench.hub)
    began = time.monotonic()
    order(bench, control, do="close", code=4403, users=["john"])
    late = bench.open("broadcast:f", began=began, **JOHN)
    other = bench.open("broadcast:f", began=began, identity="203.0.113.7 mary /ws/f")
    fresh = bench.open("broadcast:f", **JOHN)
    assert late.receive_close().close_code == 4403
    assert (other.ping(), fresh.ping()) == ([], [])
    order(bench, control, do="close", code=4404, paths=["/ws/f"], sessions=["key"])
    assert [client.receive_close().close_code for client in (other, fresh)] == [4404, 4404]
    assert bench.open("broadcast:f", began=began, identity="203.0.113.7 - /ws/g", session="key").receive_close()
    assert bench.open("broadcast:f", began=began, identity="203.0.113.7 - /ws/g", session="other").ping() == []


def test_a_group_is_left_by_who_comes_from_a_time_before(bench: Bench) -> None:
    control = Control(bench.hub)
    began = time.monotonic()
    order(bench, control, do="leave", users=["john"], under=["group:a:"])
    names = ("group:a:f", "broadcast:f")
    client = bench.join(*names, publish=names, began=began, **JOHN)
    for name in names:
        bench.redis.publish(name, name)
    assert client.receive() == "broadcast:f"
    assert client.ping() == []
    assert publishes(bench, client) == (b"broadcast:f",)


def test_who_comes_from_a_time_that_is_forgotten_is_sent_back(bench: Bench) -> None:
    control = Control(bench.hub)
    began = time.monotonic()
    for _ in range(MOST_ORDERS + 1):
        bench.hub.call_soon(lambda: control.receive(json.dumps({"do": "leave", "users": ["mary"]}).encode()))
    wait_until(lambda: bench.call(lambda: len(control._recent)) == MOST_ORDERS, "kept")
    assert bench.open("broadcast:f", began=began, **JOHN).receive_close().close_code == 1013
    assert bench.open("broadcast:f", **JOHN).ping() == []


def test_a_session_is_looked_at_where_an_order_may_be_missing(bench: Bench) -> None:
    read = []

    def gone(key: str, user: str) -> int | Over:
        read.append(key)
        return GONE if key.startswith("gone") else LATER

    control = Control(bench.hub, SessionChecks(gone, 0, bench.hub))
    before = bench.hub.keeper.since - 1
    after = bench.hub.keeper.since + 1
    bench.call(lambda: setattr(bench.hub.keeper, "since", bench.hub.keeper.since - 100))  # so that it is over
    fresh = bench.open("broadcast:f", session="gone, but nobody looks", expires=LATER, began=after, **JOHN)
    unread = bench.open("broadcast:f", session="claimed", began=before - 100, **JOHN)
    late = bench.open("broadcast:f", session="gone", expires=LATER, began=before - 100, **JOHN)
    stays = bench.open("broadcast:f", session="here", expires=LATER, began=before - 100, **JOHN)
    assert late.receive_close().close_code == 4501  # nobody knows whether it was a logout
    # Django tells of a logout a moment before the session ends.
    order(bench, control, do="close", code=4401, sessions=["gone too", "here"])
    assert stays.receive_close().close_code == 4401
    soon = bench.open("broadcast:f", session="gone too", **JOHN)
    again = bench.open("broadcast:f", session="here", **JOHN)
    assert soon.receive_close().close_code == 4401
    assert [client.ping() for client in (fresh, unread, again)] == [[], [], []]
    assert sorted(read) == ["gone", "gone", "gone too", "here", "here"]
