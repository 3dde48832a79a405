"""C: the names in Redis, byte for byte, and what stands under them."""

import subprocess

import pytest
import redis
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from tests.support.site import Site
from tests.unit.test_names import Request
from uws4r._frames import join_name
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


parts = st.text(alphabet="a:%3A25\u20ac/ ", max_size=6)
AUDIENCES = st.sampled_from(["user", "group", "session"])


@given(*[st.tuples(st.just("p"), AUDIENCES, parts, parts)] * 2)
def test_c1_no_two_audiences_share_a_name(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (join_name(*one) == join_name(*other)) == (one == other)


@given(parts, parts, AUDIENCES, parts)
def test_c1_no_facility_makes_a_broadcast_somebody_elses(one: str, other: str, audience: str, name: str) -> None:
    assert join_name("", "broadcast", None, one) != join_name("", audience, name, other)
    assert (join_name("", "broadcast", None, one) == join_name("", "broadcast", None, other)) == (one == other)


# A prefix is the administrator's: one that holds no separator keeps the sites apart that share a Redis.
@given(*[st.tuples(st.text(alphabet="ab_", min_size=1), AUDIENCES, parts, parts)] * 2)
def test_c1_no_two_prefixes_share_a_name(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (join_name(*one) == join_name(*other)) == (one == other)


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
