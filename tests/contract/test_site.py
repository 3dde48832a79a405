"""I and L: session, groups, templates; what a site imports and how it is run."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.signals import user_logged_in
from django.template import Context, Engine
from django.test import RequestFactory, override_settings
from django.test.utils import override_script_prefix

from tests.support.servers import ROOT, wait_until
from tests.support.site import Site, manage, site_env
from uws4r import signals
from uws4r.context_processors import default, websocket_uri


class Groups(list):
    def all(self) -> "Groups":
        return self


class Group:
    def __init__(self, name: str) -> None:
        self.name = name


class User:
    last_login = None

    def save(self, **options: object) -> None:
        """Django notes the time of the login."""

    def __init__(self, *groups: str) -> None:
        self.groups = Groups(map(Group, groups))


class Request:
    def __init__(self) -> None:
        self.session: dict[str, object] = {}


def test_i1_groups_are_stored_at_login() -> None:
    request = Request()
    user_logged_in.send(User, request=request, user=User("staff", "chatters"))
    assert request.session == {"ws4redis:memberof": ["staff", "chatters"], "uws4r:groups": ["staff", "chatters"]}


@pytest.mark.parametrize(
    ("request_", "user"),
    [(None, User("staff")), (object(), User("staff")), (Request(), object()), (Request(), User())],
    ids=["no request", "no session", "a user without groups", "a user in no group"],
)
def test_i1_logins_of_other_kinds_do_no_harm(request_: object, user: object) -> None:
    """BUG-B6."""
    signals.store_groups(User, request=request_, user=user)
    assert not getattr(request_, "session", {}).get("ws4redis:memberof")


@pytest.mark.e2e
def test_bug_b6_groups_are_those_of_now(site: Site) -> None:
    session = site.log_in("john")  # in the group "chatters"
    listing = "from django.contrib.sessions.backends.db import SessionStore; s = SessionStore('{}'); "
    manage(
        site.env, "shell", "-c", listing.format(session) + "s['ws4redis:memberof'] += ['a team of the site']; s.save()"
    )
    change = "from django.contrib.auth.models import Group, User; john = User.objects.get(username='john'); "
    channels = "/ws/b6?subscribe-group"

    def assert_groups(*names: str) -> None:
        def found() -> set[str]:
            return {name.decode().split(":")[1] for name in site.redis.client.pubsub_channels("group:*:b6")}

        client = site.connect(channels, session=session)
        wait_until(lambda: found() == set(names), f"{names}, not {found()}")
        client.sock.close()
        wait_until(lambda: found() == set(), "left")

    assert_groups("chatters", "a team of the site")
    manage(site.env, "shell", "-c", change + "john.groups.set([Group.objects.get_or_create(name='writers')[0]])")
    try:
        assert_groups("writers", "a team of the site")
    finally:
        manage(
            site.env, "shell", "-c",
            change + "john.groups.set([Group.objects.get(name='chatters')])",
        )  # fmt: skip


def test_i2_templates() -> None:
    request = RequestFactory().get("/", HTTP_HOST="localhost")
    template = Engine().from_string("{uri: '{{ WEBSOCKET_URI }}foobar?echo', heartbeat_msg: {{ WS4REDIS_HEARTBEAT }}}")
    with override_settings(WS4REDIS_HEARTBEAT="--heartbeat--"):
        page = template.render(Context(default(request)))
    assert page == "{uri: 'ws://localhost/ws/foobar?echo', heartbeat_msg: \"--heartbeat--\"}"
    assert "heartbeat_msg: null" in template.render(Context(default(request)))


def test_i2_template_tags() -> None:
    engine = Engine(libraries={"uws4r": "uws4r.templatetags.uws4r"})
    template = engine.from_string(
        '{% load uws4r %}{% websocket_uri name "subscribe-broadcast" "echo" %} {% websocket_heartbeat %}'
    )
    request = RequestFactory().get("/", secure=True, HTTP_HOST="localhost")
    page = template.render(Context({"name": "caf\u00e9 <&>", "request": request}))
    assert page == "wss://localhost/ws/caf%C3%A9%20%3C%26%3E?subscribe-broadcast&echo null"
    with override_settings(WS4REDIS_HEARTBEAT="</script>"):
        page = template.render(Context({"name": "a/b"}))
    assert page == '/ws/a/b?subscribe-broadcast&echo "\\u003c/script\\u003e"'


@pytest.mark.parametrize(
    ("mounted", "url", "path"),
    [
        ("", "/ws/", "/ws/"),
        ("/app", "/ws/", "/app/ws/"),
        ("/app/", "/ws/", "/app/ws/"),
        ("/app", "/app/ws/", "/app/ws/"),
        ("/app", "/apps/", "/app/apps/"),
    ],
)
def test_websockets_are_below_the_path_that_the_site_is_mounted_at(mounted: str, url: str, path: str) -> None:
    engine = Engine(libraries={"uws4r": "uws4r.templatetags.uws4r"})
    template = engine.from_string('{% load uws4r %}{% websocket_uri "news" %}')
    request = RequestFactory(SCRIPT_NAME=mounted).get("/", HTTP_HOST="localhost")
    with override_settings(WEBSOCKET_URL=url):
        assert websocket_uri(request) == f"ws://localhost{path}"
        assert template.render(Context({"request": request})) == f"ws://localhost{path}news"
        with override_script_prefix(mounted or "/"):
            assert template.render(Context()) == f"{path}news"


@pytest.mark.e2e
@pytest.mark.parametrize("engine", ["db", "cached_db", "file", "signed_cookies"])
def test_i3_any_session_store_serves(served: Callable[..., Site], engine: str) -> None:
    """Better: ws4redis wanted one that is not a database."""
    site = served(settings={"SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}"})
    client = site.join("/ws/f?subscribe-user", session=site.log_in("john"), channel="user:john:f")
    site.redis.client.publish("user:john:f", "m")
    assert client.receive() == "m"


def test_l2_management_commands_and_checks(database: Path) -> None:
    env = site_env("redis://localhost:6379/0", database)
    assert manage(env, "check") == "System check identified no issues (0 silenced).\n"
    assert "[uws4r]" in manage(env, "help")


@pytest.mark.e2e
def test_l3_loggers_are_named_after_modules_and_a_normal_end_is_no_error(site: Site) -> None:
    client = site.connect("/ws/quiet?subscribe-broadcast")
    client.ping()
    client.sock.close()
    site.connect("/ws/quiet?subscribe-broadcast").ping()
    lines = [line for line in site.uwsgi.log.splitlines() if "/ws/quiet" in line and "uws4r" in line]
    assert lines
    assert all(line.startswith("INFO uws4r.hub ") for line in lines)


def test_l4_files_for_the_documented_deployments() -> None:
    for path in ("emperor/uwsgi.ini", "vassals/wsserver.ini", "vassals/runserver.ini", "nginx/uws4r.conf"):
        assert (ROOT / path).is_file(), path
    assert "route = ^/ws" in (ROOT / "emperor/uwsgi.ini").read_text()


IMPORTS = """
uws4r.uwsgi_runserver uWSGIWebsocketServer uWSGIWebSocketServer
uws4r.django_runserver application WebsocketRunServer
uws4r.publisher RedisPublisher
uws4r.redis_store RedisMessage SELF RedisStore
uws4r.subscriber RedisSubscriber
uws4r.context_processors default
uws4r.exceptions WebSocketError FrameTooLargeException HandshakeError UpgradeRequiredError
uws4r.settings WEBSOCKET_URL WS4REDIS_CONNECTION WS4REDIS_PREFIX WS4REDIS_EXPIRE WS4REDIS_SUBSCRIBER
uws4r.settings WS4REDIS_HEARTBEAT WS4REDIS_ALLOWED_CHANNELS WS4REDIS_PROCESS_REQUEST
uws4r.wsgi_server WebsocketWSGIServer
"""


@pytest.mark.parametrize("line", IMPORTS.strip().splitlines())
def test_l5_entry_points(line: str) -> None:
    module, *names = line.split()
    for name in names:
        assert hasattr(importlib.import_module(module), name), name


def test_l6_extras() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = re.search(r"^dependencies = \[(.*?)\]$", project, re.S | re.M)
    assert dependencies is not None
    assert set(re.findall(r'"([a-z]+)', dependencies[1])) == {"django", "redis", "hiredis"}
    assert re.search(r"^uwsgi = ", project, re.M)
