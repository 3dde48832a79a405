"""Whose input is read when, and what becomes of those who send all the time."""

import os
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.soak.greedy import empty_blocks
from tests.support.hubs import Bench
from tests.support.servers import RedisServer, wait_until
from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT, Client, close_frame, deflated, masked_frame

SHARE = 1 << 16  # bytes that are received from one client at a time


@contextmanager
def published(bench: Bench, channel: str) -> Iterator[Callable[[int], list[bytes]]]:
    """Returns what the next so many messages on a channel are, as Redis publishes them."""
    listener = bench.redis.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(channel)
    listener.get_message(timeout=10)

    def take(count: int) -> list[bytes]:
        found: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(found) < count and time.monotonic() < deadline:
            if (message := listener.get_message(timeout=1)) is not None:
                found.append(message["data"])
        return found

    try:
        yield take
    finally:
        listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that can be stopped."""
    server = RedisServer(tmp_path)
    yield server
    server.close()


def test_a_pong_that_a_late_hub_has_not_read_counts(make: Callable[..., Bench]) -> None:
    bench = make(ping_interval=0.3, ping_timeout=0.4)
    client = bench.join("broadcast:f")
    while client.frame().opcode != PING:
        pass
    with bench.held():
        client.send_raw(masked_frame(PONG))
        late = threading.Event()
        late.wait(1.5)
    bench.redis.publish("broadcast:f", "still here")
    while (frame := client.frame()).opcode == PING:
        client.send_raw(masked_frame(PONG))
    assert (frame.opcode, frame.payload) == (TEXT, b"still here")


def test_who_does_not_answer_a_ping_is_closed_all_the_same(make: Callable[..., Bench]) -> None:
    bench = make(ping_interval=0.3, ping_timeout=0.4)
    client = bench.join("broadcast:f")
    while (frame := client.frame()).opcode != CLOSE:
        pass
    assert frame.close_code == 1011


def test_a_client_is_not_behind_all_that_others_have_sent(bench: Bench) -> None:
    greedy = [bench.join("broadcast:f", publish=("broadcast:g",)) for _ in range(40)]
    modest = bench.join("broadcast:f", publish=("broadcast:g",))
    message = masked_frame(TEXT, b"x" * 200)
    each = SHARE // len(message)
    with published(bench, "broadcast:g") as take:
        with bench.held():  # all of it is there when the hub looks
            for client in greedy:
                client.send_raw(message * each)
            modest.send("modest")
        before = take(40 * each + 1).index(b"modest")
    # One share of the time for each of those before it, which is far from all that they have sent.
    assert before < 20 * each, f"{before} messages of {40 * each} came before it"


def test_who_keeps_the_hub_busy_comes_after_the_others(bench: Bench) -> None:
    greedy = [bench.join("broadcast:f", publish=("broadcast:g",), window=15) for _ in range(20)]
    modest = bench.join("broadcast:f", publish=("broadcast:g",))
    blocks = masked_frame(BINARY, empty_blocks(400), reserved=4)  # an empty message, after half a millisecond
    took = []
    ending = threading.Event()

    def flood(client: Client) -> None:
        client.sock.settimeout(0.2)
        while not ending.is_set():
            try:
                client.sock.sendall(blocks * 4)
            except TimeoutError:
                pass  # and begins in the middle of a message: the rest of it will be 1002
            except OSError:
                return

    threads = [threading.Thread(target=flood, args=(client,)) for client in greedy]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            begin = time.monotonic()
            modest.ping()
            took.append(time.monotonic() - begin)
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert statistics.median(took) < 0.05, took


def test_messages_stay_whole_and_in_order_however_often_their_client_is_interrupted(make: Callable[..., Bench]) -> None:
    bench = make(max_message_rate=0, max_byte_rate=0)
    senders = [bench.join("broadcast:f", publish=("broadcast:g",), window=15) for _ in range(4)]
    count = 300

    def message(sender: int, number: int) -> bytes:
        return b"%d %d " % (sender, number) + b"s" * (number * 997 % 20_000)

    def send(sender: int) -> None:
        for number in range(count):
            payload = message(sender, number)
            packed = number % 3 == 0
            data = masked_frame(TEXT, deflated(payload) if packed else payload, reserved=4 if packed else 0)
            senders[sender].send_raw(masked_frame(BINARY, empty_blocks(50), reserved=4) + data)
        senders[sender].send_raw(close_frame(1000))

    with published(bench, "broadcast:g") as take:
        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
        for thread in threads:
            thread.start()
        found = take(4 * count)
        for thread in threads:
            thread.join()
    for sender in range(4):
        own = [each for each in found if each.startswith(b"%d " % sender)]
        assert own == [message(sender, number) for number in range(count)]
        assert senders[sender].frame().close_code == 1000


def test_one_message_is_interrupted_as_well(make: Callable[..., Bench]) -> None:
    bench = make(max_byte_rate=0, max_message_size=8 << 20)
    slow = bench.join("broadcast:f", publish=("broadcast:g",), window=15)
    other = bench.join("broadcast:f")
    # Some 400 ms of work.
    message = masked_frame(TEXT, empty_blocks(600_000) + b"\0\0\xff\xff" + deflated(b"the end"), reserved=4)
    slow.send_raw(message[:-1])
    slow.sock.settimeout(10)
    connection = bench.connection_of(slow)
    wait_until(lambda: bench.call(lambda: connection.traffic[1]) == len(message) - 1, "all but the last byte is there")
    with bench.held():
        slow.send_raw(message[-1:])
        other.send_raw(masked_frame(PING, b"now"))
    assert other.frame().payload == b"now"
    assert bench.call(lambda: connection.traffic[0]) == 0  # the hub is still at it
    wait_until(lambda: bench.call(lambda: connection.traffic[0]) == 1, "inflated")


def test_a_client_that_leaves_with_input_unread_is_forgotten(make: Callable[..., Bench]) -> None:
    bench = make(max_byte_rate=0)
    blocks = masked_frame(BINARY, empty_blocks(2000), reserved=4)
    with published(bench, "broadcast:g") as take:
        for number in range(20):
            client = bench.join("broadcast:f", publish=("broadcast:g",), window=15)
            with bench.held():
                client.send_raw(blocks * 2 + masked_frame(TEXT, b"%d" % number))
                client.sock.close()
        # What was sent before the end counts; the next client may overtake it.
        assert sorted(take(20)) == sorted(b"%d" % number for number in range(20))
    wait_until(lambda: bench.hub.loop.count == 0, "gone")


def test_unfinished_messages_have_a_budget_and_the_largest_go(make: Callable[..., Bench]) -> None:
    bench = make(receive_buffer=1 << 20, max_message_size=1 << 18, max_byte_rate=0)
    small = bench.join("broadcast:f", publish=("broadcast:f",))
    small.send_raw(masked_frame(TEXT, b"begun", final=False))
    large = [bench.join("broadcast:f", publish=("broadcast:f",)) for _ in range(6)]
    connections = [bench.connection_of(client) for client in large]
    for client in large:
        client.send_raw(masked_frame(TEXT, b"x" * 200_000, final=False))
    wait_until(lambda: all(bench.call(lambda: [c.traffic[1] > 200_000 for c in connections])), "all is there")
    for client in large:
        client.send_raw(masked_frame(PING))
    codes = [frame.close_code if (frame := client.frame()).opcode == CLOSE else None for client in large]
    assert set(codes) == {None, 1013}
    assert bench.call(lambda: bench.hub._limits.unfinished) <= 1 << 20
    small.send_raw(masked_frame(0, b", ended"))
    stayed = [client for client, code in zip(large, codes, strict=True) if code is None]
    assert [client.receive() for client in stayed] == ["begun, ended"] * len(stayed)
    for client in large:
        client.sock.close()
    wait_until(lambda: bench.call(lambda: bench.hub._limits.unfinished) == 0, "all given back")


def test_a_compressed_message_without_an_end_takes_what_has_been_sent(make: Callable[..., Bench]) -> None:
    bench = make(max_byte_rate=0)
    clients = [bench.join("broadcast:f", publish=("broadcast:f",), window=15) for _ in range(50)]
    bomb = zlib.compressobj(9, wbits=-15)
    packed = bomb.compress(b"x" * (1 << 20)) + bomb.flush(zlib.Z_SYNC_FLUSH)
    assert len(packed) < 1100
    for client in clients:
        client.send_raw(masked_frame(TEXT, packed, reserved=4, final=False))
        client.ping()
    assert bench.call(lambda: bench.hub._limits.unfinished) <= 50 * 2048


def test_a_message_that_does_not_become_whole_is_1008(make: Callable[..., Bench]) -> None:
    bench = make(message_timeout=1.0)
    client, other = (bench.join("broadcast:f", publish=("broadcast:f",)) for _ in range(2))
    client.send_raw(masked_frame(TEXT, b"begun", final=False))
    connection = bench.connection_of(client)
    while bench.call(lambda: connection.is_open):  # whole frames, one after the other
        client.send_raw(masked_frame(0, b", and so on", final=False))
        wait_until(lambda: bench.call(lambda: bench.hub.loop.silence(connection)) > 0.05, "a while", pause=0.01)
    frame = client.receive_close()
    assert (frame.close_code, frame.payload[2:]) == (1008, b"a message that did not become whole")
    assert other.ping() == []


def test_the_queue_of_a_client_counts_what_its_frames_cost(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=10_000)
    deaf = bench.join("broadcast:f")
    connection = bench.connection_of(deaf)
    with bench.held():
        bench.redis.publish("broadcast:f", os.urandom(1 << 20))  # more than the socket takes
    wait_until(lambda: bench.call(lambda: connection.queued) > 0, "the socket is full")
    for number in range(200):
        bench.redis.publish("broadcast:f", f"{number % 10}")
    wait_until(lambda: not bench.call(lambda: connection.is_open), "closed")
    assert connection.close_code == 1013


@pytest.mark.parametrize("count", [1, 3])
def test_what_waits_for_redis_has_a_bound_in_bytes(make: Callable[..., Bench], server: RedisServer, count: int) -> None:
    bench = make(server, publish_buffer=1000, publish_buffer_size=1 << 20, max_message_size=1 << 18, max_byte_rate=0)
    clients = [bench.join("broadcast:f", publish=("broadcast:f",)) for _ in range(count)]
    server.stop()
    wait_until(lambda: bench.call(lambda: bench.hub.keeper.link is None), "no link")
    for _ in range(10):
        for client in clients:
            try:
                client.send(b"x" * 200_000)
            except OSError:
                pass  # closed already
    for client in clients:
        while (frame := client.frame()).opcode != CLOSE:
            pass
        assert (frame.close_code, frame.payload[2:]) == (1013, b"the message queue is away")
    assert bench.call(lambda: bench.hub.outbox.bytes) <= 1 << 20


def test_clients_faster_than_redis_wait_within_a_bound(make: Callable[..., Bench]) -> None:
    bench = make(publish_buffer_size=1 << 20, max_message_size=1 << 18, max_byte_rate=0, max_message_rate=0)
    clients = [bench.join("broadcast:f", publish=("broadcast:g",)) for _ in range(20)]
    most = 0
    with published(bench, "broadcast:g") as take:
        threads = [
            threading.Thread(target=client.send_raw, args=(masked_frame(BINARY, b"x" * 200_000) * 10,))
            for client in clients
        ]
        for thread in threads:
            thread.start()
        found = 0
        while found < 200:
            found += len(take(1))
            most = max(most, bench.call(lambda: bench.hub.outbox.bytes))
        for thread in threads:
            thread.join()
    assert most <= (1 << 20) + (1 << 18)
