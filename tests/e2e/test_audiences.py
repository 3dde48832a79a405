"""Who gets what: the four audiences, from a view, from the browser, from anywhere."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.servers import wait_until
from tests.support.site import Site, manage

pytestmark = pytest.mark.e2e


def test_broadcast_reaches_everybody_on_the_facility(site: Site) -> None:
    john, nobody = site.join("/ws/foo?subscribe-broadcast"), site.join("/ws/foo?subscribe-broadcast")
    other = site.join("/ws/bar?subscribe-broadcast")
    response = site.request("POST", "/publish/", "facility=foo&audience=broadcast&message=hello")
    assert response.status == 200
    assert john.receive() == "hello"
    assert nobody.receive() == "hello"
    assert other.ping() == []


def test_user_messages_reach_all_of_one_users_sockets_and_nobody_else(site: Site) -> None:
    john, mary = site.log_in("john"), site.log_in("mary")
    first = site.join("/ws/foo?subscribe-user", session=john, channel="user:john:foo")
    second = site.join("/ws/foo?subscribe-user", session=site.log_in("john"), channel="user:john:foo")
    hers = site.join("/ws/foo?subscribe-user", session=mary, channel="user:mary:foo")
    site.request("POST", "/publish/", "facility=foo&audience=user&message=hi+john", session=john)
    assert first.receive() == "hi john"
    assert second.receive() == "hi john"
    assert hers.ping() == []


def test_group_messages_reach_its_members(site: Site) -> None:
    john, mary, admin = (site.log_in(name) for name in ("john", "mary", "admin"))
    members = [site.join("/ws/g?subscribe-group", session=key, channel="group:chatters:g") for key in (john, mary)]
    stranger = site.connect("/ws/g?subscribe-group", session=admin)
    site.request("POST", "/publish/", "facility=g&audience=group&message=chatter", session=john)
    assert [member.receive() for member in members] == ["chatter", "chatter"]
    assert stranger.ping() == []


def test_session_messages_reach_one_session(site: Site) -> None:
    one, two = site.log_in("john"), site.log_in("john")
    mine = site.join("/ws/s?subscribe-session", session=one, channel=f"session:{one}:s")
    other = site.join("/ws/s?subscribe-session", session=two, channel=f"session:{two}:s")
    site.request("POST", "/publish/", "facility=s&audience=session&message=here", session=one)
    assert mine.receive() == "here"
    assert other.ping() == []


def test_a_made_up_session_key_is_no_session(site: Site) -> None:
    """BUG-S7: what a client claims in its cookie is not taken for a session."""
    client = site.connect("/ws/s?subscribe-session", session="a" * 32)
    assert client.ping() == []
    assert site.redis.subscriptions(f"session:{'a' * 32}:s") == 0


def test_an_anonymous_client_has_no_user_channel(site: Site) -> None:
    """BUG-S4: nobody's messages are not shared by all nobodies."""
    site.connect("/ws/foo?subscribe-user&subscribe-group&publish-user").ping()
    assert site.redis.channels() == []


def test_clients_publish_to_what_they_asked_for(site: Site) -> None:
    john = site.log_in("john")
    sender = site.connect("/ws/foo?publish-broadcast&publish-user", session=john)
    everybody = site.join("/ws/foo?subscribe-broadcast")
    his = site.join("/ws/foo?subscribe-user", session=john, channel="user:john:foo")
    sender.send("to all and to john")
    assert everybody.receive() == "to all and to john"
    assert his.receive() == "to all and to john"


def test_without_a_publish_flag_messages_are_dropped(site: Site) -> None:
    reader = site.join("/ws/foo?subscribe-broadcast")
    silent = site.connect("/ws/foo?subscribe-broadcast")
    silent.send("nobody hears this")
    silent.ping()
    assert reader.ping() == []
    assert site.redis.client.keys() == []


def test_a_burst_in_one_segment_is_published_whole_and_in_order(site: Site) -> None:
    from tests.support.wire import TEXT, masked_frame

    reader = site.join("/ws/foo?subscribe-broadcast")
    sender = site.connect("/ws/foo?publish-broadcast")
    sender.send_raw(b"".join(masked_frame(TEXT, b"message %d" % i) for i in range(100)))
    assert [reader.receive() for _ in range(100)] == [f"message {i}" for i in range(100)]


def test_binary_stays_binary_and_text_stays_text(site: Site) -> None:
    client = site.join("/ws/foo?subscribe-broadcast&publish-broadcast&echo")
    for message in (
        b"\xff\x00",
        b"also valid UTF-8",
        "text: \u20ac \U0001f600",
        b"\x00u4\x01forged",
        "\x00u4\x01forged",
    ):
        client.send(message)
        assert client.receive() == message


@pytest.mark.parametrize(
    "publish",
    [
        pytest.param(
            lambda site: site.request("POST", "/publish/", "facility=f&audience=broadcast&message=m"), id="view"
        ),
        pytest.param(
            lambda site: manage(
                site.env,
                "shell",
                "-c",
                "from uws4r.publisher import RedisPublisher as P; P(facility='f', broadcast=True).publish_message('m')",
            ),
            id="manage.py shell",
        ),
        pytest.param(
            lambda site: subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "import sys; from uws4r.publisher import RedisPublisher as P\n"
                    "P(facility='f', broadcast=True).publish_message('m'); assert 'uws4r.hub' not in sys.modules",
                ],
                env={**os.environ, **site.env},
                check=True,
            ),
            id="process without uWSGI",
        ),
        pytest.param(
            lambda site: subprocess.run(
                ["redis-cli", "-p", str(site.redis.port), "publish", "broadcast:f", "m"],
                check=True,
                stdout=subprocess.DEVNULL,
            ),
            id="redis-cli",
        ),
    ],
)
def test_a_publish_reaches_the_clients_of_every_worker(site: Site, publish: Callable[[Site], object]) -> None:
    clients = site.join_all_workers("/ws/f?subscribe-broadcast")
    publish(site)
    assert [client.receive() for client in clients] == ["m"] * len(clients)


def test_ten_thousand_publishes_in_one_pipeline_arrive_whole_and_in_order(site: Site) -> None:
    clients = site.join_all_workers("/ws/f?subscribe-broadcast")
    pipeline = site.redis.client.pipeline(transaction=False)
    for i in range(10_000):
        pipeline.publish("broadcast:f", f"{i} {'x' * (i % 97)}")
    pipeline.execute()
    for client in clients:
        for i in range(10_000):
            assert client.receive() == f"{i} {'x' * (i % 97)}"


def test_nobody_is_subscribed_when_all_have_left(site: Site) -> None:
    clients = [site.join("/ws/f?subscribe-broadcast") for _ in range(4)]
    assert site.redis.subscriptions("broadcast:f") >= 1
    site.close_clients()
    assert clients
    wait_until(lambda: site.redis.subscriptions("broadcast:f") == 0, "unsubscribed")
