"""E and the heartbeat: what a client gets back, and what is no message."""

import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from django.test import override_settings

from tests.support.site import Site
from tests.support.wire import PONG, TEXT, masked_frame
from uws4r.publisher import RedisPublisher

pytestmark = pytest.mark.e2e

ROOM = "/ws/f?subscribe-broadcast&publish-broadcast"


def test_e1_own_messages_do_not_come_back(site: Site) -> None:
    sender, other = site.join(ROOM), site.join(ROOM)
    sender.send("m")
    assert other.receive() == "m"
    assert sender.ping() == []


def test_e2_with_echo_everything_comes(site: Site) -> None:
    sender = site.join(f"{ROOM}&echo")
    for message in ("a", "a", "b"):
        sender.send(message)
    assert [sender.receive() for _ in range(3)] == ["a", "a", "b"]


def test_e3_exactly_the_own_messages_are_withheld(site: Site) -> None:
    """BUG-E1, BUG-E2, BUG-E3: not an equal one of somebody else, not forgotten by a pong, not only the last."""
    sender, other = site.join(ROOM), site.join(ROOM)
    sender.send_raw(masked_frame(TEXT, b"one") + masked_frame(TEXT, b"two") + masked_frame(PONG) + masked_frame(TEXT))
    assert [other.receive() for _ in range(2)] == ["one", "two"]
    other.send("two")
    other.send("one")
    assert [sender.receive() for _ in range(2)] == ["two", "one"]
    assert sender.ping() == []


@pytest.fixture
def beating(served: Callable[..., Site]) -> Site:
    return served(settings={"WS4REDIS_HEARTBEAT": "--heartbeat--"})


@pytest.mark.slow
def test_a8_heartbeats_come_every_four_seconds_whatever_else_comes(beating: Site) -> None:
    busy = beating.join("/ws/f?subscribe-broadcast")
    times: list[float] = []
    others = 0
    while len(times) < 3:
        beating.redis.client.publish("broadcast:f", "traffic")
        if busy.receive() == "--heartbeat--":
            times.append(time.monotonic())
        else:
            others += 1
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(3.6 < gap < 4.4 for gap in gaps), gaps
    assert others > 100


def test_a8_the_heartbeat_is_swallowed_on_receipt(beating: Site) -> None:
    client = beating.connect(f"{ROOM}&echo")
    listener = beating.join(ROOM)
    client.send("--heartbeat--")
    client.send("a message")
    assert listener.receive() == "a message"
    assert beating.redis.client.get("broadcast:f") == b"a message"


def test_a8_the_heartbeat_is_never_forwarded_from_redis(beating: Site) -> None:
    """BUG-D6."""
    client = beating.join(ROOM)
    beating.redis.client.publish("broadcast:f", "--heartbeat--")
    beating.redis.client.publish("broadcast:f", "after it")
    assert client.receive() == "after it"
    beating.redis.client.set("broadcast:f", "--heartbeat--")
    assert beating.connect(ROOM).ping() == []


def test_a8_nobody_publishes_a_heartbeat(settings_heartbeat: None) -> None:
    with pytest.raises(ValueError, match="is WS4REDIS_HEARTBEAT, which no client takes for a message"):
        RedisPublisher(facility="f", broadcast=True).publish_message("--heartbeat--")


@pytest.fixture
def settings_heartbeat() -> Iterator[None]:
    with override_settings(WS4REDIS_HEARTBEAT="--heartbeat--"):
        yield
