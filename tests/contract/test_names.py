"""C: the names in Redis, byte for byte, and what stands under them."""

import subprocess
import urllib.parse

import pytest
import redis
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.site import Site
from tests.unit.test_names import Request
from uws4r._frames import join_name
from uws4r.channels import AUDIENCES
from uws4r.publisher import RedisPublisher
from uws4r.redis_store import SELF

EVERY = {"broadcast": True, "users": ["john", SELF], "groups": [SELF], "sessions": [SELF]}


@pytest.mark.parametrize("prefix", [None, "", "ws"])
def test_c1_names(store: redis.Redis, prefix: str | None) -> None:
    with override_settings(WS4REDIS_PREFIX=prefix):
        publisher = RedisPublisher(facility="foo/b\u00e4r", request=Request(), **EVERY)
    front = f"{prefix}:" if prefix else ""
    assert publisher._publishers == {
        f"{front}broadcast:foo/b\u00e4r",
        f"{front}group:staff:foo/b\u00e4r",
        f"{front}group:chatters:foo/b\u00e4r",
        f"{front}user:john:foo/b\u00e4r",
        f"{front}user:mary:foo/b\u00e4r",
        f"{front}session:k3y:foo/b\u00e4r",
    }
    publisher.publish_message("m")
    assert set(map(bytes.decode, store.keys())) == publisher._publishers


def taken_apart(channel: bytes) -> tuple[str, str, str | None, str]:
    """The inverse of ``join_name``: where there is one, no two channels share a name."""
    parts = channel.decode().split(":")
    at = next(index for index, part in enumerate(parts) if part in AUDIENCES)
    prefix, audience, rest = ":".join(parts[:at]), parts[at], parts[at + 1 :]
    if audience == "broadcast":
        return prefix, audience, None, ":".join(rest)
    return prefix, audience, urllib.parse.unquote(rest[0]), ":".join(rest[1:])


# Besides any text, such as is apt to be mistaken for something else.
words = st.lists(st.sampled_from(["user", "broadcast", "a", ":", "%", "3A", "%3A", "%25", "\u20ac", " "])).map("".join)
texts = st.one_of(st.text(), words)
prefixes = texts.filter(lambda prefix: not set(prefix.split(":")) & set(AUDIENCES))  # of the others uws4r.W003 warns
channels = st.one_of(
    st.tuples(prefixes, st.sampled_from(["user", "group", "session"]), texts, texts),
    st.tuples(prefixes, st.just("broadcast"), st.none(), texts),
)


@settings(max_examples=1000)
@given(channels)
def test_c1_names_are_injective_over_prefix_audience_name_and_facility(channel: tuple[str, str, str, str]) -> None:
    assert taken_apart(join_name(*channel)) == channel


@pytest.mark.e2e
def test_c2_the_payload_is_the_message_and_anybody_may_publish(site: Site, redis_server: object) -> None:
    client = site.join("/ws/f?subscribe-broadcast&publish-broadcast")
    listener = site.redis.client.pubsub()
    listener.subscribe("broadcast:f")
    assert listener.get_message(timeout=5)
    subprocess.run(
        ["redis-cli", "-p", str(site.redis.port), "publish", "broadcast:f", "hi"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert client.receive() == "hi"
    client.send("and back")
    payloads = [listener.get_message(timeout=5)["data"] for _ in range(2)]
    assert payloads == [b"hi", b"and back"]
    assert site.redis.client.get("broadcast:f") == b"and back"
    listener.close()


def test_c3_publish_and_store_on_every_channel(store: redis.Redis) -> None:
    publisher = RedisPublisher(facility="f", broadcast=True, users=["john"])
    for publish in (publisher.publish_message, publisher.pipeline_publish_message):
        store.flushall()
        publish("m", expire=7)
        for name in ("broadcast:f", "user:john:f"):
            assert store.get(name) == b"m"
            assert 5 <= store.ttl(name) <= 7
        publish("only published", 0)
        assert store.get("broadcast:f") == b"m"


def test_c4_keys_for_debugging(store: redis.Redis) -> None:
    RedisPublisher(facility="foo", broadcast=True, users=["john"]).publish_message("m")
    assert store.keys("broadcast:*") == [b"broadcast:foo"]
    assert store.get("user:john:foo") == b"m"
