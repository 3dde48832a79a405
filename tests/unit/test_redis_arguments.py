"""WS4REDIS_CONNECTION: what is meant is understood, what cannot be meant is named, and no password is shown."""

import io
import itertools
import sys
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.views.debug import ExceptionReporter

from tests.support.servers import RedisServer, free_port
from uws4r import checks, orders
from uws4r.conf import conf
from uws4r.doctor import Doctor, Options
from uws4r.errors import ConfigurationError, QueueError
from uws4r.publisher import RedisPublisher
from uws4r.redis_arguments import WrongKind, WrongUrl, check_url
from uws4r.redis_clients import link_connection, make_client, site_client
from uws4r.worker import reach_redis

SECRET = "geheim"  # noqa: S105


def arguments(setting: Any) -> dict[str, Any]:
    client = make_client(setting)
    made: dict[str, Any] = dict(client.connection_pool.connection_kwargs)
    made["class"] = client.connection_pool.connection_class.__name__
    return made


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ({"port": "6380"}, "port", 6380),
        ({"db": "1"}, "db", 1),
        ({"socket_timeout": "0.5"}, "socket_timeout", 0.5),
        ({"socket_timeout": None}, "socket_timeout", None),
        ({"socket_connect_timeout": "3"}, "socket_connect_timeout", 3.0),
        ({"health_check_interval": "30"}, "health_check_interval", 30.0),
        ({"health_check_interval": "0"}, "health_check_interval", 0),
        ({"ssl": "false"}, "class", "Connection"),
        ({"ssl": ""}, "class", "Connection"),
        ({"ssl": None}, "class", "Connection"),
        ({"ssl": "True"}, "class", "SSLConnection"),
        ({"ssl": 1}, "class", "SSLConnection"),
        ({"ssl": True, "ssl_check_hostname": "no"}, "ssl_check_hostname", False),
        ({"max_connections": "7", "port": None}, "port", 6379),
        ({"password": 1234}, "password", 1234),
        ({"url": "redis://localhost/", "socket_timeout": "2"}, "socket_timeout", 2.0),
        ("redis://localhost/?socket_timeout=2&db=3", "db", 3),
        ("rediss://localhost/?ssl_check_hostname=false", "ssl_check_hostname", False),
        ("redis://localhost:6379/7", "db", 7),
        ("redis://localhost", "host", "localhost"),
        ("redis://[::1]:6379/0", "host", "::1"),
        ("unix:///run/a@b/redis.sock?db=2", "path", "/run/a@b/redis.sock"),
        ("redis://:p%40ss%23@localhost/0", "password", "p@ss#"),
        ("redis://:p@ss:w@localhost/0", "password", "p@ss:w"),
        ("redis://localhost/0?password=p@ss", "password", "p@ss"),
        ("redis://localhost/0?client_name=me@here&password=p@ss", "client_name", "me@here"),
        ("unix://me:pw@/run/redis.sock", "username", "me"),
        ("redis://:100%@localhost/0", "password", "100%"),
        ("redis://:a b@localhost/0\n", "password", "a b"),
    ],
)
def test_what_is_meant_is_understood(setting: Any, name: str, value: object) -> None:
    assert arguments(setting)[name] == value
    with override_settings(WS4REDIS_CONNECTION=setting):
        assert checks.wrong_values() == []
        link_connection()


@pytest.mark.parametrize(
    "setting",
    [
        {"port": "abc"},
        {"port": True},
        {"port": 65536},
        {"port": 6379.0},
        {"port": ""},
        {"db": -1},
        {"db": "1.5"},
        {"socket_timeout": "5s"},
        {"socket_timeout": 0},
        {"socket_timeout": -1},
        {"socket_timeout": float("inf")},
        {"socket_connect_timeout": True},
        {"health_check_interval": "often"},
        {"ssl": "perhaps"},
        {"ssl": 2},
        {"host": 5},
        {"username": ["me"]},
        {"password": {"a": 1}},
        {"unix_socket_path": 5},
        "redis://localhost/?socket_timeout=-1",
        {"sentinels": [("h", 1)], "service_name": "m", "db": "one"},
    ],
    ids=repr,
)
def test_what_cannot_be_meant_is_named(setting: Any) -> None:
    with pytest.raises(WrongKind, match="WS4REDIS_CONNECTION"):
        make_client(setting)
    with override_settings(WS4REDIS_CONNECTION=setting):
        assert [message.id for message in checks.wrong_values()] == ["uws4r.E042"]


# ---------------------------------------------------------------- URLs with a password that is not quoted

AWKWARD = [
    f"{scheme}{user}:{before}{letter}{SECRET}{behind}@{rest}"
    for (scheme, rest), user, before, letter, behind in itertools.product(
        (("redis://", "localhost:PORT/0"), ("rediss://", "localhost:PORT"), ("unix://", "/run/no/redis.sock")),
        ("", "me", "a@b"),
        ("12", "x", "x@y", ""),
        "#/?[]:",
        ("", "=1", "&a=b"),
    )
]


def test_a_password_that_is_not_quoted_is_named_or_taken_as_it_is() -> None:
    named = 0
    for pattern in AWKWARD:
        url = pattern.replace("PORT", "6379")
        said = ""
        try:
            check_url(url)
        except WrongUrl as error:
            said = str(error)
        if said:
            named += 1
            assert SECRET not in said
            assert "12" not in said
            continue
        made = arguments(url)
        given = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
        assert made["password"] == given, url
        assert made.get("host", made.get("path")) in ("localhost", "/run/no/redis.sock"), url
    assert named > len(AWKWARD) / 3


def shown(act: Callable[[], Any]) -> str:
    """Everything that is to be seen of an error: its text, its traceback, the variables on Django's page of a bug."""
    try:
        act()
    except Exception:
        kind, error, trace = sys.exc_info()
        reporter = ExceptionReporter(None, kind, error, trace)
        frames = [(frame.get("function"), frame.get("vars")) for frame in reporter.get_traceback_frames()]
        here = shown.__code__.co_filename
        assert all(here not in str(frame) for frame in frames)
        return f"{''.join(traceback.format_exception(kind, error, trace))}\n{frames}"
    return ""


def command(*arguments: str) -> str:
    out = io.StringIO()
    try:
        call_command("uws4r", *arguments, stdout=out, stderr=out, no_color=True)
    except CommandError as error:
        out.write(f"{error} {''.join(traceback.format_exception(error))}")
    return out.getvalue()


SETTINGS: list[Any] = [
    *AWKWARD[::41],
    f"redis://:{SECRET}@localhost:PORT/0",
    f"redis://me:{SECRET}%23@localhost:PORT/0?socket_timeout=x{SECRET}",
    f"rediss://:{SECRET}@localhost:PORT/0?colour={SECRET}",
    f"redis://localhost:PORT/0?password={SECRET}&ssl_ca_certs=x",
    f"redis://localhost:PORT/{SECRET}",
    f"localhost:PORT {SECRET}",
    {"host": f"redis://:{SECRET}@localhost", "port": 6379},
    {"host": "localhost", "port": f"{SECRET}", "password": SECRET},
    {"host": "localhost", "port": "PORT", "password": SECRET},
    {"host": "localhost", "port": "PORT", "password": [SECRET]},
    {"host": "localhost", "port": "PORT", "password": SECRET, "socket_timeout": SECRET},
    {"host": "localhost", "port": "PORT", "password": SECRET, "pasword": SECRET},
    {"url": f"redis://:{SECRET}@localhost:PORT/0", "db": SECRET},
    {"sentinels": [f"redis://:{SECRET}@localhost:26379"], "service_name": "m", "password": SECRET},
    {"sentinels": [("localhost", "PORT")], "service_name": "m", "password": SECRET, "sentinel_kwargs": {"db": SECRET}},
    {"cache": "secret"},
]


def placed(setting: Any, port: int) -> Any:
    if isinstance(setting, str):
        return setting.replace("PORT", str(port))
    if isinstance(setting, dict):
        return {name: placed(value, port) for name, value in setting.items()}
    return (
        [tuple(placed(each, port) for each in value) if isinstance(value, tuple) else value for value in setting]
        if (isinstance(setting, list))
        else setting
    )


@pytest.mark.parametrize("state", ["nobody listens", "a wrong password"])
def test_no_password_is_to_be_seen_anywhere(
    own_redis: RedisServer, state: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.client.config_set("requirepass", "another")
    port = own_redis.port if state == "a wrong password" else free_port()
    cache = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"redis://:{SECRET}@localhost:{port}/0",
        "OPTIONS": {"password": SECRET, "pasword": SECRET},
    }
    for each in SETTINGS:
        if str(each).startswith("rediss") and state == "a wrong password":
            continue  # TLS never gets so far
        setting = placed(each, port)
        with override_settings(
            WS4REDIS_CONNECTION=setting, CACHES={"default": cache, "secret": cache}, DEBUG=True, WS4REDIS_PREFIX="p"
        ):
            seen = [
                shown(lambda: RedisPublisher(facility="f", broadcast=True).publish_message("m")),
                shown(lambda: RedisPublisher().fetch_message(None, "f")),
                shown(lambda: make_client(conf.WS4REDIS_CONNECTION)),
                shown(lambda: orders.tell(do="check", users=["mary"])),
                shown(checks.require_right_settings),
                "\n".join(f"{message.msg} {message.hint}" for message in checks.found()),
                "\n".join(map(str, Doctor(Options(timeout=1.0)).steps())),
                command("status", "--timeout", "1"),
                command("kick", "--user", "mary", "--timeout", "1"),
                command("doctor", "--timeout", "1"),
            ]
            try:
                reach_redis()
            except Exception as error:
                seen.append("".join(traceback.format_exception(error)))
            for text in seen:
                assert SECRET not in text, f"{setting}: {text}"
            with pytest.raises((QueueError, ConfigurationError)):
                RedisPublisher(facility="f", broadcast=True).publish_message("m")
            try:
                site_client().connection_pool.disconnect()
            except ConfigurationError:
                pass
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


def test_two_passwords_are_two_clients(own_redis: RedisServer) -> None:
    """What is hidden in a traceback still tells settings apart."""
    seen = set()
    for password in ("a", "b"):
        for setting in (f"redis://:{password}@h/0", {"host": "h", "password": password}):
            with override_settings(WS4REDIS_CONNECTION=setting):
                seen.add(site_client())
                assert site_client() is site_client()
                assert site_client().connection_pool.connection_kwargs["password"] == password
    assert len(seen) == 4


@pytest.mark.parametrize("password", ["#", "/", "?", "@", "%", "%41", "[", "]", ":", "a b", "é", "&=", "\\", "'\""])
def test_the_advice_is_right(own_redis: RedisServer, password: str) -> None:
    """A password of any characters works percent-encoded in a URL, and as it is in a dictionary."""
    own_redis.client.config_set("requirepass", password)
    for setting in (
        f"redis://:{quote(password, safe='')}@127.0.0.1:{own_redis.port}/0",
        {"host": "127.0.0.1", "port": own_redis.port, "password": password},
    ):
        with override_settings(WS4REDIS_CONNECTION=setting):
            reach_redis()
            RedisPublisher(facility="f", broadcast=True).publish_message("m")
            site_client().connection_pool.disconnect()
