"""What waits for the methods of a subscriber class has a bound in bytes, however many messages that are."""

from types import SimpleNamespace
from typing import Any

from uws4r.mailbox import COST
from uws4r.overrides import SubscriberCalls
from uws4r.subscriber import RedisSubscriber

ROOM = 100_000


class Slow(RedisSubscriber):
    def publish_message(self, message: Any, expire: int | None = None) -> int:
        raise AssertionError("no thread is there to call it")

    def parse_response(self) -> Any:
        raise AssertionError("no thread is there to call it")


def calls() -> SubscriberCalls:
    hub: Any = SimpleNamespace(threads=SimpleNamespace(submit=lambda run: None))
    return SubscriberCalls(Slow(object()), hub, ROOM)


def test_a_client_is_not_read_while_its_long_messages_wait() -> None:
    waiting = calls()
    assert [waiting.received(b"x" * 30_000, True) for _ in range(4)] == [False, False, False, True]


def test_nor_while_many_short_ones_do() -> None:
    waiting = calls()
    assert [waiting.received(b"x", True) for _ in range(100)] == [*[False] * 99, True]


def test_short_messages_of_others_cost_more_than_their_bytes() -> None:
    waiting = calls()
    taken = 0
    while waiting.pushed(b"broadcast:f", b"x", True, False):
        taken += 1
    assert taken == ROOM // (COST + 1)


def test_one_message_is_taken_however_long_it_is() -> None:
    assert calls().pushed(b"broadcast:f", b"x" * (2 * ROOM), True, False)
