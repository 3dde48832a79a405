"""D: who gets what."""

import pytest

from tests.support.site import Site

pytestmark = pytest.mark.e2e


def test_d1_broadcast_reaches_everybody_on_the_facility(site: Site) -> None:
    clients = site.join_all_workers("/ws/f?subscribe-broadcast")
    other = site.join("/ws/other?subscribe-broadcast")
    site.request("POST", "/publish/", "facility=f&audience=broadcast&message=m")
    assert [client.receive() for client in clients] == ["m"] * len(clients)
    assert other.ping() == []


def test_d2_user_reaches_all_of_his_websockets(site: Site) -> None:
    tabs = [site.join("/ws/f?subscribe-user", session=site.log_in("john"), channel="user:john:f") for _ in range(3)]
    hers = site.join("/ws/f?subscribe-user", session=site.log_in("mary"), channel="user:mary:f")
    site.redis.client.publish("user:john:f", "m")
    assert [tab.receive() for tab in tabs] == ["m"] * 3
    assert hers.ping() == []


def test_d3_group_reaches_its_members(site: Site) -> None:
    john, mary, admin = (site.log_in(name) for name in ("john", "mary", "admin"))
    members = [site.join("/ws/f?subscribe-group", session=key, channel="group:chatters:f") for key in (john, mary)]
    stranger = site.connect("/ws/f?subscribe-group", session=admin)
    site.redis.client.publish("group:chatters:f", "m")
    assert [member.receive() for member in members] == ["m"] * 2
    assert stranger.ping() == []


def test_d4_session_reaches_anonymous_visitors_too(site: Site) -> None:
    response = site.request("POST", "/visit/")
    key = response.headers["set-cookie"].split("sessionid=")[1].split(";")[0]
    mine = site.join("/ws/f?subscribe-session", session=key, channel=f"session:{key}:f")
    other = site.connect("/ws/f?subscribe-session")
    site.request("POST", "/publish/", "facility=f&audience=session&message=m", session=key)
    assert mine.receive() == "m"
    assert other.ping() == []


def test_d5_several_audiences_of_one_publish_come_once(site: Site) -> None:
    """Deliberately different: ws4redis sent one copy for each channel."""
    client = site.join("/ws/f?subscribe-broadcast&subscribe-user&subscribe-group", session=site.log_in("john"))
    site.request("POST", "/everywhere/", "facility=f&user=john&group=chatters&message=once")
    assert client.receive() == "once"
    assert client.ping() == []


def test_d6_a_client_publishes_to_its_own_channels_only(site: Site) -> None:
    john = site.connect("/ws/f?publish-user&publish-group", session=site.log_in("john"))
    his = site.join("/ws/f?subscribe-user", session=site.log_in("john"), channel="user:john:f")
    hers = site.join("/ws/f?subscribe-user", session=site.log_in("mary"), channel="user:mary:f")
    group = site.join("/ws/f?subscribe-group", session=site.log_in("mary"), channel="group:chatters:f")
    john.send("m")
    assert his.receive() == group.receive() == "m"
    assert hers.ping() == []


def test_d7_without_a_publish_flag_messages_are_dropped(site: Site) -> None:
    client = site.join("/ws/f?subscribe-broadcast&echo")
    client.send("dropped")
    assert client.ping() == []
    assert site.redis.client.keys() == []
