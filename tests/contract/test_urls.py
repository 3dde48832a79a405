"""B: the URL of a websocket, and its flags."""

from collections.abc import Callable

import pytest

from tests.support.site import Site

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("path", "facility"),
    [
        ("/ws/", ""),
        ("/ws/foobar", "foobar"),
        ("/ws/a/b", "a/b"),
        ("/ws/caf%C3%A9%20%25", "caf\u00e9 %"),
        ("/ws/ws/again", "ws/again"),
        ("/ws/" + "x" * 1024, "x" * 1024),
    ],
)
def test_b1_the_facility_is_the_path_behind_the_prefix(site: Site, path: str, facility: str) -> None:
    client = site.join(f"{path}?subscribe-broadcast", channel=f"broadcast:{facility}")
    site.redis.client.publish(f"broadcast:{facility}", "here")
    assert client.receive() == "here"


@pytest.mark.parametrize(
    "flags",
    [
        "subscribe-broadcast",
        "subscribe-broadcast=0",
        "SUBSCRIBE-Broadcast",
        "%20subscribe-broadcast%20=x",
        "token=secret&subscribe-broadcast&nonsense",
        "subscribe-broadcast&subscribe-broadcast",
    ],
)
def test_b2_flags_are_names_in_the_query(site: Site, flags: str) -> None:
    client = site.join(f"/ws/f?{flags}")
    site.redis.client.publish("broadcast:f", "here")
    assert client.receive() == "here"
    assert client.ping() == []


AUDIENCES = ("session", "group", "user", "broadcast")


def channel_of(audience: str, session: str) -> str:
    names = {"session": f"session:{session}:f", "group": "group:chatters:f", "user": "user:john:f"}
    return names.get(audience, "broadcast:f")


@pytest.mark.parametrize("audience", AUDIENCES)
def test_b2_every_flag(site: Site, audience: str) -> None:
    session = site.log_in("john")
    channel = channel_of(audience, session)
    listener = site.join(f"/ws/f?subscribe-{audience}", session=session, channel=channel)
    sender = site.join(f"/ws/f?publish-{audience}&subscribe-{audience}", session=session, channel=channel)
    echoed = site.join(f"/ws/f?publish-{audience}&subscribe-{audience}&echo", session=session, channel=channel)
    sender.send("from the sender")
    assert listener.receive() == "from the sender"
    echoed.send("from the echoed")
    assert listener.receive() == "from the echoed"
    assert [echoed.receive() for _ in range(2)] == ["from the sender", "from the echoed"]
    assert sender.receive() == "from the echoed"


def test_b3_a_subscriber_class_adds_flags(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Tags"})
    client = site.join("/ws/f?subscribe-broadcast&subscribe-tags=a,b", channel="tag:b:f")
    for channel in ("broadcast:f", "tag:a:f", "tag:c:f", "tag:b:f"):
        site.redis.client.publish(channel, channel)
    assert [client.receive() for _ in range(3)] == ["broadcast:f", "tag:a:f", "tag:b:f"]


def test_b4_flags_that_are_not_granted_are_dropped(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.only_broadcast"})
    client = site.join("/ws/f?subscribe-broadcast&publish-broadcast&subscribe-user", session=site.log_in("john"))
    client.send("not published")
    assert client.ping() == []
    assert site.redis.client.keys() == []
    assert site.redis.subscriptions("user:john:f") == 0
    assert site.connect("/ws/f?publish-broadcast").ping() == []  # with nothing left it is still accepted


def test_b5_a_websocket_has_one_facility(site: Site) -> None:
    one, other = site.join("/ws/one?subscribe-broadcast"), site.join("/ws/two?subscribe-broadcast")
    site.redis.client.publish("broadcast:one", "to one")
    assert one.receive() == "to one"
    assert other.ping() == []
