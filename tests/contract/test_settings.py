"""A: the settings under their old names."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import testsite.callbacks
from django.contrib.staticfiles import finders
from django.core.exceptions import PermissionDenied
from django.test import RequestFactory, override_settings
from django.test.utils import modify_settings

from tests.support.certificates import self_signed
from tests.support.servers import RedisServer, free_port
from tests.support.site import Site, manage
from tests.support.wire import Refused
from uws4r import settings as module_settings
from uws4r.access import grant_channels
from uws4r.conf import SETTINGS, conf
from uws4r.context_processors import default
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import redis_client
from uws4r.redis_store import RedisStore

e2e = pytest.mark.e2e


@e2e
def test_a1_websocket_url(site: Site, served: Callable[..., Site]) -> None:
    assert conf.WEBSOCKET_URL == "/ws/"
    site.connect("/ws/f").ping()
    other = served(settings={"WEBSOCKET_URL": "/socket/"})
    client = other.join("/socket/f?subscribe-broadcast", channel="broadcast:f")
    other.redis.client.publish("broadcast:f", "here")
    assert client.receive() == "here"
    assert other.request("GET", "/ws/f").status == 404


@pytest.mark.parametrize("without", [[], ["db", "password"]])
@e2e
def test_a2_connection(served: Callable[..., Site], redis_server: RedisServer, without: list[str]) -> None:
    connection = {"host": "127.0.0.1", "port": redis_server.port, "db": 0, "password": None}
    site = served(settings={"WS4REDIS_CONNECTION": {k: v for k, v in connection.items() if k not in without}})
    client = site.join("/ws/f?subscribe-broadcast")
    site.request("POST", "/publish/", "facility=f&audience=broadcast&message=hello")
    assert client.receive() == "hello"


@e2e
def test_a3_unix_socket_path(served: Callable[..., Site], tmp_path: Path) -> None:
    path = str(tmp_path / "redis.sock")
    server = RedisServer(tmp_path, options=("--unixsocket", path))
    try:
        site = served(redis=server, settings={"WS4REDIS_CONNECTION": {"unix_socket_path": path, "db": 0}})
        client = site.join("/ws/f?subscribe-broadcast")
        site.request("POST", "/publish/", "facility=f&audience=broadcast&message=hello")
        assert client.receive() == "hello"
        with override_settings(WS4REDIS_CONNECTION={"unix_socket_path": path}):
            assert RedisPublisher().fetch_message(None, "f") == b"hello"
            redis_client().connection_pool.disconnect()
    finally:
        site.uwsgi.stop()
        server.close()


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[tuple[RedisServer, int, Path]]:
    """A Redis that also listens on a port with TLS, and the certificate that it shows."""
    certificate, key = self_signed(tmp_path)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
               "--tls-auth-clients", "no")  # fmt: skip
    server = RedisServer(tmp_path, options=options)
    yield server, port, certificate
    server.close()


@e2e
def test_a4_ssl(served: Callable[..., Site], tls_redis: tuple[RedisServer, int, Path]) -> None:
    server, port, certificate = tls_redis
    connection = {"host": "localhost", "port": port, "ssl": True, "ssl_ca_certs": str(certificate)}
    site = served(redis=server, settings={"WS4REDIS_CONNECTION": connection})
    client = site.join("/ws/f?subscribe-broadcast&publish-broadcast&echo")
    site.request("POST", "/publish/", "facility=f&audience=broadcast&message=hello")
    assert client.receive() == "hello"
    for size in (1, 70_000, 1 << 20):
        client.send("x" * size)
        assert client.receive() == "x" * size
    site.uwsgi.stop()


@e2e
def test_a5_prefix(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_PREFIX": "pre"})
    client = site.join("/ws/f?subscribe-broadcast", channel="pre:broadcast:f")
    site.request("POST", "/publish/", "facility=f&audience=broadcast&message=hello")
    assert client.receive() == "hello"
    assert site.redis.client.get("pre:broadcast:f") == b"hello"


@pytest.mark.parametrize(("expire", "ttl"), [(3600, 3600), (7, 7), (0, None), (-1, None), (None, None)])
def test_a6_expire(store: redis.Redis, expire: int | None, ttl: int | None) -> None:
    """BUG-B10: ws4redis' own documentation recommends None, which raised."""
    assert conf.WS4REDIS_EXPIRE == 3600
    with override_settings(WS4REDIS_EXPIRE=expire):
        RedisPublisher(facility="f", broadcast=True).publish_message("m")
    assert (store.ttl("broadcast:f") == ttl) if ttl else not store.exists("broadcast:f")


@e2e
def test_a7_subscriber(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Tags"})
    client = site.join("/ws/f?subscribe-tags=python,redis", channel="tag:redis:f")
    site.redis.client.publish("tag:python:f", "a snake")
    assert client.receive() == "a snake"


def test_a8_heartbeat_is_off_unless_set() -> None:
    assert conf.WS4REDIS_HEARTBEAT is None


def only_broadcast(request: object, channels: list[str]) -> list[str]:
    return ["subscribe-broadcast"]


@pytest.mark.parametrize("setting", [only_broadcast, "testsite.callbacks.only_broadcast"])
def test_a9_allowed_channels_is_a_callable_or_its_path(setting: object) -> None:
    request = RequestFactory().get("/ws/f")
    asked = ["subscribe-user", "subscribe-broadcast"]
    assert grant_channels(request, asked) == asked
    with override_settings(WS4REDIS_ALLOWED_CHANNELS=setting):
        assert grant_channels(request, asked) == ["subscribe-broadcast"]
    with override_settings(WS4REDIS_ALLOWED_CHANNELS=testsite.callbacks.deny), pytest.raises(PermissionDenied):
        grant_channels(request, asked)


@e2e
def test_a10_process_request_replaces_sessions_and_users(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_PROCESS_REQUEST": "testsite.callbacks.by_token"})
    client = site.join("/ws/f?subscribe-user&token=mary", channel="user:mary:f")
    site.redis.client.publish("user:mary:f", "to mary")
    assert client.receive() == "to mary"
    assert site.connect("/ws/f?subscribe-user", session=site.log_in("mary")).ping() == []
    with pytest.raises(Refused, match="403"):
        site.connect("/ws/f?token=wrong")


def test_a12_the_app_has_no_models_and_no_migrations(database: Path) -> None:
    from django.apps import apps

    app = apps.get_app_config("uws4r")
    assert list(app.get_models()) == []
    assert app.models_module is None
    assert manage({"DJANGO_SETTINGS_MODULE": "testsite.settings", "PYTHONPATH": "tests/site:.",
                   "TEST_DATABASE": str(database)}, "makemigrations", "--dry-run").startswith("No changes")  # fmt: skip


@modify_settings(INSTALLED_APPS={"append": "django.contrib.staticfiles"})
@override_settings(STATIC_URL="/static/")
def test_a12_the_browser_client_is_among_the_static_files() -> None:
    finders.get_finder.cache_clear()
    for name in ("js/ws4redis.js", "uws4r/uws4r.js", "uws4r/uws4r.mjs"):
        assert finders.find(name), name


@pytest.mark.parametrize(
    ("heartbeat", "literal"),
    [
        (None, "null"),
        ("--heartbeat--", '"--heartbeat--"'),
        ('</script>"\u2028', '"\\u003c/script\\u003e\\"\\u2028"'),
    ],
)
@pytest.mark.parametrize(("secure", "scheme"), [(False, "ws"), (True, "wss")])
def test_a13_context_processor(heartbeat: str | None, literal: str, secure: bool, scheme: str) -> None:
    request = RequestFactory().get("/", secure=secure, HTTP_HOST="localhost:8000")
    with override_settings(WS4REDIS_HEARTBEAT=heartbeat):
        context = default(request)
    assert context == {"WEBSOCKET_URI": f"{scheme}://localhost:8000/ws/", "WS4REDIS_HEARTBEAT": literal}
    assert hasattr(context["WS4REDIS_HEARTBEAT"], "__html__")  # templates write it as it is
    if heartbeat:
        assert json.loads(literal) == heartbeat


@e2e
def test_a14_session_cookie_name_and_engine(served: Callable[..., Site]) -> None:
    site = served(
        settings={
            "SESSION_COOKIE_NAME": "biscuit",
            "SESSION_ENGINE": "django.contrib.sessions.backends.file",
        }
    )
    response = site.request("POST", "/login/", "username=john")
    key = response.headers["set-cookie"].split("biscuit=")[1].split(";")[0]
    site.redis.client.set("user:john:f", "joined")
    client = site.connect("/ws/f?subscribe-user", {"Cookie": f"biscuit={key}"})
    assert client.receive() == "joined"


# ---------------------------------------------------------------- ws4redis.settings


def test_a_settings_are_attributes_of_a_module() -> None:
    assert (module_settings.WEBSOCKET_URL, module_settings.WS4REDIS_EXPIRE) == ("/ws/", 3600)
    with override_settings(WS4REDIS_EXPIRE=5):
        assert module_settings.WS4REDIS_EXPIRE == 5
    assert dir(module_settings) == sorted(SETTINGS)
    with pytest.raises(AttributeError, match="uws4r has no setting 'WS4REDIS_EXPIRY'; it has WEBSOCKET_URL, "):
        module_settings.WS4REDIS_EXPIRY  # noqa: B018


def test_a_assigning_to_the_module_is_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests of sites do it."""
    module_settings.WS4REDIS_PREFIX = "assigned"
    try:
        assert RedisStore.get_prefix() == "assigned:"
    finally:
        del module_settings.WS4REDIS_PREFIX
    assert RedisStore.get_prefix() == ""
    with monkeypatch.context() as patched:
        patched.setattr(module_settings, "WS4REDIS_ALLOWED_CHANNELS", only_broadcast)
        assert grant_channels(RequestFactory().get("/"), ["publish-user"]) == []
    with override_settings(WS4REDIS_ALLOWED_CHANNELS=only_broadcast):  # what was put back is not in the way
        assert grant_channels(RequestFactory().get("/"), ["publish-user"]) == []


def test_a_every_old_name_has_a_new_one_that_wins() -> None:
    for name in SETTINGS:
        if name.startswith("WS4REDIS_"):
            with override_settings(**{name: "old", f"UWS4R_{name.removeprefix('WS4REDIS_')}": "new"}):
                assert getattr(conf, name) == "new"
            with override_settings(**{name: "old"}):
                assert getattr(conf, name) == "old"
