"""Publishers whose Redis is away, silent, demoted, full or strict: a clear error in time, and nothing twice."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import override_settings

from tests.support.cable import Cable
from tests.support.servers import RedisServer, free_port, wait_until
from uws4r import errors
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import ROLE_PAUSE, Sentinels, make_client, site_client, unreachable


@pytest.fixture
def publisher(own_redis: RedisServer) -> Iterator[RedisPublisher]:
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": own_redis.port, "socket_timeout": 0.5}):
        yield RedisPublisher(facility="f", broadcast=True)
        site_client().connection_pool.disconnect()


@pytest.fixture
def replica(tmp_path: Path, own_redis: RedisServer) -> Iterator[RedisServer]:
    directory = tmp_path / "replica"
    directory.mkdir()
    own_redis.client.config_set("repl-diskless-sync-delay", 0)
    server = RedisServer(directory)
    server.client.replicaof("127.0.0.1", str(own_redis.port))
    wait_until(lambda: server.client.info("replication")["master_link_status"] == "up", "in sync")
    yield server
    server.close()


@pytest.fixture
def cable(own_redis: RedisServer) -> Iterator[Cable]:
    between = Cable(own_redis.address)
    yield between
    between.close()


def test_the_time_limits_are_five_seconds_unless_told_otherwise() -> None:
    arguments = make_client({}).connection_pool.connection_kwargs
    assert (arguments["socket_timeout"], arguments["socket_connect_timeout"]) == (5, 5)
    assert arguments["retry"].get_retries() == 0
    arguments = make_client("redis://localhost/0?socket_timeout=1").connection_pool.connection_kwargs
    assert (arguments["socket_timeout"], arguments["socket_connect_timeout"]) == (1, 5)


def test_nobody_listens() -> None:
    begin = time.monotonic()
    with (
        override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": (port := free_port())}),
        pytest.raises(errors.QueueUnreachable, match=rf"Redis \(127.0.0.1:{port}, database 0\) cannot be reached") as e,
    ):
        RedisPublisher(facility="f", broadcast=True).publish_message("m")
    assert time.monotonic() - begin < 1
    assert isinstance(e.value, redis.ConnectionError)
    assert isinstance(e.value, errors.Uws4rError)
    assert isinstance(e.value.__cause__, redis.ConnectionError)


@pytest.mark.parametrize(
    ("variable", "connection", "debug", "hint"),
    [
        (None, {}, True, "if runserver has started a Redis of its own, set UWS4R_EMBEDDED_REDIS to what it printed"),
        (None, {}, False, None),
        (
            "unix:///tmp/uws4r-gone/redis.socket",
            {},
            True,
            "UWS4R_EMBEDDED_REDIS names may have ended with its runserver",
        ),
        ("unix:///tmp/uws4r-gone/redis.socket", {"host": "127.0.0.1", "port": 1}, True, None),
    ],
)
def test_the_error_knows_of_a_redis_that_runserver_has(
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    connection: dict[str, Any],
    debug: bool,
    hint: str | None,
) -> None:
    monkeypatch.setenv("UWS4R_EMBEDDED_REDIS", variable or "")
    refused = redis.ConnectionError("Error 111 connecting to localhost:6379. Connection refused.")
    with override_settings(WS4REDIS_CONNECTION=connection, DEBUG=debug):
        said = unreachable(refused)
    assert said.startswith("cannot be reached: ")
    assert ("UWS4R_EMBEDDED_REDIS" in said) == (hint is not None)
    assert (hint or "") in said


def test_a_password_is_not_in_the_error() -> None:
    with (
        override_settings(WS4REDIS_CONNECTION=f"redis://me:geheim@127.0.0.1:{free_port()}/0"),
        pytest.raises(errors.QueueError) as caught,
    ):
        RedisPublisher(facility="f", broadcast=True).publish_message("m")
    assert "geheim" not in str(caught.value)


def test_a_silent_redis_is_an_error_in_time_and_the_message_comes_once(
    publisher: RedisPublisher, own_redis: RedisServer
) -> None:
    """redis-py by itself tries four times, and Redis carries out every one of them when it wakes up."""
    listener = own_redis.client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("broadcast:f")
    listener.get_message(timeout=5)
    publisher.publish_message("before")
    assert own_redis.process is not None
    own_redis.process.process.send_signal(signal.SIGSTOP)
    try:
        begin = time.monotonic()
        with pytest.raises(errors.QueueTimeout, match="may yet do what it was told") as caught:
            publisher.publish_message("perhaps")
        assert 0.4 < time.monotonic() - begin < 1.5
        assert isinstance(caught.value, redis.TimeoutError)
    finally:
        own_redis.process.process.send_signal(signal.SIGCONT)
    publisher.publish_message("after")
    received = []
    while not received or received[-1] != b"after":
        message = listener.get_message(timeout=5)
        assert message is not None
        received.append(message["data"])
    assert received in ([b"before", b"perhaps", b"after"], [b"before", b"after"])
    listener.close()


def test_the_pool_survives_a_restart(publisher: RedisPublisher, own_redis: RedisServer) -> None:
    barrier = threading.Barrier(10)
    failures: list[Exception] = []

    def publish() -> None:
        barrier.wait()
        try:
            publisher.publish_message("m")
        except Exception as error:
            failures.append(error)

    def ten_at_once() -> None:
        threads = [threading.Thread(target=publish) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ten_at_once()
    own_redis.stop(signal.SIGKILL)
    own_redis.start()
    ten_at_once()
    assert failures == []


def test_the_pool_is_rid_of_dead_connections_after_one_error(own_redis: RedisServer, cable: Cable) -> None:
    """A network that swallows packets kills all connections of the pool; only one of them costs somebody his time."""
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": cable.port, "socket_timeout": 0.5}):
        publisher = RedisPublisher(facility="f", broadcast=True)
        pool = site_client().connection_pool
        connections = [pool.get_connection() for _ in range(5)]
        for connection in connections:
            pool.release(connection)
        cable.cut()
        cable.mend()
        with pytest.raises(errors.QueueTimeout):
            publisher.publish_message("m")
        begin = time.monotonic()
        for _ in range(5):
            publisher.publish_message("m")
        assert time.monotonic() - begin < 0.4
        pool.disconnect()


@pytest.mark.parametrize("expire", [60, 0])
def test_a_demoted_master_is_left_for_the_new_one(
    own_redis: RedisServer, replica: RedisServer, cable: Cable, expire: int
) -> None:
    """Behind a name or a balancer, where nobody closes the old connections. A replica takes PUBLISH without a word."""
    listener = replica.client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("broadcast:f")
    listener.get_message(timeout=5)
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": cable.port}):
        publisher = RedisPublisher(facility="f", broadcast=True)
        publisher.publish_message("before", expire)
        looked = time.monotonic()
        message = listener.get_message(timeout=5)
        assert message is not None
        assert message["data"] == b"before"
        replica.client.replicaof("NO", "ONE")
        cable.target = replica.address
        own_redis.client.replicaof("127.0.0.1", str(replica.port))
        if not expire:
            wait_until(lambda: time.monotonic() > looked + ROLE_PAUSE, "time for another look")
        assert publisher.publish_message("after", expire) == 1
        site_client().connection_pool.disconnect()
    message = listener.get_message(timeout=5)
    assert message is not None
    assert message["data"] == b"after"
    assert replica.client.get("broadcast:f") == (b"after" if expire else None)
    listener.close()


@pytest.mark.parametrize("expire", [60, 0])
def test_only_a_replica_is_an_error(own_redis: RedisServer, replica: RedisServer, expire: int) -> None:
    with (
        override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": replica.port}),
        pytest.raises(errors.QueueRefused, match="replica"),
    ):
        RedisPublisher(facility="f", broadcast=True).publish_message("m", expire)


def test_out_of_memory(publisher: RedisPublisher, own_redis: RedisServer) -> None:
    own_redis.client.config_set("maxmemory", 1)
    with pytest.raises(errors.QueueRefused, match="maxmemory") as caught:
        publisher.publish_message("m")
    assert isinstance(caught.value, redis.ResponseError)
    own_redis.client.config_set("maxmemory", 0)
    publisher.publish_message("m")


def test_no_permission(own_redis: RedisServer) -> None:
    own_redis.client.execute_command("ACL", "SETUSER", "reader", "on", "nopass", "~*", "+mget")
    with (
        override_settings(WS4REDIS_CONNECTION=f"redis://reader:any@127.0.0.1:{own_redis.port}/0"),
        pytest.raises(errors.QueueRefused, match="permission"),
    ):
        RedisPublisher(facility="f", broadcast=True).publish_message("m")


def test_fetching_has_the_same_errors(own_redis: RedisServer) -> None:
    with (
        override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": free_port()}),
        pytest.raises(errors.QueueUnreachable),
    ):
        RedisPublisher().fetch_message(None, "f", "broadcast")


def test_more_publishers_at_once_than_redis_py_allows_by_itself(own_redis: RedisServer) -> None:
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": own_redis.port}):
        pool = site_client().connection_pool
        taken = [pool.get_connection() for _ in range(150)]
        RedisPublisher(facility="f", broadcast=True).publish_message("m")
        for connection in taken:
            pool.release(connection)
        pool.disconnect()


def test_sentinels_are_shared_between_threads_and_none_gets_lost(caplog: pytest.LogCaptureFixture) -> None:
    """redis-py moves the sentinel that has answered to the front of its list, in whatever thread."""
    caplog.set_level(logging.CRITICAL)

    class Known:
        def __init__(self, number: int) -> None:
            self.number = number
            self.calls = 0

        def sentinel_masters(self, **_: object) -> dict[str, dict[str, object]]:
            self.calls += 1
            time.sleep(0.0001)
            if (self.calls + self.number) % 2:
                raise redis.ConnectionError("away")
            return {"m": {"is_master": True, "is_sdown": False, "is_odown": False, "ip": "h", "port": 1,
                          "num-other-sentinels": 2}}  # fmt: skip

        def __repr__(self) -> str:
            return str(self.number)

    sentinels = Sentinels([("h", 1)])
    for own in sentinels.sentinels:
        own.close()
    known = [Known(i) for i in range(5)]
    sentinels.sentinels = known  # type: ignore[assignment]

    def ask() -> None:
        for _ in range(100):
            try:
                sentinels.discover_master("m")
            except redis.ConnectionError:
                pass

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.number for each in sentinels.sentinels} == set(range(5))  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_the_child_has_connections_of_its_own_over_an_outage(
    publisher: RedisPublisher, own_redis: RedisServer
) -> None:
    publisher.publish_message("parent")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            publisher.publish_message("child")
            os.read(reading, 1)  # Redis has been restarted
            publisher.publish_message("child again")
            status = 0
        finally:
            os._exit(status)
    wait_until(lambda: own_redis.client.get("broadcast:f") == b"child", "published by the child")
    own_redis.stop(signal.SIGKILL)
    own_redis.start()
    os.write(writing, b"x")
    publisher.publish_message("parent again")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reading)
    os.close(writing)
