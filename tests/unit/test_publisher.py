"""The publisher, on a real Redis: what it sends, to whom, and in which processes."""

import datetime
import os
from collections.abc import Iterator

import pytest
import redis
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.test import override_settings

from tests.support.servers import RedisServer
from tests.unit.test_names import Nobody, Request
from uws4r.errors import ConfigurationError
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import redis_client
from uws4r.redis_store import SELF, RedisMessage, RedisStore


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    redis_server.client.flushall()
    with override_settings(WS4REDIS_CONNECTION=redis_server.url):
        yield redis_server.client
        redis_client().connection_pool.disconnect()


def keys(client: redis.Redis) -> dict[bytes, bytes]:
    return {name: client.get(name) for name in sorted(client.keys())}


def test_every_audience_in_one_publish(client: redis.Redis) -> None:
    publisher = RedisPublisher(
        facility="f", broadcast=True, users=["john", "mary"], groups=("g",), sessions=["s"], request=None
    )
    assert publisher.publish_message("m") == 0
    names = [b"broadcast:f", b"group:g:f", b"session:s:f", b"user:john:f", b"user:mary:f"]
    assert keys(client) == dict.fromkeys(names, b"m")


def test_self_is_the_requests_user_groups_and_session(client: redis.Redis) -> None:
    RedisPublisher(facility="f", users=[SELF], groups=[SELF], sessions=[SELF], request=Request()).publish_message("m")
    assert sorted(client.keys()) == [b"group:chatters:f", b"group:staff:f", b"session:k3y:f", b"user:mary:f"]


def test_self_of_an_anonymous_request_publishes_nowhere(client: redis.Redis) -> None:
    """BUG-S4."""
    RedisPublisher(facility="f", users=[SELF], groups=[SELF], request=Nobody()).publish_message("m")
    assert client.keys() == []


def test_publish_and_set_are_one_transaction(client: redis.Redis) -> None:
    with client.monitor() as monitor:
        RedisPublisher(facility="f", broadcast=True, users=["u"]).publish_message("m", expire=10)
        commands = []
        for command in monitor.listen():
            commands.append(command["command"].split()[0])
            if commands[-1] == "EXEC":
                break
    begin = commands.index("MULTI")
    assert commands[begin:] == ["MULTI", "PUBLISH", "SET", "PUBLISH", "SET", "EXEC"]


@pytest.mark.parametrize(
    ("setting", "argument", "ttl"),
    [
        (3600, None, 3600),
        (3600, 5, 5),
        (0, None, None),
        (None, None, None),
        (3600, 0, None),
        (0, 7, 7),
        (-1, None, None),
    ],
)
def test_expiry(client: redis.Redis, setting: int | None, argument: int | None, ttl: int | None) -> None:
    with override_settings(WS4REDIS_EXPIRE=setting):
        RedisPublisher(facility="f", broadcast=True).publish_message("m", expire=argument)
    if ttl is None:
        assert client.get("broadcast:f") is None
    else:
        assert ttl - 2 <= client.ttl("broadcast:f") <= ttl


@pytest.mark.parametrize(
    ("message", "stored"),
    [
        ("caf\u00e9", "caf\u00e9".encode()),
        (b"\xff\x00", b"\xff\x00"),
        (bytearray(b"x"), b"x"),
        (RedisMessage("m"), b"m"),
        ({"a": [1, None]}, b'{"a": [1, null]}'),
        (5, b"5"),
        (datetime.date(2026, 1, 2), b'"2026-01-02"'),
    ],
)
def test_what_can_be_published(client: redis.Redis, message: object, stored: bytes) -> None:
    RedisPublisher(facility="f", broadcast=True).publish_message(message)
    assert client.get("broadcast:f") == stored
    assert RedisPublisher().fetch_message(None, "f") == stored


@pytest.mark.parametrize("message", [None, object()])
def test_what_cannot_be_published_is_a_clear_error(client: redis.Redis, message: object) -> None:
    with pytest.raises(ValueError, match="message object is not of type RedisMessage"):
        RedisPublisher(facility="f", broadcast=True).publish_message(message)


def test_an_empty_value_is_no_message(client: redis.Redis) -> None:
    """It is what a client's message leaves that was delivered and not kept."""
    client.set("broadcast:f", "")
    assert RedisPublisher().fetch_message(None, "f") is None


def test_binary_that_is_valid_text(client: redis.Redis) -> None:
    RedisPublisher(facility="f", broadcast=True).publish_message(b"text?", binary=True)
    assert client.get("broadcast:f") == b"\x00u4\x01\x01text?"
    assert RedisPublisher().fetch_message(None, "f") == b"text?"


def test_a_publisher_without_a_facility(client: redis.Redis) -> None:
    """BUG-B3: it used to publish to the literal ``broadcast:{facility}``."""
    with pytest.raises(ValueError, match="needs a facility"):
        RedisPublisher(broadcast=True)
    assert RedisPublisher().publish_message("m") == 0
    assert client.keys() == []


def test_fetching_looks_from_the_narrowest_to_the_widest_audience(client: redis.Redis) -> None:
    publisher, request = RedisPublisher(), Request()
    assert publisher.fetch_message(request, "f") is None
    for name, audience in (
        ("broadcast:f", "broadcast"),
        ("group:chatters:f", "group"),
        ("user:mary:f", "user"),
        ("session:k3y:f", "session"),
    ):
        client.set(name, audience)
        assert publisher.fetch_message(request, "f", audience) == audience.encode()
        assert publisher.fetch_message(request, "f") == audience.encode()
    assert publisher.fetch_message(Nobody(), "f") == b"broadcast"
    assert publisher.fetch_message(Nobody(), "f", "user") is None
    assert publisher.fetch_message(object(), "f") == b"broadcast"  # BUG-B4: neither user nor session
    with pytest.raises(ValueError, match="not one of any, session, user, group, broadcast"):
        publisher.fetch_message(request, "f", "everyone")


def test_prefix(client: redis.Redis) -> None:
    assert RedisStore.get_prefix() == ""
    with override_settings(WS4REDIS_PREFIX="ws"):
        assert RedisStore.get_prefix() == "ws:"
        RedisPublisher(facility="f", broadcast=True).publish_message("m")
        assert RedisPublisher().fetch_message(None, "f") == b"m"
    assert client.keys() == [b"ws:broadcast:f"]


def test_new_names_of_settings_win(client: redis.Redis) -> None:
    with override_settings(WS4REDIS_PREFIX="old", UWS4R_PREFIX="new"):
        assert RedisStore.get_prefix() == "new:"


@pytest.mark.parametrize("form", ["url", "arguments", "decode_responses"])
def test_forms_of_the_connection_setting(redis_server: RedisServer, form: str) -> None:
    arguments = {"host": "127.0.0.1", "port": redis_server.port, "db": 0, "password": None}
    setting = {
        "url": redis_server.url,
        "arguments": arguments,
        "decode_responses": {**arguments, "decode_responses": True},  # BUG-B7
    }[form]
    with override_settings(WS4REDIS_CONNECTION=setting):
        RedisPublisher(facility="f", broadcast=True).publish_message("m")
        assert RedisPublisher().fetch_message(None, "f") == b"m"
        redis_client().connection_pool.disconnect()


def test_the_pool_is_shared_and_survives_a_fork(client: redis.Redis) -> None:
    publisher = RedisPublisher(facility="f", broadcast=True)
    publisher.publish_message("parent")
    assert RedisPublisher()._connection is publisher._connection
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for i in range(50):
                publisher.publish_message(f"child {i}")
            status = 0
        finally:
            os._exit(status)
    for i in range(50):
        publisher.publish_message(f"parent {i}")
        fetched = publisher.fetch_message(None, "f")
        assert fetched is not None
        assert fetched.startswith((b"parent", b"child"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "setting", ["localhost:6379", {"hots": "localhost"}, ("localhost", 6379), {"url": "localhost"}, {"url": None}]
)
def test_a_setting_that_is_no_connection_is_named(setting: object) -> None:
    with (
        override_settings(WS4REDIS_CONNECTION=setting),
        pytest.raises(ConfigurationError, match="WS4REDIS_CONNECTION must be a URL or a dictionary"),
    ):
        RedisPublisher()


def test_publishing_to_nobody_is_logged_unless_an_audience_is_empty(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    assert RedisPublisher(facility="f", users=[SELF], request=Nobody()).publish_message("m") == 0
    assert RedisPublisher(facility="f", users=[]).publish_message("m") == 0
    assert caplog.text == ""
    assert RedisPublisher(facility="f").publish_message("m") == 0
    assert "published to nobody: name an audience" in caplog.text


# ---------------------------------------------------------------- RedisMessage


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("caf\u00e9", "caf\u00e9".encode()),
        (b"x", b"x"),
        (bytearray(b"x"), b"x"),
        ("", b""),
        ([b"message", b"channel", b"data"], b"data"),
        ([b"subscribe", b"channel", 1], None),
        ([b"pmessage", b"*", b"channel", b"data"], None),
        (["message", "channel", "data"], None),
        ([], None),
        (None, None),
        (5, None),
        ({"a": 1}, None),
        ("--heartbeat--", None),
        (b"--heartbeat--", None),
        ([b"message", b"channel", b"--heartbeat--"], None),
    ],
)
def test_redis_message(value: object, result: bytes | None) -> None:
    with override_settings(WS4REDIS_HEARTBEAT="--heartbeat--"):
        message = RedisMessage(value)
    assert message == result
    assert result is None or isinstance(message, RedisMessage)


def test_a_session_in_a_cookie_is_no_audience(client: redis.Redis) -> None:
    request = Request()
    request.session = SignedCookies("whatever:the:cookie")  # type: ignore[assignment]
    for sessions in ([SELF], (SELF,), {SELF}):
        with pytest.raises(ConfigurationError, match="signed_cookies"):
            RedisPublisher(facility="f", sessions=sessions, request=request)
    with pytest.raises(ConfigurationError, match="signed_cookies"):
        RedisPublisher().fetch_message(request, "f", "session")
    RedisPublisher(facility="f", users=[SELF], sessions=["another site's"], request=request).publish_message("m")
    assert set(keys(client)) == {b"user:mary:f", b"session:another site's:f"}
    assert RedisPublisher().fetch_message(request, "f") == b"m"
