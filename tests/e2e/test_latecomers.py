"""What ends a login, or takes a right away, while a handshake is under way, holds for the websocket that it becomes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_logout import closed_with, shell
from tests.support.modes import MODES, serve_in, stop
from tests.support.servers import RedisServer, wait_until
from tests.support.site import Site, manage
from tests.support.wire import Client

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WAITING = {"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Waiting"}
BLOCKED = ("gevent", "native")  # the hub stands still while code of the site does
LOG_IN = """
from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
request = HttpRequest()
request.session = SessionStore({session!r})
"""
NEW = "login(request, User.objects.get(username={name!r}), 'django.contrib.auth.backends.ModelBackend')\n"
EVERYTHING = "/ws/slow?subscribe-user&subscribe-group&publish-group&subscribe-broadcast"
BROADCAST = "/ws/slow?subscribe-broadcast"


def log_in(site: Site, name: str = "mary") -> str:
    code = LOG_IN.format(session=None) + NEW.format(name=name)
    shown = manage(site.env, "shell", "-c", code + "request.session.save(); print(request.session.session_key)")
    return shown.split()[-1]


def log_out(site: Site, session: str) -> None:
    manage(site.env, "shell", "-c", LOG_IN.format(session=session) + "logout(request)")


class Handshake:
    """One that is under way, its user, session and groups looked at, until :meth:`go_on`."""

    def __init__(self, site: Site, path: str, session: str | None) -> None:
        self.site = site
        self.client = Client(site.address)
        site.opened.append(self.client)
        cookie = None if session is None else f"sessionid={session}"
        self.client.request(path, {"Cookie": cookie}, read=False)
        assert site.redis.client.blpop("waiting", timeout=20) is not None

    def go_on(self) -> Client:
        self.site.redis.client.rpush("go", "on")
        response = self.client.response = self.client.read_response()
        assert response.status == 101, response
        return self.client


Serving = Callable[..., Site]


@pytest.fixture
def serving(tmp_path: Path, own_redis: RedisServer, database: Path) -> Iterator[Serving]:
    sites: list[Site] = []

    def start(mode: str = "prefork", **settings: Any) -> Site:
        sites.append(serve_in(mode, tmp_path, own_redis, database, workers=1, settings={**WAITING, **settings}))
        return sites[-1]

    yield start
    for site in sites:
        stop(site)
    assert not [site for site in sites if "Traceback" in site.uwsgi.log]


@pytest.mark.parametrize("check", [0, 60], ids=["checks off", "checks on"])
@pytest.mark.parametrize("mode", [*MODES, "runserver"])
def test_a_logout_during_a_handshake(serving: Serving, mode: str, check: float) -> None:
    site = serving(mode, UWS4R_SESSION_CHECK=check)
    session, other = log_in(site), log_in(site)
    witness = site.connect("/ws/f?subscribe-user", session=session)
    witness.ping()
    for path in (EVERYTHING, BROADCAST):
        late = Handshake(site, path, session)
        log_out(site, session)
        if mode not in BLOCKED:  # the order has come and gone
            assert closed_with(witness) == 4401
        assert closed_with(late.go_on()) == 4401
        session = log_in(site)
        witness = site.connect("/ws/f?subscribe-user", session=session)
        witness.ping()
    stays = Handshake(site, EVERYTHING, other)
    log_out(site, session)
    if mode not in BLOCKED:
        assert closed_with(witness) == 4401
    assert stays.go_on().ping() == []
    if mode in BLOCKED:
        assert closed_with(witness) == 4401
    again = site.connect("/ws/f?subscribe-user", session=other)  # the same user
    assert again.ping() == []


@pytest.mark.parametrize("check", [0, 60], ids=["checks off", "checks on"])
@pytest.mark.parametrize(
    ("order", "code"),
    [
        ("uws4r kick --user mary", 4403),
        ("uws4r kick --facility slow --facility f", 4403),
        ("uws4r kick --everybody --code 1012", 1012),
        ("user.set_password('new'); user.save()", 4401),
        ("user.is_active = False; user.save()", 4401),
    ],
)
def test_an_order_during_a_handshake(serving: Serving, check: float, order: str, code: int) -> None:
    site = serving(UWS4R_SESSION_CHECK=check)
    session = log_in(site)
    witness = site.connect("/ws/f?subscribe-user", session=session)
    witness.ping()
    late = Handshake(site, EVERYTHING, session)
    try:
        if order.startswith("uws4r"):
            manage(site.env, *order.split())
        else:
            shell(site, f"user = User.objects.get(username='mary'); {order}")
        assert closed_with(witness) == code
        assert closed_with(late.go_on()) == code
    finally:
        shell(site, "user = User.objects.get(username='mary'); user.is_active = True; user.set_password('mary'); "
              "user.save()")  # fmt: skip
    # What comes later is nobody's business.
    session = log_in(site)
    assert site.connect("/ws/f?subscribe-user", session=session).ping() == []


@pytest.mark.parametrize("change", ["mary.groups.remove(group)", "group.delete()"])
def test_who_leaves_a_group_during_a_handshake(serving: Serving, change: str) -> None:
    site = serving()
    shell(site, "Group.objects.create(name='team').user_set.add(User.objects.get(username='mary'))")
    try:
        session = log_in(site)
        witness = site.connect("/ws/f?subscribe-group&subscribe-broadcast", session=session)
        wait_until(lambda: site.redis.subscriptions("group:team:f") == 1, "joined")
        late = Handshake(site, EVERYTHING, session)
        shell(site, f"mary = User.objects.get(username='mary'); group = Group.objects.get(name='team'); {change}")
        wait_until(lambda: site.redis.subscriptions("group:team:f") == 0, "the order is carried out")
        assert witness.ping() == []
        client = late.go_on()
        wait_until(lambda: site.redis.subscriptions("group:chatters:slow") == 1, "joined")
        listener = site.redis.client.pubsub(ignore_subscribe_messages=True)
        listener.subscribe("group:team:slow", "group:chatters:slow")
        wait_until(lambda: site.redis.subscriptions("group:chatters:slow") == 2, "listening")
        site.redis.client.publish("group:team:slow", "for the team")
        site.redis.client.publish("broadcast:slow", "for all")
        assert client.receive() == "for all"
        client.send("to my groups")
        heard = []
        while (b"group:chatters:slow", b"to my groups") not in heard:
            if (message := listener.get_message(timeout=10)) is not None:
                heard.append((message["channel"], message["data"]))
        assert (b"group:team:slow", b"to my groups") not in heard
        listener.close()
    finally:
        shell(site, "Group.objects.filter(name='team').delete()")


def test_an_order_may_have_passed_before_there_was_a_hub(serving: Serving) -> None:
    site = serving(UWS4R_SESSION_CHECK=0)
    session = log_in(site)
    late = Handshake(site, EVERYTHING, session)
    shell(site, f"Session.objects.filter(pk={session!r}).delete()")  # and no order comes
    assert closed_with(late.go_on()) == 4501


def test_an_order_may_have_passed_while_there_was_no_link(serving: Serving) -> None:
    site = serving(UWS4R_SESSION_CHECK=0)
    session, other = log_in(site), log_in(site)
    site.connect("/ws/f").ping()
    late = Handshake(site, EVERYTHING, session)
    shell(site, f"Session.objects.filter(pk={session!r}).delete()")
    (link,) = site.redis.links()
    site.redis.client.client_kill_filter(_id=link["id"])
    wait_until(lambda: [each["id"] for each in site.redis.links()] not in ([], [link["id"]]), "linked again")
    assert closed_with(late.go_on()) == 4501
    late = Handshake(site, EVERYTHING, other)
    assert late.go_on().ping() == []
