"""What a site hands to a publisher: the right name and the right text where it is certain, an error where it is not."""

import math
from collections.abc import Iterator
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
import redis
from django.contrib.auth.models import AnonymousUser, Group, User
from django.contrib.sessions.backends.cache import SessionStore
from django.test import override_settings
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy, override

from tests.support.servers import RedisServer
from uws4r.application import Greeting
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import redis_client
from uws4r.redis_store import RedisMessage, to_payload


class Role(str, Enum):
    EDITOR = "editors"


class Plain(Enum):
    EDITOR = "editors"
    SECOND = 2


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    redis_server.client.flushall()
    with override_settings(WS4REDIS_CONNECTION=redis_server.url):
        yield redis_server.client
        redis_client().connection_pool.disconnect()


def session() -> SessionStore:
    return SessionStore("key-of-mary")


MARY = User(pk=7, username="mary")
EDITORS = Group(pk=3, name="editors")


@pytest.mark.parametrize(
    ("audience", "name", "meant"),
    [
        ("users", MARY, "mary"),
        ("users", SimpleLazyObject(lambda: MARY), "mary"),
        ("users", gettext_lazy("Monday"), "Montag"),
        ("users", b"mary", "mary"),
        ("users", SafeString("mary"), "mary"),
        ("users", UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ("groups", EDITORS, "editors"),
        ("groups", Role.EDITOR, "editors"),
        ("groups", Plain.EDITOR, "editors"),
        ("sessions", session(), "key-of-mary"),
    ],
)
def test_an_object_stands_for_its_name(client: redis.Redis, audience: str, name: object, meant: str) -> None:
    with override("de"):
        publisher = RedisPublisher(facility="f", **{audience: [name, "other"]})  # type: ignore[arg-type]
    assert publisher._publishers == {f"{audience[:-1]}:{each}:f" for each in (meant, "other")}


@pytest.mark.parametrize(("audience", "thing"), [("users", MARY), ("groups", EDITORS), ("sessions", session())])
def test_a_single_object_is_an_old_form_as_a_single_text_is(client: redis.Redis, audience: str, thing: object) -> None:
    with pytest.warns(DeprecationWarning, match=f"Wrap {audience}="):
        publisher = RedisPublisher(facility="f", **{audience: thing})  # type: ignore[arg-type]
    assert len(publisher._publishers) == 1


@pytest.mark.parametrize(
    ("audience", "thing"),
    [("users", AnonymousUser()), ("users", SimpleLazyObject(AnonymousUser)), ("sessions", SessionStore())],
)
def test_an_anonymous_user_is_nobody(client: redis.Redis, audience: str, thing: object) -> None:
    """As SELF is for a request of his."""
    assert RedisPublisher(facility="f", **{audience: [thing]})._publishers == set()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("audience", "name", "text"),
    [
        ("users", 7, r"contains 7, which is no name of a user: pass the user, .*not its pk"),
        ("users", True, "contains True"),
        ("users", 7.0, "contains 7.0"),
        ("users", Decimal(7), "contains Decimal"),
        ("users", None, "contains None"),
        ("users", EDITORS, "contains <Group: editors>, which is no name of a user"),
        ("users", ["mary"], "contains \\['mary'\\]"),
        ("users", {"username": "mary"}, "contains {'username'"),
        ("users", object(), "contains <object object"),
        ("users", User, "contains <class"),
        ("users", MARY.get_username, "contains <bound method"),
        ("users", b"\xff", "no UTF-8"),
        ("users", Plain.SECOND, "contains 2"),
        ("groups", 3, r"no name of a group: pass the group, or its name; not its pk"),
        ("groups", MARY, "contains <User: mary>, which is no name of a group"),
        ("sessions", 3, r"no name of a session: pass the key: request.session.session_key"),
        ("sessions", MARY, "no name of a session"),
    ],
)
def test_what_is_no_name_is_an_error(client: redis.Redis, audience: str, name: object, text: str) -> None:
    """It would be a name that nobody has, and a message that nobody gets."""
    for names in ([name], (name,), ["mary", name], iter([name])):
        with pytest.raises(ValueError, match=text):
            RedisPublisher(facility="f", **{audience: names})  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [7, object(), 7.5, b"mary"])
def test_what_is_no_list_is_an_error(client: redis.Redis, names: object) -> None:
    with pytest.raises(ValueError, match="Argument `users` must be a list or tuple"):
        RedisPublisher(facility="f", users=names)


@pytest.mark.parametrize(("facility", "name"), [(gettext_lazy("Monday"), "Montag"), (5, "5"), (Role.EDITOR, "editors")])
def test_a_facility_that_is_certain(client: redis.Redis, facility: object, name: str) -> None:
    with override("de"):
        publisher = RedisPublisher(facility=facility, broadcast=True)  # type: ignore[arg-type]
    assert publisher._publishers == {f"broadcast:{name}"}


@pytest.mark.parametrize("facility", [b"f", True, ["f"], object(), str])
def test_a_facility_that_is_none(client: redis.Redis, facility: object) -> None:
    with pytest.raises(ValueError, match="facility must be a text"):
        RedisPublisher(facility=facility, broadcast=True)  # type: ignore[arg-type]


# ---------------------------------------------------------------- messages


def test_a_lazy_text_is_what_it_says_now(client: redis.Redis) -> None:
    publisher = RedisPublisher(facility="f", broadcast=True)
    monday = gettext_lazy("Monday")
    with override("de"):
        publisher.publish_message(monday)
        assert client.get("broadcast:f") == b"Montag"
        publisher.publish_message({"day": monday, "days": [monday]})
        assert client.get("broadcast:f") == b'{"day": "Montag", "days": ["Montag"]}'
        assert RedisMessage(monday) == b"Montag"
        publisher.publish_message(RedisMessage(monday))
    assert client.get("broadcast:f") == b"Montag"
    with override("fr"):
        publisher.pipeline_publish_message(monday)
    assert client.get("broadcast:f") == b"lundi"


def test_the_heartbeat_is_found_in_a_lazy_text() -> None:
    with override_settings(WS4REDIS_HEARTBEAT="Montag"), override("de"):
        assert RedisMessage(gettext_lazy("Monday")) is None
        with pytest.raises(ValueError, match="WS4REDIS_HEARTBEAT"):
            to_payload(gettext_lazy("Monday"))


def nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "message",
    [
        math.nan,
        math.inf,
        -math.inf,
        [1, math.nan],
        {"a": {"b": math.inf}},
        {1, 2},
        {"a": object()},
        {("a",): 1},
        nested(),
    ],
    ids=lambda message: f"{message!r:.20}" if not isinstance(message, list) else "list",
)
def test_what_no_json_can_say_is_an_error_and_not_sent(client: redis.Redis, message: object) -> None:
    publisher = RedisPublisher(facility="f", broadcast=True)
    for act in (publisher.publish_message, publisher.pipeline_publish_message, publisher.publish_on_commit):
        with pytest.raises(ValueError, match="not JSON"):
            act(message)
    assert client.get("broadcast:f") is None


def test_what_a_subclass_sends_behind_the_101() -> None:
    greeting = Greeting()
    with override("de"):
        for message in ("text", b"\xff", bytearray(b"x"), gettext_lazy("Monday")):
            greeting.send(message)  # type: ignore[arg-type]
    assert [payload for _, payload in greeting.messages] == [b"text", b"\xff", b"x", b"Montag"]
    for wrong in (5, None, {"a": 1}):  # bytes(5) would be five zeros
        with pytest.raises(TypeError, match="a message is a text or bytes"):
            greeting.send(wrong)  # type: ignore[arg-type]
