"""The system checks: every wrong setting is found, by a stable id, with what to write instead."""

import socket
import time

import pytest
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from tests.support.servers import RedisServer
from uws4r import checks
from uws4r.checks import RULES, require_right_settings
from uws4r.conf import SETTINGS
from uws4r.errors import ConfigurationError


def messages(deploy: bool = False, **settings: object) -> list[CheckMessage]:
    with override_settings(**settings):
        found = run_checks(include_deployment_checks=deploy)
    return [message for message in found if (message.id or "").startswith("uws4r.")]


def test_each_setting_has_a_rule_with_an_id_of_its_own() -> None:
    assert {rule.name for rule in RULES} == set(SETTINGS)
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_the_defaults_are_right() -> None:
    assert messages() == []
    require_right_settings()


WRONG = [
    ("E001", "WEBSOCKET_URL", "ws/", "is not a path with a slash at both ends"),
    ("E001", "WEBSOCKET_URL", None, "is not a path"),
    ("E002", "WS4REDIS_CONNECTION", "localhost:6379", "is no connection: "),
    ("E002", "WS4REDIS_CONNECTION", {"hots": "localhost"}, "unexpected keyword argument 'hots'"),
    ("E002", "WS4REDIS_CONNECTION", ("localhost", 6379), "is no connection: "),
    ("E002", "WS4REDIS_CONNECTION", "redis://localhost/0?colour=red", "unexpected keyword argument 'colour'"),
    ("E002", "WS4REDIS_CONNECTION", {"url": "localhost"}, "is no connection: "),
    ("E029", "WS4REDIS_CONNECTION", {"sentinels": [], "service_name": "m"}, "must be a list of pairs"),
    ("E029", "WS4REDIS_CONNECTION", {"sentinels": "h:26379", "service_name": "m"}, "must be a list of pairs"),
    ("E029", "WS4REDIS_CONNECTION", {"sentinels": ["h:26379"], "service_name": "m"}, "'h:26379', which is no pair"),
    ("E029", "WS4REDIS_CONNECTION", {"sentinels": [("h", "26379")], "service_name": "m"}, "which is no pair"),
    ("E029", "WS4REDIS_CONNECTION", {"sentinels": [("h", 26379)]}, "must be the sentinels' name of the master"),
    ("E029", "WS4REDIS_CONNECTION", {"service_name": "m"}, "must be a list of pairs"),
    ("E029", "WS4REDIS_CONNECTION", {"sentinels": [("h", 1)], "service_name": "m", "pasword": 1}, "'pasword'"),
    ("E030", "WS4REDIS_CONNECTION", {"cache": "redis"}, "names the cache 'redis', which CACHES does not have"),
    ("E030", "WS4REDIS_CONNECTION", {"cache": "default"}, "CACHES['default'] is no Redis"),
    ("E031", "WS4REDIS_CONNECTION", "rediss://h?ssl_ca_certs=/no/ca.pem", "cannot be read: 'ssl_ca_certs'"),
    ("E031", "WS4REDIS_CONNECTION", {"ssl": True, "ssl_keyfile": "/no/key"}, "cannot be read: 'ssl_keyfile'"),
    ("E041", "WS4REDIS_CONNECTION", "redis://:pass#word@localhost:6379/0", "percent-encode user and password"),
    ("E041", "WS4REDIS_CONNECTION", "redis://localhost:port/0", "no number where the port should be"),
    ("E041", "WS4REDIS_CONNECTION", "redis://localhost:6379/mydb", "the path of the URL is no number of a database"),
    ("E041", "WS4REDIS_CONNECTION", {"url": "unix://:12/34@/run/redis.sock"}, "contains #, / or ?"),
    ("E042", "WS4REDIS_CONNECTION", {"port": "abc"}, "'port' must be a whole number from 1"),
    ("E042", "WS4REDIS_CONNECTION", {"port": 0}, "must be a whole number from 1 to 65535, and is 0"),
    ("E042", "WS4REDIS_CONNECTION", {"db": "one"}, "'db' must be a whole number, and is a str"),
    ("E042", "WS4REDIS_CONNECTION", {"socket_timeout": "five"}, "must be seconds such as 5, more than 0"),
    ("E042", "WS4REDIS_CONNECTION", {"socket_timeout": float("nan")}, "must be seconds such as 5, more than 0"),
    ("E042", "WS4REDIS_CONNECTION", {"ssl": "maybe"}, "'ssl' must be True or False"),
    ("E042", "WS4REDIS_CONNECTION", {"host": "redis://:pw@h"}, "a name or an address; a URL goes to"),
    ("E042", "WS4REDIS_CONNECTION", {"host": "localhost:6379"}, "without the port, which has a key of its own"),
    ("E042", "WS4REDIS_CONNECTION", {"password": ["x"]}, "'password' must be a text"),
    (
        "E042",
        "WS4REDIS_CONNECTION",
        {"sentinels": [("h", 1)], "service_name": "m", "sentinel_kwargs": {"socket_timeout": "soon"}},
        "'socket_timeout' must be seconds",
    ),
    ("E003", "WS4REDIS_PREFIX", 5, " = 5 is no text"),
    ("E004", "WS4REDIS_EXPIRE", "3600", " = '3600' is no whole number"),
    ("E004", "WS4REDIS_EXPIRE", True, " = True is no whole number"),
    ("E005", "WS4REDIS_SUBSCRIBER", "testsite.subscribers.Nobody", "cannot be imported"),
    ("E005", "WS4REDIS_SUBSCRIBER", "testsite.callbacks.deny", "is no subclass of uws4r.subscriber.RedisSubscriber"),
    ("E005", "WS4REDIS_SUBSCRIBER", None, "is no subclass"),
    ("E006", "WS4REDIS_HEARTBEAT", b"--heartbeat--", "is no text"),
    ("E007", "WS4REDIS_ALLOWED_CHANNELS", "testsite.callbacks.only_brodcast", "cannot be imported"),
    ("E007", "WS4REDIS_ALLOWED_CHANNELS", "testsite.urls.urlpatterns", "is not callable"),
    ("E007", "WS4REDIS_ALLOWED_CHANNELS", "testsite.callbacks.by_token", "cannot be called with request and channels"),
    ("E007", "WS4REDIS_ALLOWED_CHANNELS", ["subscribe-broadcast"], "is not callable"),
    ("E008", "WS4REDIS_PROCESS_REQUEST", "no.such.module", "cannot be imported"),
    ("E008", "WS4REDIS_PROCESS_REQUEST", "testsite.callbacks.forget", "cannot be called with request"),
    ("E009", "UWS4R_ALLOWED_ORIGINS", "https://example.com", "is no list"),
    ("E009", "UWS4R_ALLOWED_ORIGINS", ["example.com"], "contains 'example.com', which is no origin"),
    ("E009", "UWS4R_ALLOWED_ORIGINS", ["https://example.com/"], "which is no origin"),
    ("E009", "UWS4R_ALLOWED_ORIGINS", ["file:///"], "which is no origin"),
    ("E010", "UWS4R_PROXIES", ["nginx"], "contains 'nginx'"),
    ("E010", "UWS4R_PROXIES", "unix", "is no list"),
    ("E011", "UWS4R_PING_INTERVAL", "25", "is no number of at least 0"),
    ("E012", "UWS4R_PING_TIMEOUT", 0, "is no number of at least 0.1"),
    ("E013", "UWS4R_MAX_MESSAGE_SIZE", 1.5, "is no whole number of at least 1"),
    ("E014", "UWS4R_MAX_QUEUE", 0, "is no whole number of at least 1"),
    ("E015", "UWS4R_PUBLISH_BUFFER", -1, "is no whole number of at least 0"),
    ("E016", "UWS4R_MAX_CONNECTIONS", None, "is no whole number of at least 0"),
    ("E017", "UWS4R_THREADS", 0, "is no whole number of at least 1"),
    ("E018", "UWS4R_COMPRESSION", -1, "is no whole number of at least 0"),
    ("E018", "UWS4R_COMPRESSION", "512", "is no whole number of at least 0"),
    ("E019", "UWS4R_SUBPROTOCOLS", "chat", "is no list"),
    ("E019", "UWS4R_SUBPROTOCOLS", ["chat", "a chat"], "contains 'a chat', which is no token"),
    ("E019", "UWS4R_SUBPROTOCOLS", [None], "contains None"),
    ("E020", "UWS4R_REQUIRE_ORIGIN", 1, "is neither True nor False"),
    ("E021", "UWS4R_MAX_MESSAGE_RATE", -1, "is no number of at least 0"),
    ("E022", "UWS4R_MAX_BYTE_RATE", "1 MiB", "is no number of at least 0"),
    ("E023", "UWS4R_FRAME_TIMEOUT", None, "is no number of at least 0"),
    ("E024", "UWS4R_MAX_CONNECTIONS_PER_IP", 0.5, "is no whole number of at least 0"),
    ("E025", "UWS4R_MAX_CONNECTIONS_PER_USER", None, "is no whole number of at least 0"),
    ("E026", "UWS4R_MAX_FACILITY_LENGTH", 0, "is no whole number of at least 1"),
    ("E027", "UWS4R_MAX_CHANNELS", 0, "is no whole number of at least 1"),
    ("E032", "UWS4R_MODE", "async", "is no mode"),
    ("E028", "UWS4R_SESSION_CHECK", "60", "is no number of at least 0"),
    ("E039", "UWS4R_LOGIN_CHECKER", "no.such.module", "cannot be imported"),
    ("E039", "UWS4R_LOGIN_CHECKER", "testsite.callbacks.by_token", "cannot be called with key and user"),
    ("E033", "UWS4R_KEEP_RATE", -1, "is no number of at least 0"),
    ("E034", "UWS4R_KEEP_RATE_PER_IP", "256 KiB", "is no number of at least 0"),
    ("E035", "UWS4R_KEEP_RATE_PER_WORKER", None, "is no number of at least 0"),
    ("E036", "UWS4R_MESSAGE_TIMEOUT", -1, "is no number of at least 0"),
    ("E037", "UWS4R_RECEIVE_BUFFER", 0, "is no whole number of at least 1"),
    ("E038", "UWS4R_PUBLISH_BUFFER_SIZE", 1.5, "is no whole number of at least 1"),
]


@pytest.mark.parametrize(("id", "name", "value", "text"), WRONG)
def test_a_wrong_value_is_an_error(id: str, name: str, value: object, text: str) -> None:
    (message,) = messages(**{name: value})
    assert message.id == f"uws4r.{id}"
    assert message.msg.startswith(name)
    assert text in message.msg
    assert message.hint
    assert message.hint.startswith("Write ")
    with override_settings(**{name: value}), pytest.raises(ConfigurationError, match=f"uws4r.{id}"):
        require_right_settings()


def test_every_rule_is_tried() -> None:
    assert {f"uws4r.{id}" for id, *_ in WRONG} == {rule.id for rule in RULES}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WS4REDIS_CONNECTION", {"host": "localhost", "port": 6379, "db": 0, "password": None}),
        ("WS4REDIS_CONNECTION", {"unix_socket_path": "/run/redis.sock"}),
        ("WS4REDIS_CONNECTION", "rediss://user:secret@localhost:6380/0"),
        ("WS4REDIS_PREFIX", None),
        ("WS4REDIS_EXPIRE", -1),
        ("WS4REDIS_EXPIRE", None),
        ("WS4REDIS_ALLOWED_CHANNELS", lambda request, channels: channels),
        ("UWS4R_ALLOWED_ORIGINS", ("https://example.com", "http://localhost:3000")),
        ("UWS4R_PING_INTERVAL", 0.5),
        ("UWS4R_COMPRESSION", None),
        ("UWS4R_COMPRESSION", False),
        ("UWS4R_COMPRESSION", True),
        ("UWS4R_SUBPROTOCOLS", ("chat.v2", "chat")),
        ("UWS4R_LOGIN_CHECKER", "testsite.callbacks.still_holds"),
        ("UWS4R_LOGIN_CHECKER", "uws4r.logins.django_login"),
    ],
)
def test_a_right_value_is_none(name: str, value: object) -> None:
    assert messages(**{name: value}) == []


def test_a_password_is_never_shown() -> None:
    for value in ("secret://secret@localhost", {"password": "secret", "port": "x"}):
        (message,) = messages(WS4REDIS_CONNECTION=value)
        assert "secret@" not in message.msg
        assert "'password'" not in message.msg


@pytest.mark.parametrize("name", ["WS4REDIS_SUBSCRIBER", "WS4REDIS_ALLOWED_CHANNELS"])
def test_an_old_path_is_an_error_that_names_the_new_one(name: str) -> None:
    (message,) = messages(**{name: "ws4redis.subscriber.RedisSubscriber"})
    assert message.hint == "Write 'uws4r.subscriber.RedisSubscriber'."


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("WS4REDIS_ALOWED_CHANNELS", "Write WS4REDIS_ALLOWED_CHANNELS."),
        ("UWS4R_PING_INTERVALL", "Write UWS4R_PING_INTERVAL."),
        ("UWS4R_EXPIRY", "Write UWS4R_EXPIRE."),
        ("WS4REDIS_XYZZY", "Remove it; docs/reference/settings.md lists what there is."),
    ],
)
def test_a_misspelt_setting_is_a_warning(name: str, hint: str) -> None:
    (message,) = messages(**{name: 5})
    assert (message.id, message.msg, message.hint) == ("uws4r.W001", f"uws4r has no setting {name}", hint)


def test_what_still_names_ws4redis_is_a_warning() -> None:
    found = messages(
        WSGI_APPLICATION="ws4redis.django_runserver.application",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {"context_processors": ["ws4redis.context_processors.default"]},
            }
        ],
    )
    assert [message.id for message in found] == ["uws4r.W002"] * 2
    assert {message.hint for message in found} == {
        "Write 'uws4r.django_runserver.application'.",
        "Write 'uws4r.context_processors.default'.",
    }


@pytest.mark.parametrize("prefix", ["user", "mysite:broadcast", "group:mysite"])
def test_a_prefix_that_reads_like_an_audience_is_a_warning(prefix: str) -> None:
    (message,) = messages(WS4REDIS_PREFIX=prefix)
    assert message.id == "uws4r.W003"
    assert repr(prefix) in message.msg
    assert messages(WS4REDIS_PREFIX=prefix.replace(":", "_") + "s") == []


NOWHERE = "redis://127.0.0.1:1/0"


def test_deploy_warns_when_everybody_may_publish_everywhere() -> None:
    assert [message.id for message in messages(deploy=True, WS4REDIS_CONNECTION=NOWHERE)] == ["uws4r.W011"]
    callback = "testsite.callbacks.only_broadcast"
    assert messages(deploy=True, WS4REDIS_CONNECTION=NOWHERE, WS4REDIS_ALLOWED_CHANNELS=callback) == []


def test_deploy_warns_when_every_origin_is_allowed() -> None:
    assert "uws4r.W012" in [message.id for message in messages(deploy=True, UWS4R_ALLOWED_ORIGINS=["*"])]


@pytest.mark.parametrize("origin", ["null", "file://"])
def test_deploy_warns_of_origins_that_are_nobodys_own(origin: str) -> None:
    assert messages(UWS4R_ALLOWED_ORIGINS=[origin]) == []
    (message,) = [m for m in messages(deploy=True, UWS4R_ALLOWED_ORIGINS=[origin]) if m.id == "uws4r.W017"]
    assert repr(origin) in message.msg


@pytest.mark.parametrize(
    "other",
    [
        {"CELERY_BROKER_URL": "redis://127.0.0.1/1"},
        {"CELERY_RESULT_BACKEND": "rediss://user:secret@localhost:6379/2?x=1"},
        {"CACHES": {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache",
                                "LOCATION": ["redis://other:6379", "redis://localhost:6379"]}}},
        {"CHANNEL_LAYERS": {"default": {"CONFIG": {"hosts": [("127.0.0.1", 6379)]}}}},
        {"WS4REDIS_CONNECTION": {"unix_socket_path": "/run/redis.sock"}, "RQ_URL": "unix:///run/redis.sock?db=1"},
    ],
)  # fmt: skip
def test_deploy_warns_where_clients_reach_keys_of_others(other: dict[str, object]) -> None:
    settings = {"WS4REDIS_CONNECTION": "redis://localhost:6379/0", **other}

    def warnings(**more: object) -> list[str]:
        return [m.msg for m in messages(deploy=True, **{**settings, **more}) if m.id == "uws4r.W015"]

    assert len(warnings()) == 1
    assert "secret" not in warnings()[0]
    assert warnings(WS4REDIS_PREFIX="mysite") == []
    assert warnings(WS4REDIS_ALLOWED_CHANNELS="testsite.callbacks.only_broadcast") == []
    assert warnings(WS4REDIS_CONNECTION="redis://elsewhere:6379/0") == []
    assert warnings(WS4REDIS_CONNECTION="redis://localhost:6380/0") == []


@pytest.mark.parametrize(
    "connection", [{"host": "localhost", "db": 3}, "redis://localhost:6379/3", {"unix_socket_path": "/x", "db": 3}]
)
def test_deploy_warns_of_another_database_without_a_prefix(connection: object) -> None:
    def ids(**settings: object) -> list[str | None]:
        return [message.id for message in messages(deploy=True, WS4REDIS_CONNECTION=connection, **settings)]

    assert "uws4r.W013" in ids()
    assert "uws4r.W013" not in ids(WS4REDIS_PREFIX="mysite")


# ---------------------------------------------------------------- the memory of Redis


def warned(redis: RedisServer | str, **settings: object) -> bool:
    url = redis if isinstance(redis, str) else redis.url
    found = messages(deploy=True, **{"WS4REDIS_CONNECTION": url, **settings})
    return "uws4r.W014" in [message.id for message in found]


def test_deploy_warns_of_a_redis_without_a_limit(own_redis: RedisServer) -> None:
    assert warned(own_redis)
    assert "uws4r.W014" not in [message.id for message in messages(WS4REDIS_CONNECTION=own_redis.url)]
    own_redis.client.config_set("maxmemory", "1gb")
    assert not warned(own_redis)


def test_nothing_is_said_where_clients_leave_nothing_there(own_redis: RedisServer) -> None:
    assert not warned(own_redis, WS4REDIS_EXPIRE=0)
    assert not warned(own_redis, WS4REDIS_SUBSCRIBER="testsite.subscribers.ReadOnly")
    assert not warned(own_redis, WS4REDIS_EXPIRE="3600")  # of which another rule tells


def test_nothing_is_said_where_redis_refuses_to_tell(own_redis: RedisServer) -> None:
    own_redis.client.execute_command(*["ACL", "SETUSER", "few", "on", ">few", "~*", "&*", "+@all", "-info"])
    assert not warned(own_redis.url.replace("//", "//few:few@"))
    assert not warned(own_redis.url.replace("//", "//few:wrong@"))


def test_a_redis_that_does_not_answer_is_given_two_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        assert not warned(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        assert time.monotonic() - begin < 3.0


def test_the_start_of_a_server_does_not_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with override_settings(WS4REDIS_CONNECTION=f"redis://127.0.0.1:{listener.getsockname()[1]}/0"):
            require_right_settings()
            checks.found()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_sessions_in_cookies_are_a_warning() -> None:
    (message,) = messages(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
    assert (message.id, message.level) == ("uws4r.W016", 30)
    assert "nobody can subscribe or publish to a session" in message.msg
    for engine in ("db", "cached_db", "cache", "file", "none_such"):
        assert messages(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}") == []
