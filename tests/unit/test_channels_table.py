"""The table of channels by name, compared with a dict of them."""

import random
import sys

import pytest

from uws4r._fanout import Fanout


@pytest.mark.parametrize("seed", range(20))
def test_it_has_what_a_dict_would_have(seed: int) -> None:
    """Small and crowded, so that channels meet, wrap around the table's end and come up when others go."""
    draw = random.Random(seed)
    fanout, model = Fanout(), {}
    names = [b"user:%d.%d:f" % (seed, number) for number in range(draw.choice((5, 6, 12, 40)))]
    for _ in range(2000):
        name = draw.choice(names)
        if name in model:
            assert fanout.unwant(model.pop(name))
        else:
            model[name], new = fanout.want(name, "f")
            assert new
        assert len(fanout.channels) == len(model)
        assert all(fanout.channels.get(each) is model.get(each) for each in names)
    assert sorted(fanout.channels) == sorted(model)
    assert set(fanout.channels.values()) == set(model.values())


def test_it_grows_and_empties() -> None:
    fanout = Fanout()
    channels = [fanout.want(b"session:%d:f" % number, "f")[0] for number in range(10_000)]
    assert [fanout.channels.get(b"session:%d:f" % number) for number in range(10_000)] == channels
    for channel in channels:
        fanout.unwant(channel)
    assert not fanout.channels
    assert list(fanout.channels) == []


def test_a_channel_is_held_as_long_as_it_is_in_the_table() -> None:
    fanout = Fanout()
    first, second = fanout.want(b"user:a:f", "f")[0], fanout.want(b"user:b:f", "f")[0]
    held = sys.getrefcount(first), sys.getrefcount(second)
    fanout.unwant(first)
    assert sys.getrefcount(first) == held[0] - 1
    del fanout
    assert sys.getrefcount(second) == held[1] - 1


def test_a_channel_that_has_gone_does_not_go_again() -> None:
    fanout = Fanout()
    channel, _ = fanout.want(b"user:a:f", "f")
    fanout.unwant(channel)
    channel.interest = 1
    with pytest.raises(KeyError, match="user:a:f"):
        fanout.unwant(channel)
    assert len(fanout.channels) == 0
