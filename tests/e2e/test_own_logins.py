"""Logins that the site makes itself: Django's rules say nothing about them, the site may."""

import time
from collections.abc import Callable

import pytest

from tests.e2e.test_logout import closed_with, shell
from tests.support.servers import wait_until
from tests.support.site import Site

pytestmark = pytest.mark.e2e

ALL = "/ws/f?subscribe-broadcast&subscribe-user&subscribe-session"
PATH = ALL + "&token=mary&id=jti-1"
TOKEN = {"WS4REDIS_PROCESS_REQUEST": "testsite.callbacks.by_token_beside_a_cookie", "UWS4R_SESSION_CHECK": 1}
CHECKED = {**TOKEN, "UWS4R_LOGIN_CHECKER": "testsite.callbacks.still_holds"}


def looked_at(site: Site) -> None:
    """Every login has been looked at, twice where it did not hold, as one of Django's has that came later."""
    for _ in range(2):
        session = site.log_in("john")
        client = site.connect(ALL, session=session)
        shell(site, f"Session.objects.filter(pk={session!r}).delete()")
        assert closed_with(client) == 4501


@pytest.mark.parametrize("cookie", ["", "sessionid=" + "k" * 32, "sessionid={john}"], ids=["none", "stale", "johns"])
def test_a_login_by_token_is_nobodys_session(served: Callable[..., Site], cookie: str) -> None:
    site = served(settings=TOKEN)
    john = site.log_in("john")
    client = site.connect(PATH, {"Cookie": cookie.format(john=john)})
    wait_until(lambda: site.redis.subscriptions("user:mary:f") == 1, "mary's")
    shell(site, "user = User.objects.get(username='mary'); user.save()")  # an order to look
    site.request("GET", "/logout/", session=john)
    looked_at(site)
    assert client.ping() == []
    assert "cannot be read" not in site.uwsgi.log


@pytest.mark.parametrize("settings", [TOKEN, CHECKED], ids=["unchecked", "checked"])
def test_the_site_may_end_it_by_its_key(served: Callable[..., Site], settings: dict[str, object]) -> None:
    site = served(settings=settings)
    client, other = site.connect(PATH), site.connect(ALL + "&token=mary&id=jti-2")
    site.redis.client.publish("uws4r:control", '{"do": "close", "sessions": ["jti-1"], "code": 4401}')
    assert closed_with(client) == 4401
    assert other.ping() == []


def test_the_site_may_be_asked(served: Callable[..., Site]) -> None:
    site = served(settings=CHECKED)
    client, other, anonymous = (
        site.connect(f"{ALL}&{who}") for who in ("token=mary&id=1", "token=mary&id=2", "token=&id=1")
    )
    site.redis.client.set("login of mary: 1", "0")
    assert closed_with(client) == 4401
    site.redis.client.set("login of None: 1", str(time.time() + 3))  # its end
    begin = time.monotonic()
    assert closed_with(anonymous) == 4401
    assert 1 < time.monotonic() - begin < 15
    assert other.ping() == []


def test_an_order_has_the_site_asked(served: Callable[..., Site]) -> None:
    site = served(settings={**CHECKED, "UWS4R_SESSION_CHECK": 0})
    client, other = site.connect(PATH), site.connect(ALL + "&token=john&id=jti-1")
    site.redis.client.set("login of mary: jti-1", "0")
    shell(site, "user = User.objects.get(username='mary'); user.save()")
    assert closed_with(client) == 4401
    assert other.ping() == []


def test_a_site_that_cannot_tell_closes_nobody(served: Callable[..., Site]) -> None:
    site = served(settings=CHECKED)
    client = site.connect(PATH)
    site.redis.client.set("login of mary: jti-1", "nonsense")
    wait_until(lambda: "sessions cannot be read" in site.uwsgi.log, "a warning")
    assert client.ping() == []


def test_a_session_of_a_tenants_own_table_is_not_looked_for_in_djangos(served: Callable[..., Site]) -> None:
    settings = {"WS4REDIS_PROCESS_REQUEST": "testsite.callbacks.of_the_tenant", "UWS4R_SESSION_CHECK": 1}
    site = served(settings=settings)
    client = site.connect(ALL, {"Cookie": f"tenant={'t' * 32}"})
    wait_until(lambda: site.redis.subscriptions(f"session:{'t' * 32}:f") == 1, "its session's")
    site.redis.client.publish("uws4r:control", f'{{"do": "check", "sessions": ["{"t" * 32}"]}}')
    looked_at(site)
    assert client.ping() == []


def test_what_ws4redis_did_can_be_checked_by_djangos_rules(served: Callable[..., Site]) -> None:
    own = {"WS4REDIS_PROCESS_REQUEST": "testsite.callbacks.as_ws4redis_did", "UWS4R_SESSION_CHECK": 1}
    site = served(settings={**own, "UWS4R_LOGIN_CHECKER": "uws4r.logins.django_login"})
    session = site.log_in("john")
    client = site.connect(ALL, session=session)
    looked_at(site)
    assert client.ping() == []
    shell(site, f"Session.objects.filter(pk={session!r}).delete()")
    assert closed_with(client) == 4501
    session = site.log_in("john")
    client = site.connect(ALL, session=session)
    site.request("GET", "/logout/", session=session)
    assert closed_with(client) == 4401
    made_up = site.connect("/ws/g?subscribe-session", session="made-up-key")
    assert made_up.ping() == []
    assert not [name for name in site.redis.channels() if name.endswith(b":g")]


def test_a_server_of_the_sites_own_has_both(served: Callable[..., Site]) -> None:
    """Its process_request() sets the user by a token, where there is one, and calls Django's for all others."""
    site = served(settings={"UWS4R_SESSION_CHECK": 1}, module="testsite.old_wsgi:application")
    mary = site.log_in("mary")
    by_token = site.connect(f"{ALL}&token=johns", session=mary)  # mary's cookie, john's token
    hers = site.connect(ALL, session=mary)
    wait_until(lambda: site.redis.subscriptions("user:mary:f") == site.redis.subscriptions("user:john:f") == 1, "both")
    shell(site, f"Session.objects.filter(pk={mary!r}).delete()")
    assert closed_with(hers) == 4501
    john = site.log_in("john")
    his = site.connect(f"{ALL}&token=johns", session=john)  # the same user: it is his session's
    shell(site, f"Session.objects.filter(pk={john!r}).delete()")
    assert closed_with(his) == 4501
    assert by_token.ping() == []
