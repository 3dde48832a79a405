"""What Redis and the network do to a link, and what a hub makes of it: nobody is thrown out."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.connection import Connection as RedisConnection
from redis.retry import Retry

from tests.support.cable import Cable
from tests.support.hubs import Bench
from tests.support.servers import RedisServer, wait_until
from uws4r.attachment import HubOptions
from uws4r.connector import MOST_ATTEMPTS, Connector


@pytest.fixture
def cable(own_redis: RedisServer) -> Iterator[Cable]:
    between = Cable(own_redis.address)
    yield between
    between.close()


@pytest.fixture
def behind(own_redis: RedisServer, cable: Cable) -> Iterator[Bench]:
    """A hub whose way to Redis leads through the cable."""

    class Behind(Bench):
        def connection(self) -> RedisConnection:
            return RedisConnection(
                host="127.0.0.1",
                port=cable.port,
                protocol=3,
                client_name="uws4r",
                retry=Retry(NoBackoff(), 0),
                socket_timeout=5,
                socket_connect_timeout=5,
            )

    bench = Behind(own_redis, HubOptions())
    yield bench
    bench.close()


@pytest.fixture
def replica(tmp_path: Path, own_redis: RedisServer) -> Iterator[RedisServer]:
    """A second server, which follows the first."""
    directory = tmp_path / "replica"
    directory.mkdir()
    server = RedisServer(directory)
    own_redis.client.config_set("repl-diskless-sync-delay", 0)
    server.client.replicaof("127.0.0.1", str(own_redis.port))
    wait_until(lambda: server.client.info("replication")["master_link_status"] == "up", "in sync")
    yield server
    server.close()


def is_down(bench: Bench) -> bool:
    return not bench.hub.keeper.connector.up.is_set()


def is_up(bench: Bench) -> bool:
    return bench.hub.keeper.connector.up.is_set()


class Script(threading.Thread):
    """A script in Redis that does not end by itself."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server
        self.start()
        wait_until(self.holds, "Redis is busy")

    def holds(self) -> bool:
        try:
            self.server.client.get("any")
        except redis.ResponseError as error:
            return str(error).startswith("BUSY") or "BUSY" in str(error)
        return False

    def run(self) -> None:
        with redis.Redis(port=self.server.port, protocol=2) as client:
            try:
                client.eval("while true do end", 0)
            except redis.ResponseError:
                return  # killed, as was to be

    def end(self) -> None:
        self.server.client.script_kill()
        self.join()


def test_a_busy_redis_has_publishes_and_new_clients_wait_on_the_same_link(
    make: Callable[..., Bench], own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.client.config_set("lua-time-limit", 20)  # milliseconds until it says so
    bench = make(own_redis)
    reader = bench.join("broadcast:f")
    sender = bench.join(publish=("broadcast:f",))
    script = Script(own_redis)
    for i in range(20):
        sender.send(str(i))
        sender.ping()
    late = bench.open("broadcast:f", "user:late:f")
    leaving = bench.join()
    leaving.sock.close()
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() - begin > 1, "some retries later")
    # Not at the moment in which they are on their way to be refused once more.
    wait_until(lambda: bench.call(lambda: len(bench.hub.outbox)) == 20, "all 20 wait")
    script.end()
    assert [reader.receive() for _ in range(20)] == [str(i) for i in range(20)]
    wait_until(lambda: bench.call(lambda: bench.joined(bench.descriptors[late.sock])), "joined")
    own_redis.client.publish("user:late:f", "in time")
    while (received := late.receive()) != "in time":
        assert received in map(str, range(20))
    assert bench.hub.outbox.lost == 0
    assert bench.hub.keeper.links == 1
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 0
    # Asked four times a second, not without pause.
    assert caplog.text.count("Redis is busy") < 10


def test_a_buffer_that_is_full_while_redis_is_busy_closes_with_1013(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    own_redis.client.config_set("lua-time-limit", 20)
    bench = make(own_redis, publish_buffer=5)
    sender = bench.join("broadcast:f", publish=("broadcast:f",))
    script = Script(own_redis)
    try:
        for i in range(5):
            sender.send(str(i))
        wait_until(lambda: bench.call(lambda: len(bench.hub.outbox)) == 5, "refused, and kept")
        connection = bench.connection_of(sender)

        def closed() -> bool:
            sender.send("one more")
            return not connection.is_open

        wait_until(closed, "closed")
        assert sender.receive_close().close_code == 1013
    finally:
        script.end()


def test_a_link_over_its_output_limit_is_cut_by_redis_and_comes_back(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    own_redis.client.config_set("client-output-buffer-limit", "pubsub 262144 0 0")
    bench = make(own_redis)
    clients = [bench.join("broadcast:f", f"user:{i}:f") for i in range(5)]
    with bench.held():
        for _ in range(200):
            own_redis.client.publish("nobody", "x" * 100_000)
        for _ in range(200):
            own_redis.client.publish("user:0:f", "x" * 100_000)
        wait_until(lambda: not own_redis.links(), "cut by Redis")
    wait_until(lambda: bench.hub.keeper.links == 2, "a new link")
    wait_until(lambda: own_redis.subscriptions("user:4:f") == 1, "subscribed")
    own_redis.client.publish("broadcast:f", "after")
    for client in clients[1:]:
        assert client.receive() == "after"


def test_ten_thousand_channels_are_subscribed_to_again_within_a_second(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    bench = make(own_redis)
    for i in range(100):
        bench.open(*(f"user:{i}-{k}:f" for k in range(100)))
    wait_until(lambda: own_redis.links()[0]["sub"] == "10000", "subscribed")
    took = []
    for _ in range(3):  # on a machine that others use as well, the best of them
        begin = time.monotonic()
        own_redis.client.client_kill_filter(_type="pubsub")
        wait_until(lambda: [link["sub"] for link in own_redis.links()] == ["10000"], "again")
        took.append(time.monotonic() - begin)
    assert min(took) < 1, took


@pytest.mark.slow
def test_a_network_that_swallows_everything_is_noticed_and_left(
    behind: Bench, cable: Cable, own_redis: RedisServer
) -> None:
    client = behind.join("broadcast:f", publish=("broadcast:f",), echo=True)
    cable.cut()
    begin = time.monotonic()
    client.send("on its way")  # written, and never heard of again
    wait_until(lambda: is_down(behind), "noticed", timeout=5)
    noticed = time.monotonic() - begin
    client.send("kept")
    wait_until(lambda: cable.connections > 3, "attempts that hang do not hold up the next")
    cable.mend()
    mended = time.monotonic()
    assert client.receive() == "kept"
    assert time.monotonic() - mended < 2
    assert noticed < 5
    assert behind.hub.outbox.lost == 1


def test_a_redis_that_is_silent_for_three_seconds_costs_nothing(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    bench = make(own_redis)
    client = bench.join("broadcast:f", publish=("broadcast:f",), echo=True)
    assert own_redis.process is not None
    own_redis.process.process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    client.send("mine")
    wait_until(lambda: time.monotonic() - begin > 3, "three seconds later")
    own_redis.process.process.send_signal(signal.SIGCONT)
    assert client.receive() == "mine"
    assert bench.hub.keeper.links == 1


def test_a_link_without_an_answer_is_given_no_more_to_lose(make: Callable[..., Bench], own_redis: RedisServer) -> None:
    bench = make(own_redis)
    reader = bench.join("broadcast:f")
    sender = bench.join(publish=("broadcast:f",))
    assert own_redis.process is not None
    own_redis.process.process.send_signal(signal.SIGSTOP)
    for i in range(5):
        sender.send(str(i))
    wait_until(lambda: bench.hub.outbox.doubted, "in doubt", timeout=2)
    for i in range(5, 15):
        sender.send(str(i))
    wait_until(lambda: bench.call(lambda: len(bench.hub.outbox)) > 0, "kept")
    own_redis.stop(signal.SIGKILL)
    own_redis.start()
    assert [reader.receive() for _ in range(10)] == [str(i) for i in range(5, 15)]
    assert bench.hub.outbox.lost == 5


def test_what_waits_goes_out_when_the_other_workers_are_back_too(
    make: Callable[..., Bench], own_redis: RedisServer
) -> None:
    first, second = make(own_redis), make(own_redis)
    readers = [first.join("broadcast:f"), second.join("broadcast:f")]
    sender = first.join(publish=("broadcast:f",))
    connection, gate = second.connection, threading.Event()

    def later() -> RedisConnection:
        gate.wait(10)
        return connection()

    second.hub.keeper.connector._redis = later
    own_redis.stop()
    wait_until(lambda: is_down(first) and is_down(second), "noticed")
    for i in range(20):
        sender.send(str(i))
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() - begin > 0.7, "an outage of some length")
    own_redis.start()
    wait_until(lambda: is_up(first), "one is back")
    threading.Timer(0.3, gate.set).start()
    for reader in readers:
        assert [reader.receive() for _ in range(20)] == [str(i) for i in range(20)]


def test_what_waits_when_the_worker_ends_is_told_of(
    make: Callable[..., Bench], own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(own_redis)
    sender = bench.join(publish=("broadcast:f",))
    own_redis.stop()
    wait_until(lambda: is_down(bench), "noticed")
    for i in range(3):
        sender.send(str(i))
    sender.ping()
    bench.hub.stop(5)
    assert "3 messages of clients that waited for Redis end with this worker" in caplog.text


def test_a_master_that_becomes_a_replica_is_left_for_the_new_one(
    behind: Bench, cable: Cable, own_redis: RedisServer, replica: RedisServer
) -> None:
    """As behind a name or a balancer that leads to whoever is master; nobody closes the old connections."""
    clients = [behind.join("broadcast:f", publish=("broadcast:f",), echo=True) for _ in range(3)]
    replica.client.replicaof("NO", "ONE")
    cable.target = replica.address
    own_redis.client.replicaof("127.0.0.1", str(replica.port))
    begin = time.monotonic()
    wait_until(lambda: replica.subscriptions("broadcast:f") == 1, "followed")
    assert time.monotonic() - begin < 2
    clients[0].send("on the new one")
    assert [client.receive() for client in clients] == ["on the new one"] * 3


def test_what_a_demoted_master_refuses_to_store_goes_to_the_new_one(
    behind: Bench, cable: Cable, own_redis: RedisServer, replica: RedisServer
) -> None:
    reader = behind.join("broadcast:f")
    sender = behind.join(publish=("broadcast:f",), expire=60)
    with behind.held():
        replica.client.replicaof("NO", "ONE")
        cable.target = replica.address
        own_redis.client.replicaof("127.0.0.1", str(replica.port))
        for i in range(10):
            sender.send(str(i))
    assert [reader.receive() for _ in range(10)] == [str(i) for i in range(10)]
    assert replica.client.get("broadcast:f") == b"9"
    assert behind.hub.outbox.lost == 0


def test_a_replica_is_no_redis_to_link_to(
    own_redis: RedisServer, replica: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Callable[[], None]] = []
    said = threading.Event()

    def call_soon(call: Callable[[], None]) -> None:
        calls.append(call)
        said.set()

    connector = Connector(
        lambda: RedisConnection(port=replica.port, protocol=3, retry=Retry(NoBackoff(), 0)),
        call_soon,
        lambda seconds, call: None,
        lambda connection: pytest.fail("linked to a replica"),
        lambda: None,
        threading.Event.wait,
    )
    connector.start()
    assert said.wait(10)
    calls.pop()()
    assert "it is a replica" in caplog.text


def test_attempts_that_hang_do_not_pile_up(cable: Cable) -> None:
    cable.cut()
    calls: list[tuple[float, Callable[[], None]]] = []
    connector = Connector(
        lambda: RedisConnection(port=cable.port, protocol=3, retry=Retry(NoBackoff(), 0), socket_timeout=1),
        lambda call: None,
        lambda seconds, call: calls.append((seconds, call)),
        lambda connection: None,
        lambda: None,
        threading.Event.wait,
    )
    connector.start()
    for _ in range(20):
        seconds, call = calls.pop()
        assert 0 < seconds <= 2
        call()
    wait_until(lambda: cable.connections == MOST_ATTEMPTS, "as many as may be")
    assert not [t for t in threading.enumerate() if t.name == "uws4r-connect"][MOST_ATTEMPTS:]
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "uws4r-connect"], "ended")


@pytest.mark.parametrize("late", [False, True], ids=["made before", "made after"])
def test_nothing_is_left_of_a_connection_that_nobody_takes(own_redis: RedisServer, late: bool) -> None:
    """A hub that has stopped takes no turn any more."""
    go_on = threading.Event()

    def connection() -> RedisConnection:
        go_on.wait(10)
        return RedisConnection(port=own_redis.port, protocol=3, client_name="uws4r", retry=Retry(NoBackoff(), 0))

    calls: list[Callable[[], None]] = []
    connector = Connector(
        connection,
        calls.append,
        lambda seconds, call: None,
        lambda connection: pytest.fail("taken all the same"),
        lambda: None,
        threading.Event.wait,
    )
    connector.start()
    if late:
        connector.stop()
    go_on.set()
    wait_until(lambda: calls, "connected")
    connector.stop()
    wait_until(lambda: not own_redis.links(), "closed")


def test_where_redis_cannot_store_messages_are_delivered_all_the_same(
    make: Callable[..., Bench], own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(own_redis)
    reader = bench.join("broadcast:f", "user:john:f")
    sender = bench.join(publish=("broadcast:f", "user:john:f"), expire=60)
    own_redis.client.config_set("maxmemory", 1)
    for i in range(50):
        sender.send(str(i))
    assert [reader.receive() for _ in range(50)] == [str(i) for i in range(50)]
    assert bench.hub.outbox.lost == 0
    assert 1 <= caplog.text.count("which is published: OOM") < 10


def test_a_redis_whose_disk_is_full_refuses_pings_and_no_websocket(
    make: Callable[..., Bench], own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """MISCONF."""
    bench = make(own_redis)
    own_redis.client.set("something", "to save")
    own_redis.client.config_set("save", "3600 1")
    target = own_redis.directory / "dump.rdb"
    target.mkdir()  # so that no file can take its place
    own_redis.client.bgsave()

    def refuses() -> bool:
        try:
            return not own_redis.client.ping()
        except redis.ResponseError as error:
            return "MISCONF" in str(error)

    wait_until(refuses, "MISCONF")
    reader = bench.join("broadcast:f", fetch=False)
    sender = bench.join(publish=("broadcast:f",), expire=60)
    sender.send("hello")
    assert reader.receive() == "hello"
    assert "which is published: MISCONF" in caplog.text
    target.rmdir()


def test_the_first_attempt_is_at_once_and_the_others_within_two_seconds() -> None:
    """With a Redis that refuses; and of two that succeed only one is kept."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    calls: list[tuple[float, Callable[[], None]]] = []
    failed = threading.Semaphore(0)

    def call_soon(call: Callable[[], None]) -> None:
        call()
        failed.release()

    connector = Connector(
        lambda: RedisConnection(port=port, protocol=3, retry=Retry(NoBackoff(), 0)),
        call_soon,
        lambda seconds, call: calls.append((seconds, call)),
        lambda connection: None,
        lambda: None,
        threading.Event.wait,
    )
    connector.start()
    pauses = []
    for _ in range(30):
        assert failed.acquire(timeout=10)
        seconds, call = calls.pop()
        pauses.append(seconds)
        call()
    assert pauses[0] < 0.2
    assert all(0 < pause <= 2 for pause in pauses)
    assert len(set(pauses)) == len(pauses)  # jittered
