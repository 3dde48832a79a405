"""The one link to Redis: lost, silent, back again; forks and bugs."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.backoff import NoBackoff
from redis.connection import Connection as RedisConnection
from redis.retry import Retry

from tests.support.hubs import Bench
from tests.support.servers import RedisServer, wait_until
from tests.support.wire import TEXT, masked_frame
from uws4r.engines.thread import run_in_thread
from uws4r.hub import Hub


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
    wait_until(lambda: not bench.hub.keeper.connector.up.is_set(), "the loss noticed")
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
    wait_until(lambda: not bench.hub.keeper.connector.up.is_set(), "the loss noticed")
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
    assert bench.call(lambda: len(bench.hub.outbox.waiting)) > 0
    own_redis.stop(signal.SIGKILL)
    own_redis.start()
    received = [int(str(reader.receive())[:3])]
    while received[-1] != 199:
        received.append(int(str(reader.receive())[:3]))
    assert received == list(range(bench.hub.outbox.lost, 200))
    assert 0 < bench.hub.outbox.lost < 150
    assert reader.ping() == []


@pytest.mark.slow
def test_a_redis_that_falls_silent_is_noticed(make: Callable[..., Bench], own_redis: RedisServer) -> None:
    bench = make(own_redis)
    client = bench.join("broadcast:f")
    assert own_redis.process is not None
    own_redis.process.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: not bench.hub.keeper.connector.up.is_set(), "noticed", timeout=5)
    finally:
        own_redis.process.process.send_signal(signal.SIGCONT)
    wait_until(bench.hub.keeper.connector.up.is_set, "a new link")
    # Redis may take some time to see that the old one has gone.
    wait_until(lambda: [link["sub"] for link in own_redis.links()] == ["1"], "subscribed again")
    own_redis.client.publish("broadcast:f", "back")
    assert client.receive() == "back"


@pytest.mark.slow
def test_a_client_that_has_to_wait_for_redis_is_not_taken_for_silent(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    """While it is not read, its pongs are not either."""
    bench = make(own_redis, ping_interval=0.3, ping_timeout=0.3)
    sender = bench.join("broadcast:f", publish=("broadcast:f",))
    connection = bench.connection_of(sender)
    assert own_redis.process is not None
    own_redis.process.process.send_signal(signal.SIGSTOP)
    try:
        sender.send_raw(b"".join(masked_frame(TEXT, b"%d" % i) for i in range(3000)))
        wait_until(lambda: connection.paused, "paused")
        begin = time.monotonic()
        wait_until(lambda: time.monotonic() - begin > 1.2, "four times the interval")
        assert connection.is_open
    finally:
        own_redis.process.process.send_signal(signal.SIGCONT)
    wait_until(lambda: not connection.paused, "read again")
    assert connection.is_open


def test_a_redis_that_hangs_up_at_once_is_not_stormed(hub_redis: RedisServer) -> None:
    connections = 0

    def connection() -> RedisConnection:
        nonlocal connections
        connections += 1
        return RedisConnection(
            host="127.0.0.1", port=hub_redis.port, protocol=3, client_name="storm", retry=Retry(NoBackoff(), 0)
        )

    hub = Hub(connection)
    thread = run_in_thread(hub)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        hub_redis.client.client_kill_filter(_type="normal", skipme=True)
        hub.keeper.connector.wait()
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
    assert bench.hub.over
    assert "RuntimeError: a bug" in caplog.text


def test_many_clients_many_messages_nothing_lost_nothing_doubled(bench: Bench) -> None:
    clients = [bench.join(f"broadcast:{i % 7}") for i in range(100)]
    for i, k in itertools.product(range(200), range(7)):
        bench.redis.publish(f"broadcast:{k}", f"{k} {i}")
    for index, client in enumerate(clients):
        assert [client.receive() for _ in range(200)] == [f"{index % 7} {i}" for i in range(200)]


def test_no_call_goes_unheard_however_many_threads_call(bench: Bench) -> None:
    calls = 300

    def caller() -> None:
        for _ in range(calls):
            done = threading.Event()
            bench.hub.call_soon(done.set)
            assert done.wait(10)

    with ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(caller) for _ in range(4)]:
            each.result()


def test_what_comes_back_of_clients_publishes_does_not_cut_the_link(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    """Each comes back on 30 channels, 15 MB together; ten of them at once are more than Redis keeps for a link."""
    bench = make(own_redis, max_queue=1 << 30, max_byte_rate=0)
    names = tuple(f"group:{number}:f" for number in range(30))
    reader = bench.join(*names)
    sender = bench.join(publish=names)
    messages = [f"{number} " + "x" * 500_000 for number in range(10)]
    for message in messages:
        sender.send(message)
    received = [reader.receive()]
    while received[-1] != messages[-1]:
        received.append(reader.receive())
    # On a slow machine the copies of one message come in two heaps, more than 20 ms apart: two messages to a listener.
    assert [message for message, _ in itertools.groupby(received)] == messages
    assert bench.hub.keeper.links == 1
