"""A hub on a real Redis, its clients at the other end of socket pairs."""

import itertools
import logging
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.connection import Connection as RedisConnection
from redis.retry import Retry

from tests.support.servers import RedisServer, wait_until
from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT, Client, close_frame, masked_frame
from uws4r._connection import Connection
from uws4r.attachment import Attachment, HubOptions
from uws4r.engines.thread import run_in_thread
from uws4r.hub import Hub


class Bench:
    """A running hub, and what a test does to it."""

    def __init__(self, server: RedisServer, options: HubOptions) -> None:
        self.server = server
        self.redis = server.client
        self.clients: list[Client] = []
        self.descriptors: dict[socket.socket, int] = {}  # a client's socket -> the hub's end
        self.hub = Hub(self.connection, options)
        self.thread = run_in_thread(self.hub)
        assert self.hub.connector.wait()

    def connection(self) -> RedisConnection:
        return RedisConnection(
            host="127.0.0.1", port=self.server.port, protocol=3, client_name="uws4r", retry=Retry(NoBackoff(), 0)
        )

    def call(self, function: Callable[[], Any]) -> Any:
        """Something done by the hub's thread."""
        done = threading.Event()
        results: list[Any] = []

        def run() -> None:
            results.append(function())
            done.set()

        self.hub.call_soon(run)
        assert done.wait(10)
        return results[0]

    @contextmanager
    def held(self) -> Iterator[None]:
        """The hub's thread stands still, so that all that happens meanwhile is one turn of it."""
        reached, release = threading.Event(), threading.Event()

        def hold() -> None:
            reached.set()
            release.wait(10)

        self.hub.call_soon(hold)
        assert reached.wait(10)
        try:
            yield
        finally:
            release.set()

    def connection_of(self, client: Client) -> Connection:
        fd = self.descriptors[client.sock]
        return self.call(lambda: next(c for c in self.hub.loop.connections if c.fd == fd))

    def open(self, *channels: str, publish: tuple[str, ...] = (), **options: object) -> Client:
        """A client that listens to ``facility`` channels by their full names; the last part is the facility."""
        ours, theirs = socket.socketpair()
        client = Client(ours)
        self.clients.append(client)
        fd = self.descriptors[ours] = theirs.detach()
        subscribe = tuple((name.encode(), name.rpartition(":")[2]) for name in channels)
        self.hub.attach(
            Attachment(
                fd=fd,
                identity="test",
                subscribe=subscribe,
                publish=tuple(name.encode() for name in publish),
                **options,  # type: ignore[arg-type]
            )
        )
        return client

    def join(self, *channels: str, **options: object) -> Client:
        """The same, and it has joined."""
        client = self.open(*channels, **options)
        wait_until(lambda: self.call(lambda: self.joined(self.descriptors[client.sock])), "joined", pause=0.001)
        return client

    def joined(self, fd: int) -> bool:
        return any(c.fd == fd and c.attachment is None for c in self.hub.loop.connections)

    def close(self) -> None:
        for client in self.clients:
            client.sock.close()
        self.hub.stop(5)
        assert self.hub.stopped.is_set()
        self.thread.join(5)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with no links but those of the hubs here."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture
def make(redis_server: RedisServer) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []
    redis_server.client.flushall()

    def start(server: RedisServer = redis_server, **options: object) -> Bench:
        benches.append(Bench(server, HubOptions(**options)))  # type: ignore[arg-type]
        return benches[-1]

    yield start
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


# ---------------------------------------------------------------- joining


def store_and_publish(client: redis.Redis, names: list[str], message: str) -> None:
    pipeline = client.pipeline(transaction=True)
    for name in names:
        pipeline.publish(name, message)
        pipeline.set(name, message, ex=60)
    pipeline.execute()


class Torrent:
    """Publishes consecutive numbers on channels, together or each its own, without pause."""

    def __init__(self, bench: Bench, names: list[str], together: bool) -> None:
        self.redis = redis.Redis(port=bench.server.port, protocol=2)
        self.names, self.together = names, together
        self.running = True
        self.sent = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while self.running:
            self.sent += 1
            if self.together:
                store_and_publish(self.redis, self.names, f"{self.sent}")
            else:
                for name in self.names:
                    store_and_publish(self.redis, [name], f"{name} {self.sent}")

    def stop(self) -> int:
        self.running = False
        self.thread.join()
        self.redis.close()
        return self.sent


def join_during(bench: Bench, torrent: Torrent, names: list[str], count: int) -> tuple[list[list[str]], int]:
    """Open clients one after the other during a torrent; return what each received, up to its last number."""
    clients: list[Client] = []
    received: list[list[Any]] = []
    try:
        wait_until(lambda: torrent.sent > 10, "publishing")
        for _ in range(count):
            clients.append(bench.open(*names))
            received.append(clients[-1].ping())
    finally:
        last = torrent.stop()
    for client, messages in zip(clients, received, strict=True):
        missing = {f"{name} {last}" for name in names} if not torrent.together else {f"{last}"}
        while not missing <= set(messages):
            messages.append(client.receive())
        messages += client.ping()
    return received, last


@pytest.mark.parametrize("names", [["broadcast:f"], ["broadcast:f", "user:john:f", "group:chatters:f"]])
def test_the_cut_is_clean_under_a_publisher_that_never_pauses(bench: Bench, names: list[str]) -> None:
    """From its first message on, a client gets every number once, in order: no gap, no duplicate."""
    received, last = join_during(bench, Torrent(bench, names, together=True), names, 150)
    for messages in received:
        numbers = [int(message) for message in messages]
        assert numbers == list(range(numbers[0], last + 1))


def test_the_cut_is_clean_for_each_of_several_channels(bench: Bench) -> None:
    names = ["broadcast:f", "user:john:f"]
    received, last = join_during(bench, Torrent(bench, names, together=False), names, 100)
    for messages in received:
        for name in names:
            numbers = [int(message.split()[1]) for message in messages if message.startswith(name)]
            assert numbers == list(range(numbers[0], last + 1))


def test_equal_persisted_values_come_once(bench: Bench) -> None:
    for name in ("user:john:f", "broadcast:f"):
        bench.redis.set(name, "same")
    bench.redis.set("group:g:f", "other")
    client = bench.join("user:john:f", "group:g:f", "broadcast:f")
    assert client.ping() == ["same", "other"]


def test_a_key_of_another_type_is_no_value(bench: Bench) -> None:
    bench.redis.lpush("broadcast:f", "not a string")
    client = bench.join("broadcast:f")
    bench.redis.publish("broadcast:f", "m")
    assert client.receive() == "m"


def test_without_fetch_nothing_persisted_is_sent(bench: Bench) -> None:
    bench.redis.set("broadcast:f", "old")
    client = bench.join("broadcast:f", fetch=False, greeting=((TEXT, b"first"),))
    bench.redis.publish("broadcast:f", "new")
    assert [client.receive(), client.receive()] == ["first", "new"]


# ---------------------------------------------------------------- own messages, copies, changes


def test_own_messages_do_not_come_back_without_echo(bench: Bench) -> None:
    """BUG-E3: also not when there are two in quick succession."""
    sender = bench.join("broadcast:f", publish=("broadcast:f",))
    other = bench.join("broadcast:f")
    for message in ("one", "two", "one"):
        sender.send(message)
    assert [other.receive() for _ in range(3)] == ["one", "two", "one"]
    assert sender.ping() == []


def test_an_equal_message_of_somebody_else_does_come(bench: Bench) -> None:
    """BUG-E1: not even once suppressed for good."""
    sender = bench.join("broadcast:f", publish=("broadcast:f",))
    other = bench.join("broadcast:f", publish=("broadcast:f",))
    sender.send("same")
    assert other.receive() == "same"
    other.send("same")
    assert sender.receive() == "same"
    bench.redis.publish("broadcast:f", "same")
    assert sender.receive() == "same"
    assert other.receive() == "same"


def test_own_copies_on_all_own_channels_are_withheld(bench: Bench) -> None:
    names = ("broadcast:f", "user:john:f")
    sender = bench.join(*names, publish=names)
    sender.send("mine")
    wait_until(lambda: bench.hub.fanout.withheld == 2, "both withheld")
    bench.redis.publish("user:john:f", "after")
    assert sender.receive() == "after"


def test_an_own_message_on_a_channel_not_joined_leaves_nothing_behind(bench: Bench) -> None:
    sender = bench.join("broadcast:f", publish=("user:john:f",))
    sender.send("mine")
    sender.ping()
    bench.redis.publish("broadcast:f", "mine")
    assert sender.receive() == "mine"


def test_a_message_sent_before_joining_does_not_come_back_either(bench: Bench) -> None:
    sender = bench.open("broadcast:f", publish=("broadcast:f",), fetch=False)
    sender.send("early")
    bench.redis.ping()
    wait_until(lambda: bench.redis.pubsub_numsub("broadcast:f")[0][1], "subscribed")
    sender.ping()
    bench.redis.publish("broadcast:f", "late")
    assert sender.receive() == "late"


def test_echo_withholds_nothing(bench: Bench) -> None:
    sender = bench.join("broadcast:f", publish=("broadcast:f",), echo=True)
    for _ in range(2):
        sender.send("mine")
    assert [sender.receive(), sender.receive()] == ["mine", "mine"]


def test_copies_of_one_publish_come_once(bench: Bench) -> None:
    names = ["user:john:f", "group:g:f", "broadcast:f"]
    both, one = bench.join(*names), bench.join("broadcast:f")
    for message in ("a", "b", "a"):
        store_and_publish(bench.redis, names, message)
    assert [both.receive() for _ in range(3)] == ["a", "b", "a"]
    assert [one.receive() for _ in range(3)] == ["a", "b", "a"]
    assert both.ping() == one.ping() == []


def test_copies_published_by_a_client_come_once(bench: Bench) -> None:
    names = ("user:john:f", "broadcast:f")
    sender = bench.join(*names, publish=names, echo=True, expire=60)
    other = bench.join(*names)
    sender.send("m")
    assert sender.receive() == other.receive() == "m"
    assert sender.ping() == other.ping() == []
    assert bench.redis.ttl("broadcast:f") > 50


def test_equal_messages_in_a_row_on_one_channel_all_come(bench: Bench) -> None:
    client = bench.join("broadcast:f")
    for _ in range(3):
        bench.redis.publish("broadcast:f", "same")
    assert [client.receive() for _ in range(3)] == ["same"] * 3


def test_changes_withholds_what_equals_the_message_before_on_the_channel(bench: Bench) -> None:
    bench.redis.set("broadcast:f", "a")
    client = bench.join("broadcast:f", "user:john:f", changes=True)
    for message in ("a", "b", "b", "a"):
        bench.redis.publish("broadcast:f", message)
    time_apart(bench)
    bench.redis.publish("user:john:f", "a")
    assert [client.receive() for _ in range(4)] == ["a", "b", "a", "a"]
    assert client.ping() == []


def test_changes_compares_with_what_was_published_before_not_with_what_was_delivered(bench: Bench) -> None:
    """A switch: on (by another), off (by me, so withheld), on again has to come."""
    me = bench.join("broadcast:f", publish=("broadcast:f",), changes=True)
    bench.redis.publish("broadcast:f", "on")
    assert me.receive() == "on"
    me.send("off")
    wait_until(lambda: bench.hub.fanout.withheld == 1, "mine withheld")
    bench.redis.publish("broadcast:f", "on")
    assert me.receive() == "on"


def test_changes_after_a_copy(bench: Bench) -> None:
    client = bench.join("broadcast:f", "user:john:f", changes=True)
    bench.redis.publish("broadcast:f", "b")
    time_apart(bench)
    store_and_publish(bench.redis, ["user:john:f", "broadcast:f"], "a")  # on the broadcast it is a copy
    time_apart(bench)
    bench.redis.publish("broadcast:f", "b")
    assert [client.receive() for _ in range(3)] == ["b", "a", "b"]


def test_a_message_before_a_failed_publish_of_the_same_bytes_does_come(bench: Bench) -> None:
    me = bench.join("broadcast:f", publish=("broadcast:f", "user:x:f"))
    bench.join("broadcast:f", changes=True)  # makes the hub take digests
    bench.redis.execute_command("ACL", "SETUSER", "default", "-eval")
    try:
        with bench.held():
            bench.redis.publish("broadcast:f", "same")
            select.select([bench.hub.link], [], [], 10)  # it is here before mine is sent
            me.send("same")
        assert me.receive() == "same"
        wait_until(lambda: bench.hub.lost_publishes == 1, "the publish refused")
    finally:
        bench.redis.execute_command("ACL", "SETUSER", "default", "+eval")


def time_apart(bench: Bench) -> None:
    """Make the link carry a reply, so that what follows is no copy of what was before."""
    bench.join("broadcast:other")


# ---------------------------------------------------------------- messages of clients


def test_messages_are_published_raw_and_persisted(bench: Bench) -> None:
    sender = bench.join("broadcast:f", publish=("broadcast:f",), expire=60, echo=True)
    for message, stored in (
        ("text", b"text"),
        (b"\xff", b"\xff"),
        (b"bytes that are text", b"\x00u4\x01\x01bytes that are text"),
        ("\x00u4\x01\x01forged", b"\x00u4\x01\x00\x00u4\x01\x01forged"),
    ):
        sender.send(message)
        assert sender.receive() == message
        assert bench.redis.get("broadcast:f") == stored


def test_an_empty_message_is_no_message(bench: Bench) -> None:
    sender = bench.join("broadcast:f", publish=("broadcast:f",), echo=True, expire=60)
    sender.send("")
    bench.redis.publish("broadcast:f", "")
    sender.send("next")
    assert sender.receive() == "next"


def test_the_heartbeat_of_a_client_is_swallowed(make: Callable[..., Bench]) -> None:
    bench = make(heartbeat=b"--heartbeat--")
    client = bench.join("broadcast:f", publish=("broadcast:f",), echo=True, expire=60)
    client.send("--heartbeat--")
    client.send("message")
    assert client.receive() == "message"
    assert client.ping() == []


def test_a_client_that_is_faster_than_redis_waits_and_holds_nobody_up(bench: Bench) -> None:
    reader = bench.join("broadcast:f")
    flood = bench.join(publish=("broadcast:f",))
    count = 100_000
    data = b"".join(masked_frame(TEXT, b"%d" % i) for i in range(count))
    sender = threading.Thread(target=flood.send_raw, args=(data,))
    sender.start()
    other = bench.join("broadcast:g", publish=("broadcast:g",), echo=True)
    slowest = 0.0
    for _ in range(20):
        begin = time.monotonic()
        other.send("between")
        assert other.receive() == "between"
        slowest = max(slowest, time.monotonic() - begin)
    assert [reader.receive() for _ in range(count)] == [str(i) for i in range(count)]
    sender.join()
    assert slowest < 2
    flood.ping()


def test_redis_that_forgot_its_scripts_keeps_the_order(bench: Bench) -> None:
    sender = bench.join("broadcast:f", publish=("broadcast:f",), echo=True, expire=60)
    for i in range(3):
        bench.redis.script_flush()
        sender.send_raw(b"".join(masked_frame(TEXT, b"%d %d" % (i, k)) for k in range(50)))
        assert [sender.receive() for _ in range(50)] == [f"{i} {k}" for k in range(50)]


def test_a_publish_that_redis_refuses_is_logged_and_costs_no_websocket(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    user = bench.redis.acl_getuser("default")
    assert user is not None
    sender = bench.join("broadcast:f", publish=("broadcast:f",), expire=60, echo=True)
    bench.redis.execute_command("ACL", "SETUSER", "default", "resetkeys", "~allowed*")
    try:
        sender.send("forbidden")
        wait_until(lambda: "Redis refused" in caplog.text, "logged")
    finally:
        bench.redis.execute_command("ACL", "SETUSER", "default", "allkeys")
    assert bench.hub.lost_publishes == 1
    sender.send("allowed")
    assert sender.receive() == "allowed"


# ---------------------------------------------------------------- closing


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(close_frame(1000, "bye"), 1000, id="1000 is echoed"),
        pytest.param(close_frame(4321), 4321, id="4321 is echoed"),
        pytest.param(masked_frame(CLOSE), 1000, id="an empty one is answered 1000"),
        pytest.param(b"\x81\x02hi", 1002, id="unmasked"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 1002, id="garbage"),
        pytest.param(masked_frame(TEXT, b"\xff"), 1007, id="no UTF-8"),
        pytest.param(masked_frame(BINARY, b"x" * 70_000)[:20], 1009, id="too big"),
    ],
)
def test_every_end_has_its_close_code(make: Callable[..., Bench], sent: bytes, code: int) -> None:
    bench = make(max_message_size=65_536)
    client, other = bench.join("broadcast:f"), bench.join("broadcast:f")
    client.send_raw(sent)
    assert client.receive_close().close_code == code
    assert client.ended()
    client.sock.close()
    bench.redis.publish("broadcast:f", "still here")
    assert other.receive() == "still here"
    wait_until(lambda: bench.call(lambda: len(bench.hub.loop.connections)) == 1, "closed")


@pytest.mark.parametrize("sent", [close_frame(1000), b"\x81\x02hi"])
def test_a_client_that_half_closes_at_once_still_gets_its_close_frame(bench: Bench, sent: bytes) -> None:
    client = bench.join("broadcast:f")
    client.send_raw(sent)
    client.sock.shutdown(socket.SHUT_WR)
    assert client.receive_close().close_code in (1000, 1002)
    assert client.ended()


def test_a_stop_reaches_a_client_behind_a_full_queue(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=1_000_000)
    client = bench.join("broadcast:f")

    def queued_after(size: int) -> int:
        before = bench.hub.fanout.sent
        bench.redis.publish("broadcast:f", "x" * size)
        wait_until(lambda: bench.hub.fanout.sent > before, "queued")
        return bench.call(lambda: sum(c.queued for c in bench.hub.loop.connections))

    while (queued := queued_after(50_000)) < 900_000:
        pass
    assert queued_after(1_000_000 - queued - 15) > 1_000_000 - 23  # no room for a close frame
    stopper = threading.Thread(target=bench.hub.stop)
    stopper.start()
    while (frame := client.frame()).opcode == TEXT:
        pass
    assert frame.close_code == 1012
    assert client.ended()
    stopper.join()


def test_what_is_attached_too_late_is_closed(bench: Bench) -> None:
    bench.hub.stop()
    client = bench.open("broadcast:f")
    assert client.ended()


def test_what_came_before_the_mistake_is_published(bench: Bench) -> None:
    sender = bench.join("broadcast:f", publish=("broadcast:f",))
    reader = bench.join("broadcast:f")
    sender.send_raw(masked_frame(TEXT, b"good") + b"\x81\x02hi" + masked_frame(TEXT, b"too late"))
    assert reader.receive() == "good"
    assert sender.receive_close().close_code == 1002
    assert reader.ping() == []


def test_close_frames_that_cross(bench: Bench) -> None:
    client = bench.join("broadcast:f")
    connection = bench.connection_of(client)
    with bench.held():
        bench.hub.call_soon(lambda: bench.hub.close(connection, 4000, "bye"))
        client.send_raw(close_frame(1000))
    assert client.receive_close().close_code == 4000
    assert client.ended()


def test_a_stop_in_the_turn_that_hears_from_a_lingering_client(bench: Bench) -> None:
    clients = [bench.join("broadcast:f") for _ in range(20)]
    for client in clients:
        client.send_raw(b"\x81\x02hi")
        client.receive_close()
    with bench.held():
        for client in clients:
            client.send_raw(b"more bytes")
        stopper = threading.Thread(target=bench.hub.stop)
        stopper.start()
        wait_until(lambda: bench.hub.draining, "stopping")
    stopper.join()
    assert bench.hub.stopped.is_set()


def test_an_abrupt_end_leaves_nothing(bench: Bench) -> None:
    clients = [bench.join("broadcast:f") for _ in range(5)]
    clients[0].send_raw(masked_frame(TEXT, b"half a frame")[:9])
    for client in clients:
        client.sock.close()
    wait_until(lambda: not bench.hub.loop.connections and not bench.hub.fanout.channels, "gone")
    wait_until(lambda: bench.redis.pubsub_numsub("broadcast:f")[0][1] == 0, "unsubscribed")


def test_a_slow_client_is_closed_with_1013_and_the_others_get_everything(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=100_000)
    slow, fast = bench.join("broadcast:f"), bench.join("broadcast:f")
    message = "x" * 10_000
    for i in range(200):
        bench.redis.publish("broadcast:f", message)
        assert fast.receive() == message, i
    received = 0
    while (frame := slow.frame()).opcode == TEXT:
        assert frame.payload == message.encode()  # the frame that was out in part is whole
        received += 1
    assert frame.close_code == 1013
    assert 0 < received < 200


def test_one_large_message_onto_an_empty_queue_is_accepted(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=1000)
    client = bench.join("broadcast:f")
    bench.redis.publish("broadcast:f", "x" * 5_000_000)
    assert client.receive() == "x" * 5_000_000


def test_a_silent_client_is_pinged_and_then_closed(make: Callable[..., Bench]) -> None:
    bench = make(ping_interval=0.3, ping_timeout=0.3)
    client = bench.join("broadcast:f")
    assert client.frame().opcode == PING
    client.send_raw(masked_frame(PONG))
    assert client.frame().opcode == PING
    assert client.receive_close().close_code == 1011


def test_a_client_that_talks_is_not_pinged(make: Callable[..., Bench]) -> None:
    bench = make(ping_interval=0.5, ping_timeout=0.1)
    client = bench.join("broadcast:f")
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert client.ping() == []


def test_a_ping_comes_back_with_its_payload(bench: Bench) -> None:
    """BUG-P3."""
    client = bench.join("broadcast:f")
    client.send_raw(masked_frame(PING, b"payload"))
    frame = client.frame()
    assert (frame.opcode, frame.payload) == (PONG, b"payload")


def test_a_stop_closes_everybody_with_1012(bench: Bench) -> None:
    clients = [bench.join("broadcast:f") for _ in range(20)]
    stopper = threading.Thread(target=bench.hub.stop)
    begin = time.monotonic()
    stopper.start()
    for client in clients:
        assert client.receive_close().close_code == 1012
        assert client.ended()
        client.sock.close()
    stopper.join()
    assert bench.hub.stopped.is_set()
    assert time.monotonic() - begin < 1


def test_a_stop_does_not_wait_for_clients_that_do_not_answer(bench: Bench) -> None:
    bench.join("broadcast:f")
    begin = time.monotonic()
    bench.hub.stop()
    assert bench.hub.stopped.is_set()
    assert time.monotonic() - begin < 2


def test_opening_and_closing_are_one_line_each(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uws4r.hub")
    client = bench.join("broadcast:f", publish=("broadcast:f",))
    client.send("hello")
    client.send_raw(close_frame(1001, "leaving\nfor good"))
    client.receive_close()
    wait_until(lambda: "closed" in caplog.text, "logged")
    lines = [record.getMessage() for record in caplog.records if "test" in record.getMessage()]
    assert re.fullmatch(r"#\d+ test open", lines[0])
    assert re.fullmatch(
        r"#\d+ test closed: 1001 'leaving\\nfor good' after \d\.\d s, in 1 messages 35 bytes, out 0 messages 4 bytes",
        lines[1],
    )
    assert len(lines) == 2


# ---------------------------------------------------------------- the link


def test_one_connection_to_redis_and_each_channel_once(bench: Bench) -> None:
    for _ in range(10):
        bench.join("broadcast:f", "user:john:f")
    assert len(bench.server.links()) == 1
    assert bench.server.links()[0]["sub"] == "2"


def test_a_link_that_is_killed_comes_back_and_nobody_notices(bench: Bench) -> None:
    clients = [bench.join("broadcast:f", f"user:{i}:f", publish=("broadcast:f",), echo=True) for i in range(10)]
    for round_ in range(3):
        bench.redis.client_kill_filter(_type="pubsub")
        wait_until(lambda: bench.redis.pubsub_numsub("broadcast:f", "user:9:f")[1][1], "resubscribed")
        assert bench.redis.publish("broadcast:f", f"to all {round_}") == 1
        assert bench.redis.publish("user:3:f", f"to one {round_}") == 1
        for i, client in enumerate(clients):
            expected = [f"to all {round_}"] + [f"to one {round_}"] * (i == 3)
            assert [client.receive() for _ in expected] == expected
    clients[0].send("and publishes")
    assert clients[1].receive() == "and publishes"
    assert len(bench.server.links()) == 1


def test_a_restart_of_redis_costs_no_websocket_and_no_waiting_publish(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    bench = make(own_redis)
    clients = [bench.join("broadcast:f", publish=("broadcast:f",), echo=True) for _ in range(5)]
    own_redis.stop()
    wait_until(lambda: not bench.hub.connector.up.is_set(), "the loss noticed")
    for i in range(10):
        clients[0].send(f"while away {i}")
    clients[0].ping()
    late = bench.open("broadcast:f")  # joins as soon as there is a link
    own_redis.start()
    for client in (*clients, late):
        assert [client.receive() for _ in range(10)] == [f"while away {i}" for i in range(10)]


def test_when_the_buffer_is_full_the_client_is_told(make: Callable[..., Bench], own_redis: RedisServer) -> None:
    bench = make(own_redis, publish_buffer=10)
    sender = bench.join("broadcast:f", publish=("broadcast:f",))
    own_redis.stop()
    wait_until(lambda: not bench.hub.connector.up.is_set(), "the loss noticed")
    for i in range(11):
        sender.send(f"{i}")
    assert sender.receive_close().close_code == 1013
    own_redis.start()


@pytest.mark.slow
def test_publishes_that_redis_cannot_have_seen_go_out_on_the_next_link(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    """Those that were written and not answered are counted as lost; the others come, once and in order."""
    bench = make(own_redis, max_queue=1 << 26)
    reader = bench.join("broadcast:f")
    sender = bench.join(publish=("broadcast:f",))
    assert own_redis.process is not None
    own_redis.process.process.send_signal(signal.SIGSTOP)
    for i in range(200):
        sender.send(f"{i:03d}" + "x" * 60_000)
    sender.ping()
    assert bench.call(lambda: len(bench.hub._waiting)) > 0
    own_redis.stop(signal.SIGKILL)
    own_redis.start()
    received = [int(str(reader.receive())[:3])]
    while received[-1] != 199:
        received.append(int(str(reader.receive())[:3]))
    assert received == list(range(bench.hub.lost_publishes, 200))
    assert 0 < bench.hub.lost_publishes < 150
    assert reader.ping() == []


@pytest.mark.slow
def test_a_redis_that_falls_silent_is_noticed(make: Callable[..., Bench], own_redis: RedisServer) -> None:
    bench = make(own_redis)
    client = bench.join("broadcast:f")
    assert own_redis.process is not None
    own_redis.process.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: not bench.hub.connector.up.is_set(), "noticed", timeout=5)
    finally:
        own_redis.process.process.send_signal(signal.SIGCONT)
    wait_until(bench.hub.connector.up.is_set, "a new link")
    # Redis may take some time to see that the old one has gone.
    wait_until(lambda: [link["sub"] for link in own_redis.links()] == ["1"], "subscribed again")
    own_redis.client.publish("broadcast:f", "back")
    assert client.receive() == "back"


def test_a_redis_that_hangs_up_at_once_is_not_stormed(redis_server: RedisServer) -> None:
    connections = 0

    def connection() -> RedisConnection:
        nonlocal connections
        connections += 1
        return RedisConnection(
            host="127.0.0.1", port=redis_server.port, protocol=3, client_name="storm", retry=Retry(NoBackoff(), 0)
        )

    hub = Hub(connection)
    thread = run_in_thread(hub)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        redis_server.client.client_kill_filter(_type="normal", skipme=True)
        hub.connector.wait()
    hub.stop()
    thread.join()
    assert 3 < connections < 30


def test_expected_copies_die_with_the_link(make: Callable[..., Bench], own_redis: RedisServer) -> None:
    bench = make(own_redis)
    sender = bench.join("broadcast:f", publish=("broadcast:f",))
    own_redis.client.execute_command("CLIENT", "PAUSE", "300", "WRITE")
    sender.send("mine")
    sender.ping()
    own_redis.stop(9)
    own_redis.start()
    wait_until(lambda: own_redis.client.pubsub_numsub("broadcast:f")[0][1], "resubscribed")
    own_redis.client.publish("broadcast:f", "mine")
    assert sender.receive() == "mine"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child only closes and exits
def test_a_forked_child_lets_go_and_the_parent_goes_on(bench: Bench) -> None:
    client = bench.join("broadcast:f")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before = len(os.listdir("/proc/self/fd"))
            bench.hub.disown()
            # one client, the epoll set, the eventfd, the timer, the link
            status = 0 if before - len(os.listdir("/proc/self/fd")) == 5 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bench.redis.publish("broadcast:f", "m")
    assert client.receive() == "m"


def test_a_bug_in_one_connection_ends_that_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    victim, other = bench.join("broadcast:f"), bench.join("broadcast:f")

    def explode(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.hub, "_message", explode)
    victim.send("bang")
    assert victim.receive_close().close_code == 1011
    assert caplog.text.count("RuntimeError: a bug") == 1
    bench.redis.publish("broadcast:f", "m")
    assert other.receive() == "m"


@pytest.mark.parametrize("place", ["uws4r.hub.Connection", "uws4r.hub.Hub._join", "uws4r.hub.Hub._welcome"])
def test_a_bug_in_attaching_one_connection_ends_that_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    other = bench.join("broadcast:f")

    def explode(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(place, explode)
        victim = bench.open("broadcast:f", "user:john:f")
        assert victim.ended() or victim.buffer.startswith(b"\x88")
    victim.sock.close()
    bench.redis.publish("broadcast:f", "m")
    assert other.receive() == "m"
    wait_until(lambda: bench.call(lambda: list(bench.hub.fanout.channels)) == [b"broadcast:f"], "no interest is left")


def test_a_bug_in_the_hub_sends_everybody_away_with_1012(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make()
    client = bench.join("broadcast:f")

    def explode() -> None:
        raise RuntimeError("a bug")

    bench.hub.call_soon(explode)
    assert client.receive_close().close_code == 1012
    assert client.ended()
    assert bench.hub.crashed
    assert "RuntimeError: a bug" in caplog.text


def test_many_clients_many_messages_nothing_lost_nothing_doubled(bench: Bench) -> None:
    clients = [bench.join(f"broadcast:{i % 7}") for i in range(100)]
    for i, k in itertools.product(range(200), range(7)):
        bench.redis.publish(f"broadcast:{k}", f"{k} {i}")
    for index, client in enumerate(clients):
        assert [client.receive() for _ in range(200)] == [f"{index % 7} {i}" for i in range(200)]
