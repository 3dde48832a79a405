"""F and G: the message and the publisher."""

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.db import connections, transaction
from django.test import override_settings

from tests.support.servers import ROOT, RedisServer
from tests.support.site import Site, site_env
from tests.unit.test_names import Nobody, Request
from uws4r.publisher import RedisPublisher
from uws4r.redis_store import SELF, RedisMessage, RedisStore


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("caf\u00e9", "caf\u00e9".encode()),
        (b"x", b"x"),
        (bytearray(b"x"), b"x"),
        ("", b""),
        (b"", b""),
        ("--heartbeat--", None),
        (b"--heartbeat--", None),
        ([b"message", b"broadcast:f", b"data"], b"data"),
        ([b"subscribe", b"broadcast:f", 1], None),
        ([b"pmessage", b"*", b"broadcast:f", b"data"], None),
        (["message", "broadcast:f", "data"], None),
        (None, None),
        (5, None),
        ({"a": 1}, None),
        (memoryview(b"x"), None),
    ],
)
def test_f_redis_message(value: object, result: bytes | None) -> None:
    with override_settings(WS4REDIS_HEARTBEAT="--heartbeat--"):
        message = RedisMessage(value)
    assert message == result
    assert result is None or (isinstance(message, RedisMessage) and isinstance(message, bytes))


@pytest.mark.parametrize("wrong", [RedisMessage(5), None, object()])
def test_f1_what_is_no_message_is_an_error(store: redis.Redis, wrong: object) -> None:
    with pytest.raises(ValueError, match="message object is not of type RedisMessage"):
        RedisPublisher(facility="f", broadcast=True).publish_message(wrong)
    assert store.keys() == []


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (RedisMessage('{"a": 1}'), b'{"a": 1}'),
        ("text", b"text"),
        (b"\xff", b"\xff"),
        ({"a": [1, "\u20ac"]}, b'{"a": [1, "\\u20ac"]}'),
        ([], b"[]"),
    ],
)
def test_f2_objects_go_out_as_json(store: redis.Redis, message: object, payload: bytes) -> None:
    """Better: ws4redis took a RedisMessage and nothing else."""
    RedisPublisher(facility="f", broadcast=True).publish_message(message)
    assert store.get("broadcast:f") == payload


def test_g1_publishers_are_inspected(store: redis.Redis) -> None:
    publisher = RedisPublisher(facility="f", broadcast=True, users=["john"])
    assert publisher._publishers == {"broadcast:f", "user:john:f"}
    assert publisher._connection.ping()
    assert RedisPublisher()._publishers == set()
    with pytest.raises(TypeError):
        RedisPublisher("f")  # type: ignore[misc]
    with pytest.raises(TypeError):
        RedisPublisher(facility="f", user=["john"])  # type: ignore[call-arg]


@pytest.mark.parametrize(("broadcast", "expected"), [(True, True), (1, True), (False, False), (None, False)])
def test_g2_broadcast(store: redis.Redis, broadcast: object, expected: bool) -> None:
    """BUG-B3: 1 used to publish nowhere."""
    publisher = RedisPublisher(facility="f", broadcast=broadcast)  # type: ignore[arg-type]
    assert publisher._publishers == ({"broadcast:f"} if expected else set())


@pytest.mark.parametrize(
    ("argument", "value", "names", "warns"),
    [
        ("users", ["john", "mary"], {"user:john:f", "user:mary:f"}, False),
        ("users", ("john",), {"user:john:f"}, False),
        ("users", {"john"}, {"user:john:f"}, False),
        ("users", (name for name in ("john",)), {"user:john:f"}, False),
        ("users", [SELF, "john"], {"user:mary:f", "user:john:f"}, False),
        ("users", "john", {"user:john:f"}, True),
        ("users", SELF, {"user:mary:f"}, True),
        ("users", True, {"user:mary:f"}, True),
        ("users", False, set(), False),
        ("users", None, set(), False),
        ("groups", [SELF], {"group:staff:f", "group:chatters:f"}, False),
        ("groups", "x", {"group:x:f"}, True),
        ("groups", True, {"group:staff:f", "group:chatters:f"}, True),
        ("sessions", [SELF], {"session:k3y:f"}, False),
        ("sessions", "k", {"session:k:f"}, True),
        ("sessions", True, {"session:k3y:f"}, True),
        ("users", ["a:b", "50%"], {"user:a%3Ab:f", "user:50%25:f"}, False),
        ("users", ["with space", "\u017delko"], {"user:with space:f", "user:\u017delko:f"}, False),
    ],
)
def test_g3_forms_of_names(store: redis.Redis, argument: str, value: object, names: set[str], warns: bool) -> None:
    """BUG-B1: half of these used to be a NameError on Python 3."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        publisher = RedisPublisher(facility="f", request=Request(), **{argument: value})
    assert publisher._publishers == names
    assert [warning.category for warning in caught] == [DeprecationWarning] * warns
    assert all(warning.filename == __file__ for warning in caught)


@pytest.mark.parametrize("value", [5, b"john", object()])
def test_g3_anything_else_is_an_error(store: redis.Redis, value: object) -> None:
    with pytest.raises(ValueError, match="Argument `users` must be a list or tuple"):
        RedisPublisher(facility="f", users=value)


def test_g3_self_of_nobody_is_nobody(store: redis.Redis) -> None:
    every = {"users": True, "groups": [SELF], "sessions": [SELF]}
    with pytest.warns(DeprecationWarning, match="Wrap users=True"):
        assert RedisPublisher(facility="f", request=Nobody(), **every)._publishers == set()  # type: ignore[arg-type]
    assert RedisPublisher(facility="f", request=object(), users=[SELF])._publishers == set()


@pytest.mark.e2e
def test_g4_publish_message_returns_the_workers_reached(site: Site, store: redis.Redis) -> None:
    publisher = RedisPublisher(facility="f", broadcast=True, users=["john"])
    assert publisher.publish_message("to nobody", expire=0) == 0
    clients = site.join_all_workers("/ws/f?subscribe-broadcast")
    john = site.join("/ws/f?subscribe-broadcast&subscribe-user", session=site.log_in("john"))
    assert publisher.publish_message("to both workers") == site.workers == 2
    assert RedisPublisher(facility="f", users=["john"]).publish_message("to his worker") == 1
    assert [client.receive() for client in clients] == ["to both workers"] * len(clients)
    assert [john.receive() for _ in range(2)] == ["to both workers", "to his worker"]


def test_g5_pipeline_publish_message(store: redis.Redis) -> None:
    publisher = RedisPublisher(facility="f", broadcast=True)
    assert publisher.pipeline_publish_message(RedisMessage("m"), expire=9, transaction=True) == 0
    assert store.get("broadcast:f") == b"m"
    assert publisher.pipeline_publish_message("n", transaction=False) == 0
    assert store.get("broadcast:f") == b"n"


def test_g5_a_subclass_may_publish_with_either(store: redis.Redis) -> None:
    class Both(RedisPublisher):
        def publish_message(self, message: object, expire: int | None = None, **options: object) -> int:
            return self.pipeline_publish_message(message, expire)

    Both(facility="f", broadcast=True).publish_message("m")
    assert store.get("broadcast:f") == b"m"


def test_g6_fetch_message(store: redis.Redis) -> None:
    publisher = RedisPublisher()
    assert publisher.fetch_message(Request(), "f") is None
    for name, audience in (
        ("broadcast:f", "broadcast"),
        ("group:chatters:f", "group"),
        ("user:mary:f", "user"),
        ("session:k3y:f", "session"),
    ):
        store.set(name, audience)
        assert publisher.fetch_message(Request(), "f", audience) == audience.encode()
        assert publisher.fetch_message(Request(), "f", "any") == audience.encode()


def test_g7_redis_store(store: redis.Redis) -> None:
    with override_settings(WS4REDIS_PREFIX="pre"):
        assert RedisStore.get_prefix() == "pre:"
    own = RedisStore(store)
    assert own._connection is store
    assert (own._publishers, own._expire) == (set(), 3600)
    own._publishers = {"custom:name"}
    own.publish_message("m")
    assert store.get("custom:name") == b"m"


@pytest.mark.parametrize("method", ["fork", "thread", "process"])
def test_g8_publishing_from_anywhere(
    store: redis.Redis, redis_server: RedisServer, tmp_path: Path, method: str
) -> None:
    RedisPublisher(facility="f", broadcast=True).publish_message("before")
    if method == "fork":
        child = os.fork()
        if child == 0:
            try:
                RedisPublisher(facility="f", broadcast=True).publish_message("after")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    elif method == "thread":
        thread = threading.Thread(target=RedisPublisher(facility="f", broadcast=True).publish_message, args=("after",))
        thread.start()
        thread.join()
    else:
        code = (
            "from uws4r.publisher import RedisPublisher\n"
            "RedisPublisher(facility='f', broadcast=True).publish_message('after')\n"
            "import sys; assert 'django.db' not in sys.modules and 'uws4r.hub' not in sys.modules"
        )
        env = {**os.environ, **site_env(redis_server.url, tmp_path / "none")}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)
    assert store.get("broadcast:f") == b"after"


# ---------------------------------------------------------------- new


@pytest.fixture
def in_memory() -> Iterator[None]:
    """The process's database, which nothing has opened."""
    yield
    connections.close_all()


def roll_back(publisher: RedisPublisher) -> None:
    publisher.publish_on_commit("rolled back")
    raise ZeroDivisionError


def test_publish_on_commit(store: redis.Redis, in_memory: None) -> None:
    publisher = RedisPublisher(facility="f", broadcast=True)
    with transaction.atomic():
        publisher.publish_on_commit({"answer": 42}, expire=9)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            roll_back(publisher)
        with pytest.raises(ValueError, match="not JSON"):
            publisher.publish_on_commit(object())
        assert store.get("broadcast:f") is None
    assert store.get("broadcast:f") == b'{"answer": 42}'
    assert store.ttl("broadcast:f") <= 9
    publisher.publish_on_commit("outside of a transaction", using="default")
    assert store.get("broadcast:f") == b"outside of a transaction"
