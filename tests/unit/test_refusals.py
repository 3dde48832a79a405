"""Each way in which Redis refuses, by a real one: the same advice for publishers, in the log and from the doctor."""

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis
from django.test import override_settings

from tests.support.servers import FakeRedis, RedisServer, free_port, wait_until
from uws4r import redis_probe
from uws4r.diagnosis import FAILED, OK
from uws4r.errors import QueueError
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import site_client
from uws4r.refusals import ADVICE, advice, code_of, explained, said

Settings = dict[str, Any]

MESSAGE = "the message itself"


def needs_password(server: RedisServer) -> Settings:
    server.client.config_set("requirepass", "x")
    return {}


def knows_another(server: RedisServer) -> Settings:
    return {"username": "nobody", "password": "geheim"}


def has_none(server: RedisServer) -> Settings:
    return {"password": "geheim"}


def forbids(server: RedisServer) -> Settings:
    server.client.execute_command("ACL", "SETUSER", "reader", "on", ">geheim", "~*", "&*", "+mget")
    return {"username": "reader", "password": "geheim"}


def is_full(server: RedisServer) -> Settings:
    server.client.config_set("maxmemory", 1)
    return {}


def cannot_save(server: RedisServer) -> Settings:
    (server.directory / "dump.rdb").mkdir()  # root may write everywhere, but no file in the place of a directory
    server.client.config_set("save", "3600 1")
    server.client.set("x", "y")
    server.client.bgsave()
    wait_until(lambda: server.client.info("persistence")["rdb_last_bgsave_status"] == "err", "a failure to save")
    return {}


def is_a_replica(server: RedisServer) -> Settings:
    server.client.replicaof("127.0.0.1", str(free_port()))
    return {}


def lost_its_master(server: RedisServer) -> Settings:
    server.client.config_set("replica-serve-stale-data", "no")
    return is_a_replica(server)


def misses_replicas(server: RedisServer) -> Settings:
    server.client.config_set("min-replicas-to-write", 1)
    return {}


def is_crowded(server: RedisServer) -> Settings:
    server.client.config_set("maxclients", 1)
    return {}


def has_few_databases(server: RedisServer) -> Settings:
    return {"db": 999}


STATES: list[tuple[str, Callable[[RedisServer], Settings]]] = [
    ("NOAUTH", needs_password),
    ("WRONGPASS", knows_another),
    ("NOPASS", has_none),
    ("NOPERM", forbids),
    ("OOM", is_full),
    ("MISCONF", cannot_save),
    ("READONLY", is_a_replica),
    ("MASTERDOWN", lost_its_master),
    ("NOREPLICAS", misses_replicas),
    ("MAXCLIENTS", is_crowded),
    ("NODB", has_few_databases),
]


def refusal(setting: Any, fetching: bool = False) -> QueueError:
    """What a publisher gets."""
    with override_settings(WS4REDIS_CONNECTION=setting):
        publisher = RedisPublisher(facility="f", broadcast=True, users=["a"])
        act = partial(publisher.fetch_message, None, "f") if fetching else partial(publisher.publish_message, MESSAGE)
        with pytest.raises(QueueError) as caught:
            act()
        site_client().connection_pool.disconnect()
    assert MESSAGE not in str(caught.value)
    assert "geheim" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("code", "state"), STATES, ids=[code for code, _ in STATES])
def test_a_publisher_and_the_doctor_say_what_to_change(
    own_redis: RedisServer, code: str, state: Callable[[RedisServer], Settings]
) -> None:
    setting = {"host": "127.0.0.1", "port": own_redis.port, **state(own_redis)}
    try:
        error = refusal(setting, fetching=code == "MASTERDOWN")
        means, change = ADVICE[code]
        assert means in str(error)
        assert change in str(error)
        assert f"Redis (127.0.0.1:{own_redis.port}, database {setting.get('db', 0)}) refuses" in str(error)
        if code == "NOPASS":  # over RESP3, which names a user, Redis takes any password then
            return
        with override_settings(WS4REDIS_CONNECTION=setting):
            findings = [redis_probe.of_server(5)]
            if findings[0].state == OK:
                findings.append(redis_probe.of_permissions("doctor", 5))
            site_client().connection_pool.disconnect()
        finding = findings[-1]
        assert finding.state == FAILED
        if code == "NOPERM":  # of which the doctor knows more
            assert "ACL SETUSER reader" in finding.change
        elif code in ("READONLY", "MASTERDOWN"):
            assert "this is a replica" in finding.means
            assert "WS4REDIS_CONNECTION" in finding.change
        else:
            assert finding[2:] == (means, change)
    finally:
        if code == "MISCONF":  # it would not end either
            (own_redis.directory / "dump.rdb").rmdir()


def test_busy_with_a_script(own_redis: RedisServer) -> None:
    own_redis.client.config_set("lua-time-limit", 1)
    other = redis.Redis(port=own_redis.port, protocol=2)

    def spin() -> None:
        with pytest.raises(redis.ResponseError):
            other.eval("while true do end", 0)

    thread = threading.Thread(target=spin)
    thread.start()

    def busy() -> bool:
        try:
            return not own_redis.client.ping()
        except redis.ResponseError:
            return True

    wait_until(busy, "a script blocks it")
    try:
        error = refusal({"host": "127.0.0.1", "port": own_redis.port})
    finally:
        own_redis.client.script_kill()
        thread.join()
        other.close()
    assert ADVICE["BUSY"].means in str(error)


@pytest.mark.parametrize("command", ["MULTI", "EVAL"])
def test_a_command_that_was_taken_away(tmp_path: Path, command: str) -> None:
    server = RedisServer(tmp_path, options=("--rename-command", command, ""))
    setting = {"host": "127.0.0.1", "port": server.port}
    if command == "MULTI":  # redis-py's pipeline tells of EXEC only
        assert ADVICE["NOMULTI"].means in str(refusal(setting))
    with override_settings(WS4REDIS_CONNECTION=setting):
        finding = redis_probe.of_permissions("doctor", 5)
        site_client().connection_pool.disconnect()
    server.close()
    assert (finding.state, finding.means, finding.change) == (FAILED, *ADVICE["NOCOMMAND"])
    assert finding.seen.startswith(f"{command}: ")


@pytest.fixture
def fake() -> Iterator[Callable[[bytes], FakeRedis]]:
    servers: list[FakeRedis] = []

    def begin(answer: bytes) -> FakeRedis:
        servers.append(FakeRedis(answer))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
        (b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n", "DENIED"),
        (b"-CLUSTERDOWN The cluster is down\r\n", "CLUSTERDOWN"),
        (b"-MOVED 12182 10.0.0.5:6379\r\n", "MOVED"),
        (b"-CROSSSLOT Keys in request don't hash to the same slot\r\n", "MOVED"),
    ],
)
def test_what_is_hard_to_bring_about(fake: Callable[[bytes], FakeRedis], answer: bytes, code: str) -> None:
    setting = {"host": "127.0.0.1", "port": fake(answer).port}
    error = refusal(setting, fetching=True)
    assert ADVICE[code].means in str(error)
    assert ADVICE[code].change in str(error)
    with override_settings(WS4REDIS_CONNECTION=setting):
        finding = redis_probe.of_server(5)
    assert (finding.state, finding.means, finding.change) == (FAILED, *ADVICE[code])
    # As the link reads it.
    assert code_of(hiredis.ReplyError(answer[1:-2].decode())) == code


def test_no_sentinel_knows_the_master() -> None:
    error = refusal({"sentinels": [("127.0.0.1", free_port())], "service_name": "mymaster"})
    assert ADVICE["NOMASTER"].change in str(error)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("NOPERM this user has no permissions to run the 'eval' command", "NOPERM"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:1.", "OOM"),
        ("ERR Error running script (call to f_1f): @user_script:1: @user_script: 1: -OOM command not allowed", "OOM"),
        ("ERR The user executing the script can't run this command or subcommand", "NOPERM"),
        ("ERR unknown command `HELLO`, with args beginning with: `3`, ", "NOPROTO"),
        ("NOPROTO unsupported protocol version", "NOPROTO"),
        ("ERR unknown command 'EVAL', with args beginning with: 'x'", "NOCOMMAND"),
        ("ERR value is not an integer or out of range", ""),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ""),
    ],
)
def test_a_text_of_redis_is_understood(text: str, code: str) -> None:
    assert code_of(hiredis.ReplyError(text)) == code
    assert code_of(text) == code
    if not code:
        assert advice(text) is None
        assert explained(text) == text


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "refused"), TimeoutError("HELLO unknown"), OSError("x")])
def test_what_redis_has_not_said_has_no_advice(error: Exception) -> None:
    assert advice(error) is None


def test_what_a_pipeline_of_redis_py_puts_in_front_is_left_out() -> None:
    wrapped = redis.ResponseError(
        "Command # 2 (SET f secret\nsecret EX 3) of pipeline caused error: NOREPLICAS Not enough"
    )
    assert said(wrapped) == "NOREPLICAS Not enough"
    assert code_of(wrapped) == "NOREPLICAS"


def test_a_refusal_is_explained_in_the_log_of_a_worker(
    own_redis: RedisServer, make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(own_redis)
    sender = bench.join("broadcast:f", publish=("broadcast:f",), expire=60)
    own_redis.client.config_set("min-replicas-to-write", 1)
    with caplog.at_level(logging.ERROR):
        sender.send("m")
        wait_until(lambda: "Redis refused" in caplog.text, "a line in the log")
    assert ADVICE["NOREPLICAS"].change in caplog.text
