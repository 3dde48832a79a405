"""
From ``WS4REDIS_CONNECTION``, in each of its forms, to arguments that redis-py takes.

What is certainly meant is read so (``"port": "6379"``), what cannot be meant is an error before anybody connects. No
error repeats a part of a URL, nor shows a password in another way.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, MutableMapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import redis
from django.utils.module_loading import import_string

from uws4r.conf import Hidden, HiddenText, conf
from uws4r.errors import ConfigurationError

NAME = "WS4REDIS_CONNECTION"
QUOTE = "percent-encode user and password (urllib.parse.quote(password, safe='')), or write a dictionary"


class WrongUrl(ConfigurationError):
    """A URL of ``WS4REDIS_CONNECTION`` cannot be taken apart; the text repeats nothing of it."""


class WrongKind(ConfigurationError):
    """An argument in ``WS4REDIS_CONNECTION`` has a value of the wrong kind."""


# ---------------------------------------------------------------- the forms of the setting


def arguments_of(configured: Any) -> dict[str, Any]:
    """
    Return a value of ``WS4REDIS_CONNECTION`` as a dictionary, where it names a cache that cache's connection.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(configured, str):
        arguments: dict[str, Any] = Hidden(url=configured)
    elif isinstance(configured, Mapping):
        arguments = Hidden(configured)
        if "cache" in arguments:
            arguments = Hidden({**of_cache(arguments.pop("cache")), **arguments})
    else:
        raise ConfigurationError(f"WS4REDIS_CONNECTION must be a URL or a dictionary, not {type(configured).__name__}")
    if "url" in arguments:
        check_url(arguments["url"])
    read_values(arguments)
    return arguments


def of_cache(alias: str) -> dict[str, Any]:
    """
    Return the connection of an entry of ``CACHES``, of Django's own backend for Redis or of django-redis.

    Raises:
        ConfigurationError: There is no such entry, or it is no Redis.
    """
    entry = conf.cache(alias)
    if entry is None:
        raise ConfigurationError(f"WS4REDIS_CONNECTION names the cache {alias!r}, which CACHES does not have")
    backend = entry.get("BACKEND")
    try:
        kinds = [kind.__module__ for kind in import_string(str(backend)).__mro__]
    except Exception as error:  # importing a site's module may raise anything
        raise ConfigurationError(f"the BACKEND of CACHES[{alias!r}] cannot be imported: {error}") from error
    theirs = any(kind.startswith("django_redis.") for kind in kinds)
    if not theirs and "django.core.cache.backends.redis" not in kinds:
        raise ConfigurationError(f"CACHES[{alias!r}] is no Redis: its BACKEND is {backend!r}")
    location = entry.get("LOCATION") or ""
    # The first is the one that takes writes.
    url = HiddenText(re.split("[;,]", location)[0].strip() if isinstance(location, str) else [*location, ""][0])
    options = Hidden(entry.get("OPTIONS") or {})
    if theirs:
        return _of_django_redis(url, options)
    for name in ("serializer", "pool_class", "parser_class"):  # the cache's own business
        options.pop(name, None)
    return Hidden(url=url, **options)


def _of_django_redis(url: str, options: dict[str, Any]) -> dict[str, Any]:
    names = {
        "USERNAME": "username",
        "PASSWORD": "password",
        "SOCKET_TIMEOUT": "socket_timeout",
        "SOCKET_CONNECT_TIMEOUT": "socket_connect_timeout",
    }
    arguments = Hidden({ours: options[theirs] for theirs, ours in names.items() if options.get(theirs) is not None})
    arguments.update(options.get("CONNECTION_POOL_KWARGS") or {})
    if not options.get("SENTINELS"):
        return Hidden({"url": url, **arguments})
    check_url(url)
    parts = urlsplit(url)  # its host is the service, in small letters, as django-redis reads it
    if parts.scheme == "rediss":
        arguments.setdefault("ssl", True)
    return {
        "sentinels": options["SENTINELS"],
        "service_name": parts.hostname,
        "sentinel_kwargs": options.get("SENTINEL_KWARGS") or {},
        "db": int(parts.path.strip("/") or 0),
        **arguments,
    }


# ---------------------------------------------------------------- URLs


@cache
def _known_arguments() -> frozenset[str]:
    return frozenset(inspect.signature(redis.Redis.__init__).parameters)


def check_url(url: Any) -> None:
    """
    Make sure that a URL says what it seems to say.

    In a password as it is, ``#``, ``/`` and ``?`` end the address: what is in front of them would be taken for host and
    port, and what is behind them for nothing at all.

    Raises:
        WrongUrl: It does not.
    """
    if not isinstance(url, str) or not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError(
            f"{NAME} must be a URL or a dictionary; a URL begins with redis://, rediss:// or unix://"
        )
    url = HiddenText(url)
    if (wrong := _wrong_in(url)) is not None:
        raise WrongUrl(f"{NAME}: {wrong}")


def _wrong_in(url: str) -> str | None:
    # Returns and does not raise: the variables here are parts of the password.
    if re.search(r"[\t\r\n]", url.strip()):  # which urlsplit() swallows
        return f"the URL contains a line break or a tab: {QUOTE}"
    try:
        parts = urlsplit(url)
        port = parts.port  # what cannot be one is found out here
    except ValueError:
        return f"the URL has no number where the port should be: {QUOTE}"
    query = parts.query.rpartition("@")[0]
    names = [word.partition("=") for word in query.split("&")] if query else []
    unix = parts.scheme == "unix"
    if (
        "@" in parts.fragment
        or ("@" in parts.path and not unix)
        or any(not equal or name not in _known_arguments() for name, equal, _ in names)
        or (unix and ":" in parts.netloc and "@" not in parts.netloc)
    ):
        return f"the password in the URL contains #, / or ?: {QUOTE}"
    if parts.fragment:
        return f"the URL contains a #, and what follows would not count: {QUOTE}"
    if port == 0:
        return "the port in the URL is 0"
    if unix and parts.netloc.rpartition("@")[2] not in ("", "localhost"):
        return f"the URL has a host in front of the socket: unix:///run/redis.sock; or {QUOTE}"
    database = parts.path.strip("/")
    if not unix and database and not database.isdecimal():
        return "the path of the URL is no number of a database: write redis://localhost:6379/0"
    return None


# ---------------------------------------------------------------- values


def _whole(least: int, most: float = math.inf) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise ValueError(f"a whole number from {least} to {most}" if most < math.inf else "a whole number")
        return number

    return read


def _seconds(value: Any) -> Any:
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < 1e9:
        raise ValueError("seconds such as 5, more than 0")
    return number


def _interval(value: Any) -> Any:
    return 0 if value == "0" or (value == 0 and value is not False) else _seconds(value)


WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0", ""), False),
}


def _yes_or_no(value: Any) -> Any:
    if isinstance(value, str):
        value = WORDS.get(value.strip().lower())
    if value is True or value is False or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise ValueError("True or False")


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _host(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("a text")
    if "/" in value or "@" in value:
        raise ValueError('a name or an address; a URL goes to {"url": …}')
    if re.fullmatch(r"[^:]+:\d+", value):
        raise ValueError("a name or an address without the port, which has a key of its own")
    return value


def _secret(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, bytes, int)):
        raise ValueError("a text")
    return value


# By the name of the argument; None stands for redis-py's default everywhere.
KINDS: dict[str, Callable[[Any], Any]] = {
    "host": _host,
    "port": _whole(1, 65535),
    "db": _whole(0),
    "username": _secret,
    "password": _secret,
    "unix_socket_path": _text,
    "path": _text,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "health_check_interval": _interval,
    "socket_keepalive": _yes_or_no,
    "retry_on_timeout": _yes_or_no,
    "max_connections": _whole(1),
    "min_other_sentinels": _whole(0),
    "protocol": _whole(2, 3),
    "ssl": _yes_or_no,
    "ssl_check_hostname": _yes_or_no,
    "ssl_ca_certs": _text,
    "ssl_ca_path": _text,
    "ssl_certfile": _text,
    "ssl_keyfile": _text,
}
NO_NONE = (
    "host",
    "port",
    "db",
    "ssl",
    "protocol",
    "max_connections",
    "min_other_sentinels",
)  # redis-py takes it for a value


def read_values(arguments: MutableMapping[str, Any]) -> None:
    """
    Replace texts by the numbers and the yes or no that they stand for.

    Raises:
        WrongKind: A value cannot be meant.
    """
    if (wrong := _read(arguments)) is not None:
        raise WrongKind(f"{NAME}: {wrong}")


def _read(arguments: MutableMapping[str, Any]) -> str | None:
    # Returns what is wrong and does not raise: the value may be a password.
    for name, read in KINDS.items():
        if name not in arguments:
            continue
        value = arguments[name]
        if value is None:
            if name in NO_NONE:
                del arguments[name]
            continue
        try:
            arguments[name] = read(value)
        except ValueError as error:
            seen = f"{value!r:.40}" if isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"
            return f"{name!r} must be {error}, and is {seen}"
    return None
