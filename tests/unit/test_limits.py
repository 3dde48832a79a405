"""What a client may send, and how fast; what becomes of one that sends more."""

import os
from collections.abc import Callable

import pytest

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.support.wire import PING, TEXT, Client, deflated, masked_frame
from uws4r._connection import BURST
from uws4r.counters import CLOSED, Counters, counters


def closed_with(client: Client) -> tuple[int, bytes]:
    while (frame := client.frame()).opcode != 8:
        pass
    return frame.close_code, frame.payload[2:]


@pytest.mark.parametrize(
    "frame",
    [masked_frame(TEXT, b"x"), masked_frame(PING), masked_frame(TEXT, b"--heartbeat--")],
    ids=["messages", "pings", "heartbeats"],
)
def test_messages_faster_than_the_rate_are_1008(make: Callable[..., Bench], frame: bytes) -> None:
    bench = make(max_message_rate=20, heartbeat=b"--heartbeat--")
    allowed = int(20 * BURST)
    client, other = (bench.join("broadcast:f", publish=("broadcast:g",)) for _ in range(2))
    connection = bench.connection_of(client)
    client.send_raw(frame * (allowed - 1))
    wait_until(lambda: bench.call(lambda: connection.traffic[1]) == len(frame) * (allowed - 1), "received")
    assert bench.call(lambda: connection.is_open)
    client.send_raw(frame * 20)
    assert closed_with(client) == (1008, b"too many messages")
    bench.redis.publish("broadcast:f", "still here")
    assert other.receive() == "still here"


def test_bytes_faster_than_the_rate_are_1008(make: Callable[..., Bench]) -> None:
    bench = make(max_byte_rate=1000)
    client = bench.join("broadcast:f", publish=("broadcast:f",))
    client.send(os.urandom(int(1000 * BURST) - 100))
    client.ping()
    client.send(os.urandom(5000))
    assert closed_with(client) == (1008, b"too many bytes")


def test_what_is_inflated_counts(make: Callable[..., Bench]) -> None:
    bench = make(max_byte_rate=1000)
    client = bench.join("broadcast:f", publish=("broadcast:f",), window=15)
    client.send_raw(masked_frame(TEXT, deflated(b"x" * (int(1000 * BURST) + 1000)), reserved=4))
    assert closed_with(client) == (1008, b"too many bytes")


def test_without_a_rate_there_is_none(bench: Bench) -> None:
    client = bench.join("broadcast:f")
    client.send_raw(masked_frame(PING) * 20_000 + masked_frame(TEXT, b"x" * 1_000_000) * 20)
    for _ in range(20_000):
        client.frame()
    client.ping()


def test_a_frame_that_does_not_become_whole_is_1008(make: Callable[..., Bench]) -> None:
    bench = make(frame_timeout=1.5)
    half, slow, idle = (bench.join("broadcast:f", publish=("broadcast:f",)) for _ in range(3))
    between = bench.join("broadcast:f", publish=("broadcast:f",))
    half.send_raw(b"\x81")
    between.send_raw(masked_frame(TEXT, b"a fragment, ", final=False))
    whole = masked_frame(TEXT, b"whole in the end")
    slow.send_raw(whole[:10])
    connection = bench.connection_of(slow)
    wait_until(lambda: bench.call(lambda: bench.hub.loop.silence(connection)) > 0.5, "half a second")
    slow.send_raw(whole[10:])
    assert idle.receive() == "whole in the end"
    assert closed_with(half) == (1008, b"a message that did not become whole")
    # Between two frames of a message there may be any time.
    between.send_raw(masked_frame(0, b"and its end"))
    assert idle.receive() == "a fragment, and its end"
    assert idle.ping() == []


def test_a_frame_that_trickles_in_is_stopped_too(make: Callable[..., Bench]) -> None:
    bench = make(frame_timeout=1)
    client = bench.join("broadcast:f", publish=("broadcast:f",))
    connection = bench.connection_of(client)
    data = masked_frame(TEXT, b"x" * 100)
    for byte in data:
        client.send_raw(bytes([byte]))
        wait_until(lambda: bench.call(lambda: bench.hub.loop.silence(connection)) > 0.05, "a while", pause=0.01)
        if not bench.call(lambda: connection.is_open):
            break
    assert closed_with(client)[0] == 1008


def test_closes_are_counted_by_reason(make: Callable[..., Bench]) -> None:
    before = counters.snapshot()[CLOSED].get("1002 unmasked frame", 0)
    bench = make()
    client = bench.join("broadcast:f")
    client.send_raw(b"\x81\x02hi")
    client.receive_close()
    assert counters.snapshot()[CLOSED]["1002 unmasked frame"] == before + 1


def test_reasons_without_end_are_counted_together() -> None:
    many = Counters()
    for number in range(1000):
        many.add(CLOSED, f"{number}")
    counts = many.snapshot()[CLOSED]
    assert len(counts) == 101
    assert counts["others"] == 900
