"""Compression in a hub: made once for all who agreed on it, and only where it pays."""

import os
from collections.abc import Callable

from tests.support.hubs import Bench
from tests.support.wire import BINARY, TEXT, deflated, masked_frame

LONG = "something to compress, " * 100


def test_one_message_is_compressed_once_for_each_window(bench: Bench) -> None:
    wide = [bench.join("broadcast:f", window=15) for _ in range(20)]
    narrow = [bench.join("broadcast:f", window=9) for _ in range(20)]
    plain = [bench.join("broadcast:f") for _ in range(20)]
    bench.redis.publish("broadcast:f", LONG)
    for client in wide + narrow + plain:
        frame = client.frame()
        assert (frame.opcode, frame.payload.decode()) == (TEXT, LONG)
        assert frame.compressed == (client not in plain)
    assert bench.hub.fanout.compressed == 2


def test_copies_on_several_channels_are_compressed_once(bench: Bench) -> None:
    clients = [bench.join(name, window=15) for name in ("broadcast:f", "user:john:f", "user:mary:f")]
    pipeline = bench.redis.pipeline(transaction=True)
    for name in ("broadcast:f", "user:john:f", "user:mary:f"):
        pipeline.publish(name, LONG)
    with bench.held():
        pipeline.execute()
    assert [client.frame().payload.decode() for client in clients] == [LONG] * 3
    assert bench.hub.fanout.compressed == 1


def test_what_is_short_or_does_not_get_shorter_goes_out_as_it_is(bench: Bench) -> None:
    client = bench.join("broadcast:f", window=15)
    for payload in (b"a" * 512, os.urandom(2000)):
        bench.redis.publish("broadcast:f", payload)
        frame = client.frame()
        assert (frame.payload, frame.compressed) == (payload, False)
    assert bench.hub.fanout.compressed == 1
    bench.redis.publish("broadcast:f", b"a" * 513)
    assert client.frame().compressed


def test_nobody_listens_compressed_nothing_is_compressed(bench: Bench) -> None:
    client = bench.join("broadcast:f")
    bench.redis.publish("broadcast:f", LONG)
    assert client.receive() == LONG
    assert bench.hub.fanout.compressed == 0


def test_the_limit_of_a_queue_is_that_of_the_wire(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=20_000)
    client = bench.join("broadcast:f", window=15)
    with bench.held():  # they are queued in one turn
        for _ in range(50):
            bench.redis.publish("broadcast:f", LONG)
    assert [client.receive() for _ in range(50)] == [LONG] * 50


def test_persisted_messages_are_compressed_once_in_a_turn(bench: Bench) -> None:
    bench.redis.set("broadcast:f", LONG)
    bench.redis.set("user:john:f", LONG + "too")
    bench.join("broadcast:f")  # the channels are subscribed to
    with bench.held():
        clients = [bench.open("broadcast:f", "user:john:f", window=15) for _ in range(10)]
        plain = bench.open("broadcast:f")
    for client in clients:
        assert [client.frame().compressed for _ in range(2)] == [True, True]
    assert not plain.frame().compressed
    assert bench.hub.fanout.compressed <= 4  # their replies may come in two turns


def test_a_compressed_message_is_published_as_what_it_is(bench: Bench) -> None:
    sender = bench.join("broadcast:f", publish=("broadcast:f",), window=15)
    reader = bench.join("broadcast:f")
    packed = deflated(LONG.encode())
    sender.send_raw(
        masked_frame(TEXT, packed[:5], reserved=4, final=False)
        + masked_frame(0, packed[5:])
        + masked_frame(BINARY, deflated(b"\xff" * 10), reserved=4)
    )
    assert [reader.receive() for _ in range(2)] == [LONG, b"\xff" * 10]


def test_a_message_that_becomes_too_long_is_1009(make: Callable[..., Bench]) -> None:
    bench = make(max_message_size=10_000)
    client = bench.join("broadcast:f", publish=("broadcast:f",), window=15)
    client.send_raw(masked_frame(TEXT, deflated(bytes(10_001)), reserved=4))
    assert client.receive_close().close_code == 1009


def test_who_did_not_agree_must_not_compress(bench: Bench) -> None:
    client = bench.join("broadcast:f", publish=("broadcast:f",))
    client.send_raw(masked_frame(TEXT, deflated(b"hello"), reserved=4))
    assert client.receive_close().close_code == 1002


def test_compressing_takes_no_more_than_half_of_the_time(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=64 << 20)
    client = bench.join("broadcast:f", window=15)
    message = "".join(f"{number} " for number in range(60_000))  # some milliseconds each
    with bench.held():
        for number in range(60):
            bench.redis.publish("broadcast:f", f"{number} {message}")
    frames = [client.frame() for _ in range(60)]
    assert [frame.payload for frame in frames] == [f"{number} {message}".encode() for number in range(60)]
    assert {frame.compressed for frame in frames} == {True, False}
