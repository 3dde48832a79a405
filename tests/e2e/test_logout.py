"""A login that ends takes its websockets along, in every worker."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.servers import RedisServer, wait_until
from tests.support.site import Site, manage
from tests.support.wire import PING, Client, Refused

pytestmark = pytest.mark.e2e

SQL = "from django.db import connection\nconnection.cursor().execute"
MODELS = "from django.contrib.auth.models import Group, User; from django.contrib.sessions.models import Session; "
CHECKED = "/ws/f?subscribe-broadcast&subscribe-user"


def shell(site: Site, code: str) -> None:
    manage(site.env, "shell", "-c", MODELS + code)


@pytest.fixture
def mary(site: Site) -> Iterator[str]:
    """A user of the test's own."""
    name = "mary-anne"
    shell(
        site, f"User.objects.filter(username={name!r}).delete(); User.objects.create_user({name!r}, password={name!r})"
    )
    yield name
    shell(site, f"User.objects.filter(username={name!r}).delete()")


def closed_with(client: Client) -> int:
    while (frame := client.frame()).opcode == PING:
        pass
    return frame.close_code


def in_both_workers(site: Site, path: str, session: str) -> list[Client]:
    return [site.connect(path, session=session) for _ in range(8)]


def test_a_logout_closes_the_sessions_websockets_only(site: Site, mary: str) -> None:
    session, other = site.log_in(mary), site.log_in(mary)
    clients = in_both_workers(site, CHECKED, session)
    broadcast = site.connect("/ws/f?subscribe-broadcast", session=session)
    stays = [site.connect(CHECKED, session=other), site.connect("/ws/f?subscribe-broadcast")]
    begin = time.monotonic()
    site.request("GET", "/logout/", session=session)
    assert [closed_with(client) for client in [*clients, broadcast]] == [4401] * 9
    assert time.monotonic() - begin < 5
    for client in stays:
        client.ping()


@pytest.mark.parametrize(
    "change",
    [
        "user.set_password('new'); user.save()",
        "user.is_active = False; user.save()",
        "user.delete()",
        "from django.db import transaction\nwith transaction.atomic():\n    user.set_password('new'); user.save()",
    ],
    ids=["password", "deactivated", "deleted", "in a transaction"],
)
@pytest.mark.parametrize("path", [CHECKED, "/ws/f?subscribe-broadcast"], ids=["user", "broadcast"])
def test_a_user_who_may_no_longer_is_closed_everywhere(site: Site, mary: str, path: str, change: str) -> None:
    clients = in_both_workers(site, path, site.log_in(mary))
    stays = site.connect(path, session=site.log_in("john"))
    begin = time.monotonic()
    shell(site, f"user = User.objects.get(username={mary!r})\n{change}")
    assert [closed_with(client) for client in clients] == [4401] * 8
    assert time.monotonic() - begin < 5 + 3  # a shell takes its time
    stays.ping()


# What a user may be called, and what could be taken for something else: Django's forms allow the first two.
STRANGE = ["-", "--", "%2D", "", "%", "unix"]


@pytest.fixture(params=STRANGE)
def strange(request: pytest.FixtureRequest, site: Site) -> Iterator[str]:
    """A user with a name that could be taken for a sign of ours."""
    name: str = request.param
    shell(
        site,
        f"User.objects.filter(username={name!r}).delete(); user = User(username={name!r}); "
        f"user.set_password({name!r}); user.save()",
    )
    yield name
    shell(site, f"User.objects.filter(username={name!r}).delete()")


@pytest.mark.parametrize(
    "change",
    ["user.set_password('new'); user.save()", "user.is_active = False; user.save()", "user.delete()"],
    ids=["password", "deactivated", "deleted"],
)
def test_nobody_is_taken_for_a_user_of_a_strange_name(site: Site, strange: str, change: str) -> None:
    clients = in_both_workers(site, CHECKED, site.log_in(strange))
    visitor = site.request("POST", "/visit/").headers["set-cookie"].split("sessionid=")[1].split(";")[0]
    anonymous = [site.connect(CHECKED) for _ in range(8)] + [site.connect(CHECKED, session=visitor) for _ in range(8)]
    others = [site.connect(CHECKED, session=site.log_in("john"))]
    shell(site, f"user = User.objects.get(username={strange!r})\n{change}")
    assert [closed_with(client) for client in clients] == [4401] * 8
    for client in anonymous + others:
        assert client.ping() == []


def test_a_user_called_like_nobody_has_a_share_and_can_be_kicked(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_CONNECTIONS_PER_USER": 2})
    shell(site, "User.objects.filter(username='-').delete(); User.objects.create_user('-', password='-')")
    session = site.log_in("-")
    own = [site.connect(CHECKED, session=session) for _ in range(2)]
    with pytest.raises(Refused) as refused:
        site.connect(CHECKED, session=session)
    assert refused.value.response.status == 429
    anonymous = [site.connect(CHECKED) for _ in range(5)]
    assert manage(site.env, "uws4r", "kick", "--user", "-").startswith("2 closed")
    assert [closed_with(client) for client in own] == [4403] * 2
    for client in anonymous:
        assert client.ping() == []
    shell(site, "User.objects.filter(username='-').delete()")


def test_a_user_who_is_saved_otherwise_stays(site: Site, mary: str) -> None:
    client = site.connect(CHECKED, session=site.log_in(mary))
    shell(site, f"user = User.objects.get(username={mary!r}); user.first_name = 'Mary'; user.save()")
    shell(site, f"user = User.objects.get(username={mary!r}); user.is_active = False; user.save()")
    assert closed_with(client) == 4401  # the orders come in order: the first one did nothing


def test_what_no_signal_tells_is_found(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_SESSION_CHECK": 1})
    flushed, stays = site.log_in("john"), site.log_in("john")
    clients = [site.connect(CHECKED, session=flushed) for _ in range(3)]
    clients.append(site.connect("/ws/f?subscribe-broadcast", session=flushed))
    other = site.connect(CHECKED, session=stays)
    shell(site, f"Session.objects.filter(pk={flushed!r}).delete()")
    # Nobody can tell it from a session that goes on under another key, so the client is asked to come back.
    assert [closed_with(client) for client in clients] == [4501] * 4
    back = site.connect(CHECKED, session=flushed)
    assert back.ping() == []
    assert site.redis.subscriptions("user:john:f") == 1  # the other one's
    back.sock.close()
    other.ping()


def test_without_looks_a_websocket_depends_on_what_it_asks_for(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_SESSION_CHECK": 0})
    session = site.log_in("john")
    broadcast = site.connect("/ws/f?subscribe-broadcast", session=session)
    broadcast.ping()
    assert " - /ws/f open" in site.uwsgi.log  # nobody has read who it is
    site.request("GET", "/logout/", session=session)
    assert closed_with(broadcast) == 4401  # its cookie names the session


def test_a_login_that_cannot_be_read_keeps_nobody_from_a_broadcast(served: Callable[..., Site]) -> None:
    nowhere = {"ENGINE": "django.db.backends.sqlite3", "NAME": "/no/such/directory/db.sqlite3"}
    site = served(settings={"DATABASES": {"default": nowhere}})
    site.connect("/ws/f?subscribe-broadcast", session="k" * 32).ping()
    assert "the login of a websocket cannot be read" in site.uwsgi.log
    assert "Traceback" not in site.uwsgi.log


def test_a_session_ends_at_its_time(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_SESSION_CHECK": 0, "SESSION_COOKIE_AGE": 3})
    begin = time.monotonic()
    client = site.connect(CHECKED, session=site.log_in("john"))
    assert closed_with(client) == 4401
    assert 2 < time.monotonic() - begin < 8


def test_a_session_that_cannot_be_read_closes_nobody(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_SESSION_CHECK": 1})
    session = site.log_in("john")
    client = site.connect(CHECKED, session=session)
    shell(
        site,
        "from django.db import connection\nconnection.cursor().execute('ALTER TABLE django_session RENAME TO gone')",
    )
    try:
        wait_until(lambda: "sessions cannot be read" in site.uwsgi.log, "a warning")
        client.ping()
    finally:
        shell(site, f"{SQL}('ALTER TABLE gone RENAME TO django_session')")
    client.ping()
    assert site.uwsgi.log.count("sessions cannot be read") == 1
    shell(site, f"Session.objects.filter(pk={session!r}).delete()")
    assert closed_with(client) == 4501


@pytest.mark.parametrize(
    "change",
    [
        "john.groups.remove(group)",
        "group.user_set.remove(john)",
        "john.groups.clear()",
        "group.user_set.clear()",
        "group.delete()",
        "group.name = 'another team'; group.save()",
    ],
)
def test_who_leaves_a_group_loses_its_channels_only(site: Site, mary: str, change: str) -> None:
    shell(
        site,
        "group, _ = Group.objects.get_or_create(name='a: team'); "
        f"group.user_set.add(User.objects.get(username={mary!r}), User.objects.get(username='john'))",
    )
    channel = "group:a%3A team:g"
    path = "/ws/g?subscribe-group&subscribe-broadcast&publish-group&echo"
    client = site.join(path, session=site.log_in("john"))
    other = site.join(path, session=site.log_in(mary))
    site.redis.client.publish(channel, "for the team")
    assert (client.receive(), other.receive()) == ("for the team", "for the team")
    try:
        shell(site, f"john = User.objects.get(username='john'); group = Group.objects.get(name='a: team'); {change}")

        def reached() -> bool:
            site.redis.client.publish(channel, "again")
            site.redis.client.publish("broadcast:g", "for all")
            messages = [client.receive()]
            while messages[-1] != "for all":
                messages.append(client.receive())
            return messages != ["for all"]

        wait_until(lambda: not reached(), "left the group")
        client.send("to the team")
        client.ping()
        site.redis.client.publish("broadcast:g", "the end")
        assert client.receive() == "the end"
        while (message := other.receive()) in ("again", "for all"):
            pass
        assert message == "the end"  # neither closed, nor reached by what john has sent
    finally:
        shell(
            site,
            "Group.objects.filter(name__in=['a: team', 'another team']).delete(); "
            "User.objects.get(username='john').groups.set(Group.objects.filter(name='chatters'))",
        )


def test_who_leaves_a_group_publishes_there_no_longer_through_an_override(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Slow"})
    client = site.connect("/ws/g?publish-group&publish-broadcast", session=site.log_in("john"))
    listener = site.redis.client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("group:chatters:g", "broadcast:g")
    names = "john = User.objects.get(username='john'); "
    shell(site, names + "john.groups.clear()")
    try:

        def heard() -> set[bytes]:
            client.send("anybody?")
            found = set()
            while b"broadcast:g" not in found:
                if (message := listener.get_message(timeout=5)) is not None:
                    found.add(message["channel"])
            return found

        wait_until(lambda: heard() == {b"broadcast:g"}, "left")
    finally:
        shell(site, names + "john.groups.set(Group.objects.filter(name='chatters'))")
        listener.close()


def test_a_logout_with_redis_away_is_a_logout(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, settings={"UWS4R_SESSION_CHECK": 1})
    session = site.log_in("john")
    client = site.connect(CHECKED, session=session)
    client.ping()
    own_redis.stop()
    assert site.request("GET", "/logout/", session=session).status == 200
    assert "no worker could be told to close" in site.uwsgi.log
    assert closed_with(client) == 4501  # by the look at the sessions, which is not told why


def the_session(response: Any) -> str:
    """The key of the session that a page has given the browser."""
    assert response.status == 200
    return response.headers["set-cookie"].split("sessionid=")[1].split(";")[0]


EVERYTHING = "/ws/r?subscribe-broadcast&subscribe-session&subscribe-user"


def test_a_login_on_a_page_with_a_session_has_its_websockets_come_back(site: Site, mary: str) -> None:
    before = the_session(site.request("POST", "/visit/"))
    other = the_session(site.request("POST", "/visit/"))
    clients = in_both_workers(site, EVERYTHING, before)
    stays = [site.connect(EVERYTHING, session=other), site.connect(EVERYTHING, session=site.log_in("john"))]
    after = the_session(site.request("POST", "/login/", f"username={mary}", session=before))
    assert after != before
    assert [closed_with(client) for client in clients] == [4501] * 8
    site.join(EVERYTHING, session=after, channel=f"user:{mary}:r")
    wait_until(lambda: site.redis.subscriptions(f"session:{after}:r") == 1, "joined")
    # Whoever has the key of before is nobody.
    assert site.connect("/ws/s?subscribe-session&subscribe-user", session=before).ping() == []
    assert not [name for name in site.redis.channels() if name.endswith(b":s")]
    for client in stays:
        assert client.ping() == []


def test_a_login_of_somebody_else_in_the_same_browser_is_a_logout(site: Site, mary: str) -> None:
    before = site.log_in("john")
    clients = in_both_workers(site, EVERYTHING, before)
    after = the_session(site.request("POST", "/login/", f"username={mary}", session=before))
    assert after != before
    assert [closed_with(client) for client in clients] == [4401] * 8


def test_an_own_password_change_has_the_browser_come_back_and_ends_all_others(site: Site, mary: str) -> None:
    own, stolen = site.log_in(mary), site.log_in(mary)
    clients, others = in_both_workers(site, EVERYTHING, own), in_both_workers(site, EVERYTHING, stolen)
    after = the_session(site.request("POST", "/password/", "password=another", session=own))
    assert after != own
    assert [closed_with(client) for client in clients] == [4501] * 8
    assert [closed_with(client) for client in others] == [4401] * 8
    site.join(EVERYTHING, session=after, channel=f"user:{mary}:r")
    for key in (own, stolen):
        assert site.connect("/ws/s?subscribe-session&subscribe-user", session=key).ping() == []
    assert not [name for name in site.redis.channels() if name.endswith(b":s")]


@pytest.mark.parametrize(
    "change",
    ["user.username = 'mary-lou'; user.save()", "user.username = 'mary-lou'; user.save(update_fields=['username'])"],
)
def test_a_user_with_another_name_comes_back_with_it(site: Site, mary: str, change: str) -> None:
    session = site.log_in(mary)
    clients = in_both_workers(site, EVERYTHING, session)
    stays = site.connect(EVERYTHING, session=site.log_in("john"))
    try:
        shell(site, f"user = User.objects.get(username={mary!r}); {change}")
        assert [closed_with(client) for client in clients] == [4501] * 8
        site.join(EVERYTHING, session=session, channel="user:mary-lou:r")
        assert stays.ping() == []
    finally:
        shell(site, f"User.objects.filter(username='mary-lou').update(username={mary!r})")


def test_a_name_that_changes_without_a_signal_is_found(served: Callable[..., Site], mary: str) -> None:
    site = served(settings={"UWS4R_SESSION_CHECK": 1})
    session = site.log_in(mary)
    client = site.connect(EVERYTHING, session=session)
    try:
        shell(site, f"User.objects.filter(username={mary!r}).update(username='mary-lou')")
        assert closed_with(client) == 4501
        site.join(EVERYTHING, session=session, channel="user:mary-lou:r")
    finally:
        shell(site, f"User.objects.filter(username='mary-lou').update(username={mary!r})")


def test_a_user_who_is_renamed_and_deactivated_at_once_is_closed(site: Site, mary: str) -> None:
    client = site.connect(EVERYTHING, session=site.log_in(mary))
    try:
        shell(
            site,
            f"user = User.objects.get(username={mary!r}); user.username = 'mary-lou'; user.is_active = False; "
            "user.save()",
        )
        assert closed_with(client) == 4401
    finally:
        shell(site, f"User.objects.filter(username='mary-lou').update(username={mary!r})")


@pytest.mark.parametrize("check", [0, 1], ids=["checks off", "checks on"])
def test_a_login_with_a_cookie_of_a_session_that_is_gone(served: Callable[..., Site], mary: str, check: int) -> None:
    """The page was opened with it, and is anonymous; nobody but the login says that it has another one now."""
    site = served(settings={"UWS4R_SESSION_CHECK": check})
    client = site.connect("/ws/r?subscribe-broadcast", session="k" * 32)
    other = site.connect("/ws/r?subscribe-broadcast", session="j" * 32)
    site.request("POST", "/login/", f"username={mary}", session="k" * 32)
    assert closed_with(client) == 4501
    assert other.ping() == []


def test_a_session_of_an_older_secret_key_stays_what_it_is(served: Callable[..., Site]) -> None:
    """Django renews its key when it is used; nobody would tell the browser what it is now."""
    old = served(settings={"SECRET_KEY": "old"})
    session = old.log_in("john")
    site = served(settings={"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["old"], "UWS4R_SESSION_CHECK": 1})
    client = site.join(EVERYTHING, session=session, channel="user:john:r")
    reads = "print(Session.objects.filter(pk={!r}).count())"
    for _ in range(2):  # a shell takes longer than a second: it has been looked at
        assert manage(site.env, "shell", "-c", MODELS + reads.format(session)).split()[-1] == "1"
    assert client.ping() == []


SESSION = "from django.contrib.sessions.backends.db import SessionStore; s = SessionStore({!r}); "


@pytest.mark.parametrize(
    "change",
    [
        "group.delete()",
        "group.delete(); Group.objects.create(name='team').user_set.add(User.objects.get(username='admin'))",
        "group.name = 'crew'; group.save(); Group.objects.create(name='team')",
        "group.user_set.clear()",
    ],
    ids=["deleted", "another of that name", "renamed", "left"],
)
@pytest.mark.parametrize("written", ["now", "before", "by a site"])
def test_an_old_session_is_in_no_group_that_its_user_is_not_in(
    site: Site, mary: str, change: str, written: str
) -> None:
    team = "group = Group.objects.get_or_create(name='team')[0]; "
    shell(site, f"{team} group.user_set.add(User.objects.get(username={mary!r}))")
    session = site.log_in(mary)
    own = set()
    if written == "before":  # by ws4redis, or by a version that did not note where a name came from
        shell(site, f"{SESSION.format(session)} del s['uws4r:groups']; s['ws4redis:memberof'] += ['own']; s.save()")
    elif written == "by a site":
        shell(site, f"{SESSION.format(session)} s['ws4redis:memberof'] += ['own']; s.save()")
        own = {"own"}
    publisher = site.redis.client.pubsub(ignore_subscribe_messages=True)
    publisher.psubscribe("group:*:h")

    def listens() -> set[str]:
        client = site.connect("/ws/g?subscribe-group&subscribe-broadcast", session=session)
        wait_until(lambda: site.redis.subscriptions("broadcast:g") == 1, "joined")
        found = {name.decode().split(":")[1] for name in site.redis.client.pubsub_channels("group:*:g")}
        client.sock.close()
        wait_until(lambda: site.redis.subscriptions("broadcast:g") == 0, "left")
        return found

    def publishes() -> set[str]:
        site.request("POST", "/publish/", "facility=h&audience=group&message=x", session=session)
        site.redis.client.publish("group:the-end:h", "x")
        found = set()
        while "the-end" not in found:
            if (message := publisher.get_message(timeout=10)) is not None:
                found.add(message["channel"].decode().split(":")[1])
        return found - {"the-end"}

    try:
        assert listens() == publishes() == {"team"} | own
        shell(site, f"group = Group.objects.get(name='team'); {change}")
        expected = own | ({"crew"} if "crew" in change else set())
        assert listens() == publishes() == expected
    finally:
        publisher.close()
        shell(site, "Group.objects.filter(name__in=['team', 'crew']).delete()")
