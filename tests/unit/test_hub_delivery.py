"""Joining, duplicates, what clients publish."""

import select
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.support.wire import TEXT, Client, close_frame, masked_frame
from uws4r import keeper
from uws4r.heartbeat import SLOTS


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


def test_changes_remembers_the_other_channels_after_one_is_left(bench: Bench) -> None:
    client = bench.join("broadcast:f", "user:john:f", "session:key:f", changes=True)
    for number, channel in enumerate(("broadcast:f", "user:john:f", "session:key:f")):
        bench.redis.publish(channel, f"{number}")
        assert client.receive() == f"{number}"
    connection = bench.connection_of(client)
    bench.call(lambda: bench.hub.leave(connection, (b"user:",)))
    for channel, message in (("broadcast:f", "0"), ("session:key:f", "2"), ("session:key:f", "new")):
        bench.redis.publish(channel, message)
    assert client.receive() == "new"
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
            select.select([bench.hub.keeper.link], [], [], 10)  # it is here before mine is sent
            me.send("same")
        assert me.receive() == "same"
        wait_until(lambda: bench.hub.outbox.lost == 1, "the publish refused")
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


def test_no_heartbeat_comes_after_the_close_frame(make: Callable[..., Bench]) -> None:
    bench = make(heartbeat=b"--heartbeat--")
    leaving, staying = bench.join("broadcast:f"), bench.join("broadcast:f")
    connection = bench.connection_of(leaving)
    bench.call(lambda: bench.hub.close(connection, 1000))
    assert leaving.receive_close().close_code == 1000
    heartbeats = bench.hub._heartbeats
    assert heartbeats is not None
    bench.call(lambda: [heartbeats._beat() for _ in range(SLOTS)])
    assert staying.receive() == "--heartbeat--"
    leaving.send_raw(close_frame(1000))
    assert leaving.ended()


def test_a_client_that_is_faster_than_redis_waits_and_holds_nobody_up(bench: Bench) -> None:
    reader = bench.join("broadcast:f")
    flood = bench.join(publish=("broadcast:f",))
    count = 100_000
    data = b"".join(masked_frame(TEXT, b"%d" % i) for i in range(count))
    flood.sock.settimeout(None)  # it is the hub that decides how long this takes
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
    assert bench.hub.outbox.lost == 1
    sender.send("allowed")
    assert sender.receive() == "allowed"


def test_what_one_turn_has_goes_out_together_and_to_each_by_his_own_rules(bench: Bench) -> None:
    plain = [bench.join("broadcast:f") for _ in range(6)]
    both = bench.join("broadcast:f", "user:mary:f")
    changes = bench.join("broadcast:f", changes=True)
    own = bench.join("broadcast:f", publish=("broadcast:f",))
    packing = bench.join("broadcast:f", window=15)
    burst = [f"{i // 2}" if i < 40 else f"{i}" + "x" * ({60: 80_000, 70: 3000}.get(i, 20)) for i in range(100)]
    with bench.held():
        own.send("mine")
        with bench.redis.pipeline(transaction=False) as pipeline:
            for text in burst:
                pipeline.publish("broadcast:f", text)
            pipeline.publish("user:mary:f", burst[-1])  # a copy
            pipeline.execute()
    for client in (*plain, both, packing):
        assert [client.receive() for _ in range(101)] == [*burst, "mine"]
    assert [changes.receive() for _ in range(81)] == [*dict.fromkeys(burst), "mine"]
    assert [own.receive() for _ in burst] == burst
    for client in (*plain, both, packing, changes, own):
        assert client.ping() == []


def test_a_turn_hands_out_a_bounded_number_of_messages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "DELIVERIES_PER_TURN", 500)
    clients = [bench.join("broadcast:f") for _ in range(10)]
    planned: list[int] = []
    read = bench.hub.keeper.read

    def watched() -> None:
        read()
        planned.append(bench.hub.fanout.planned)

    monkeypatch.setattr(bench.hub.keeper, "read", watched)
    with bench.held():
        pipeline = bench.redis.pipeline(transaction=False)
        for number in range(900):
            pipeline.publish("broadcast:f", f"{number}")
        pipeline.execute()
    for client in clients:
        assert [client.receive() for _ in range(900)] == [f"{number}" for number in range(900)]
    assert 0 < max(planned) <= 500 + 10 * keeper.PUSHES_AT_ONCE
