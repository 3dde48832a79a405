"""
From ``WS4REDIS_CONNECTION``, in each of its forms, to Redis: clients for publishing, connections for the hubs' links.

A client's connections come from one pool for each process and each setting, made on first use. redis-py's pools
notice a fork, so a pool made before it serves the child as well.
"""

import copy
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import redis
from django.utils.module_loading import import_string
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from uws4r.conf import conf
from uws4r.errors import ConfigurationError, QueueError, QueueRefused, QueueTimeout, QueueUnreachable

SOCKET_TIMEOUT = 5.0  # seconds until a publisher gives up, unless WS4REDIS_CONNECTION says otherwise
SENTINEL_TIMEOUT = 1.0  # seconds until the next sentinel is asked
MOST_CONNECTIONS = 10_000  # of one process; redis-py's own default is fewer than gevent may have publishers
ROLE_PAUSE = 1.0  # seconds between two looks whether publishers still have a master

_clients: dict[str, redis.Redis] = {}  # by setting; a client is safe to share between threads
_clients_lock = threading.Lock()
stand_ins: list[Any] = []  # in a test, what stands for Redis: see uws4r.testing


class Sentinels(Sentinel):
    """Sentinels that threads may share."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the address of the master; the sentinel that knew it is asked first the next time."""
        # redis-py reorders the list where it stands: of two threads that do so one may drop a sentinel.
        one = copy.copy(self)
        one.sentinels = list(self.sentinels)
        address = Sentinel.discover_master(one, service_name)
        self.sentinels = one.sentinels
        return address


# ---------------------------------------------------------------- the forms of the setting


def arguments_of(configured: Any) -> dict[str, Any]:
    """
    Return a value of ``WS4REDIS_CONNECTION`` as a dictionary, where it names a cache that cache's connection.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(configured, str):
        return {"url": configured}
    if not isinstance(configured, Mapping):
        raise ConfigurationError(f"WS4REDIS_CONNECTION must be a URL or a dictionary, not {type(configured).__name__}")
    arguments = dict(configured)
    if "cache" in arguments:
        arguments = {**of_cache(arguments.pop("cache")), **arguments}
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
    location = entry.get("LOCATION") or ""
    # The first is the one that takes writes.
    url = re.split("[;,]", location)[0].strip() if isinstance(location, str) else str([*location, ""][0])
    options = dict(entry.get("OPTIONS") or {})
    if any(kind.startswith("django_redis.") for kind in kinds):
        return _of_django_redis(url, options)
    if "django.core.cache.backends.redis" not in kinds:
        raise ConfigurationError(f"CACHES[{alias!r}] is no Redis: its BACKEND is {backend!r}")
    for name in ("serializer", "pool_class", "parser_class"):  # the cache's own business
        options.pop(name, None)
    return {"url": url, **options}


def _of_django_redis(url: str, options: dict[str, Any]) -> dict[str, Any]:
    names = {
        "USERNAME": "username",
        "PASSWORD": "password",
        "SOCKET_TIMEOUT": "socket_timeout",
        "SOCKET_CONNECT_TIMEOUT": "socket_connect_timeout",
    }
    arguments = {ours: options[theirs] for theirs, ours in names.items() if options.get(theirs) is not None}
    arguments.update(options.get("CONNECTION_POOL_KWARGS") or {})
    if not options.get("SENTINELS"):
        return {"url": url, **arguments}
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


def make_client(configured: Any) -> redis.Redis:
    """
    Return a new client for a value of ``WS4REDIS_CONNECTION``; nothing connects yet.

    Raises:
        ConfigurationError: It is none that redis-py takes.
    """
    defaults = {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "max_connections": MOST_CONNECTIONS,
        # A command that got no answer may have been carried out: to repeat it could double a message.
        "retry": Retry(NoBackoff(), 0),
        # redis-py notices a connection that has died in the pool over RESP2, over RESP3 not always.
        "protocol": 2,
    }
    try:
        # Payloads are bytes; a site that set decode_responses for its own clients means no harm.
        arguments = {**defaults, **arguments_of(configured), "decode_responses": False}
        if "sentinels" in arguments or "service_name" in arguments:
            return _of_sentinels(arguments)
        if "url" in arguments:
            return redis.Redis.from_url(arguments.pop("url"), **arguments)
        return redis.Redis(**arguments)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ConfigurationError(
            f"WS4REDIS_CONNECTION must be a URL or a dictionary of redis.Redis' arguments: {error}"
        ) from error


def _of_sentinels(arguments: dict[str, Any]) -> redis.Redis:
    sentinels, service = arguments.pop("sentinels", None), arguments.pop("service_name", None)
    if not isinstance(sentinels, (list, tuple)) or not sentinels:
        raise ConfigurationError("WS4REDIS_CONNECTION['sentinels'] must be a list of pairs (host, port)")
    for pair in sentinels:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], int)):
            raise ConfigurationError(f"WS4REDIS_CONNECTION['sentinels'] has {pair!r}, which is no pair (host, port)")
    if not isinstance(service, str) or not service:
        raise ConfigurationError("WS4REDIS_CONNECTION['service_name'] must be the sentinels' name of the master")
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
    always = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    sentinel_kwargs = {**timeouts, **always, **(arguments.pop("sentinel_kwargs", None) or {})}
    least = arguments.pop("min_other_sentinels", 0)
    return Sentinels(sentinels, least, sentinel_kwargs, **arguments).master_for(service)


# ---------------------------------------------------------------- what is made of it


def site_client() -> redis.Redis:
    """
    Return this process's client for the present ``WS4REDIS_CONNECTION``, with a pool of its own.

    Raises:
        ConfigurationError: The setting is none that redis-py takes.
    """
    configured = conf.WS4REDIS_CONNECTION
    key = repr(configured)
    if isinstance(configured, Mapping) and "cache" in configured:
        key += repr(conf.cache(configured["cache"]))
    client = _clients.get(key)
    if client is None:
        with _clients_lock:
            client = _clients.get(key) or _clients.setdefault(key, make_client(configured))
    return client


def redis_client() -> redis.Redis:
    """Return :func:`site_client`, or what stands for it in a test."""
    return stand_ins[-1] if stand_ins else site_client()


def link_connection() -> Connection:
    """Return an unconnected connection for a hub's link: RESP3, no retries of its own."""
    pool = site_client().connection_pool
    # redis-py's maintenance notifications are pushes that nobody here would read.
    arguments = {name: value for name, value in pool.connection_kwargs.items() if "maint" not in name}
    arguments.update(protocol=3, client_name="uws4r", retry=Retry(NoBackoff(), 0), health_check_interval=0)
    return pool.connection_class(**arguments)


def where(client: Any = None) -> str:
    """Return the address of a client's Redis, of the site's unless given, without a password."""
    pool = getattr(site_client() if client is None else client, "connection_pool", None)
    arguments = getattr(pool, "connection_kwargs", {})
    address = arguments.get("path") or f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}"
    if (service := getattr(pool, "service_name", None)) is not None:
        address = f"the sentinels' master {service!r}"
    return f"{address}, database {arguments.get('db') or 0}"


# ---------------------------------------------------------------- asking a client


def carried_out(client: Any, act: Callable[[], Any]) -> Any:
    """
    Return what ``act`` returns, which asks ``client`` something.

    After an error that says that Redis has gone or is no master any more, the pool's idle connections are closed:
    the next publisher makes a new one. A master that has become a replica has done nothing, so ``act`` is called
    once more, on a new connection.

    Raises:
        QueueError: Redis has not done it, or not answered.
    """
    try:
        try:
            return act()
        except redis.RedisError as error:
            if not _demoted(error):
                raise
            forsake(client)
            return act()
    except QueueError:
        raise
    except (redis.RedisError, OSError) as error:
        gone = isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError))
        if gone or _demoted(error):
            forsake(client)
        raise _told(error, where(client)) from error


def follow_master(client: Any, stores: bool) -> None:
    """
    Leave a master that is none any more; looks once a second.

    Sentinels may have named another while the old one goes on answering. Without sentinels what is stored needs no
    look, a replica refuses that; but it takes a PUBLISH without a word, and only those who listen there hear of it.

    Raises:
        QueueError: There is only a replica.
    """
    if not isinstance(client, redis.Redis):
        return
    pool: Any = client.connection_pool
    sentinels = isinstance(pool, SentinelConnectionPool)
    now = time.monotonic()
    if (stores and not sentinels) or now < getattr(pool, "uws4r_looks_at", 0.0):
        return

    def look() -> None:
        try:
            told = client.execute_command("HELLO", 3 if pool.connection_kwargs.get("protocol") in (3, "3") else 2)
        except redis.ResponseError:
            return  # may not ask
        words = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=False))
        if words.get(b"role", words.get("role")) in (b"replica", b"slave", "replica", "slave"):
            raise redis.ReadOnlyError("it is a replica, and only a master will do")

    if sentinels:
        try:
            pool.get_master_address()  # which closes the idle connections where it is another one
        except redis.RedisError:
            pass  # no sentinel answers: the master is what there is
    if not stores:
        carried_out(client, look)
    pool.uws4r_looks_at = now + ROLE_PAUSE


def forsake(client: Any) -> None:
    """Close the idle connections of a client's pool, where it has one."""
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, redis.ConnectionPool):
        pool.disconnect(inuse_connections=False)


def _demoted(error: BaseException) -> bool:
    # What comes from a sentinel's master is a ConnectionError that was raised because of it.
    return isinstance(error, redis.ReadOnlyError) or isinstance(error.__context__, redis.ReadOnlyError)


def _told(error: Exception, place: str) -> QueueError:
    if isinstance(error, (redis.TimeoutError, TimeoutError)):
        return QueueTimeout(f"Redis ({place}) does not answer in time, and may yet do what it was told: {error}")
    if isinstance(error, redis.ResponseError):
        return QueueRefused(f"Redis ({place}) refuses: {error}")
    return QueueUnreachable(f"Redis ({place}) cannot be reached: {error}")
