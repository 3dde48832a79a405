"""
From ``WS4REDIS_CONNECTION`` to Redis: clients for publishing, connections for the hubs' links.

A client's connections come from one pool for each process and each setting, made on first use. redis-py's pools
notice a fork, so a pool made before it serves the child as well.
"""

import copy
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from uws4r.conf import EMBEDDED_REDIS, Hidden, HiddenText, conf
from uws4r.errors import ConfigurationError, QueueError, QueueRefused, QueueTimeout, QueueUnreachable
from uws4r.greeting import beginning, is_replica
from uws4r.redis_arguments import arguments_of, read_values
from uws4r.refusals import code_of, explained, said

SOCKET_TIMEOUT = 5.0  # seconds until a publisher gives up, unless WS4REDIS_CONNECTION says otherwise
SENTINEL_TIMEOUT = 1.0  # seconds until the next sentinel is asked
MOST_CONNECTIONS = 10_000  # of one process; redis-py's own default is fewer than gevent may have publishers
ROLE_PAUSE = 1.0  # seconds between two looks whether publishers still have a master

_clients: dict[str, redis.Redis] = {}  # by setting; a client is safe to share between threads
_clients_lock = threading.Lock()
stand_ins: list[Any] = []  # in a test, what stands for Redis: see uws4r.testing


class Client(redis.Redis):
    """A client that does not show the arguments of its connections, as some versions of redis-py do."""

    def __repr__(self) -> str:
        return f"<redis.Redis at {where(self)}>"


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


# ---------------------------------------------------------------- what is made of the setting


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
    # Payloads are bytes; a site that set decode_responses for its own clients means no harm.
    arguments = Hidden({**defaults, **arguments_of(configured), "decode_responses": False})
    arguments["redis_connect_func"] = beginning(arguments.get("redis_connect_func"))
    client = _client_or_trouble(arguments)
    if isinstance(client, str):
        raise ConfigurationError(
            f"WS4REDIS_CONNECTION must be a URL or a dictionary of redis.Redis' arguments: {client}"
        )
    return client


def _client_or_trouble(arguments: dict[str, Any]) -> redis.Redis | str:
    # Returns what is wrong and does not raise it: the variables here, and those of redis-py, would be shown.
    try:
        if "sentinels" in arguments or "service_name" in arguments:
            client = _of_sentinels(arguments)
        elif "url" in arguments:
            client = Client.from_url(arguments.pop("url"), **arguments)
        else:
            client = Client(**arguments)
        pool = client.connection_pool
        read_values(pool.connection_kwargs)  # what stands behind the ? of a URL
        with suppress(OSError):  # of files another rule tells
            pool.connection_class(**pool.connection_kwargs)  # connects later; what it does not know it says now
    except (TypeError, ValueError, AttributeError, KeyError, redis.RedisError) as error:
        return str(error)
    return client


def _wrong_in(sentinels: Any) -> str | None:
    if not isinstance(sentinels, (list, tuple)) or not sentinels:
        return "must be a list of pairs (host, port)"
    for pair in sentinels:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], int)):
            shown = "a URL" if "://" in str(pair) else repr(pair)  # which may hold a password
            return f"has {shown}, which is no pair (host, port)"
    return None


def _of_sentinels(arguments: dict[str, Any]) -> redis.Redis:
    service = arguments.pop("service_name", None)
    if (wrong := _wrong_in(arguments.get("sentinels"))) is not None:
        raise ConfigurationError(f"WS4REDIS_CONNECTION['sentinels'] {wrong}")
    if not isinstance(service, str) or not service:
        raise ConfigurationError("WS4REDIS_CONNECTION['service_name'] must be the sentinels' name of the master")
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
    always = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    sentinel_kwargs = Hidden({**timeouts, **always, **(arguments.pop("sentinel_kwargs", None) or {})})
    read_values(sentinel_kwargs)
    sentinel_kwargs["redis_connect_func"] = beginning(sentinel_kwargs.get("redis_connect_func"))
    least = arguments.pop("min_other_sentinels", 0)
    return Sentinels(arguments.pop("sentinels"), least, sentinel_kwargs, **arguments).master_for(service, Client)


def site_client() -> redis.Redis:
    """
    Return this process's client for the present ``WS4REDIS_CONNECTION``, with a pool of its own.

    Raises:
        ConfigurationError: The setting is none that redis-py takes.
    """
    configured = conf.WS4REDIS_CONNECTION
    key = configured.key if isinstance(configured, (Hidden, HiddenText)) else repr(configured)
    if isinstance(configured, Hidden) and "cache" in configured and (entry := conf.cache(configured["cache"])):
        key = HiddenText(key + entry.key)
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
    arguments["redis_connect_func"] = beginning(arguments.get("redis_connect_func"), conf.WS4REDIS_PREFIX)
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
        raise _told(error, where(client)) from without_frames(error)


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
    sentinels = isinstance(_pool(client), SentinelConnectionPool)
    now = time.monotonic()
    if (stores and not sentinels) or now < getattr(_pool(client), "uws4r_looks_at", 0.0):
        return

    def look() -> None:
        protocol = _pool(client).connection_kwargs.get("protocol")
        try:
            told = client.execute_command("HELLO", 3 if protocol in (3, "3") else 2)
        except redis.ResponseError:
            return  # may not ask
        if is_replica(told):
            raise redis.ReadOnlyError("it is a replica, and only a master will do")

    if sentinels:
        try:
            _pool(client).get_master_address()  # which closes the idle connections where it is another one
        except redis.RedisError:
            pass  # no sentinel answers: the master is what there is
    if not stores:
        carried_out(client, look)
    _pool(client).uws4r_looks_at = now + ROLE_PAUSE


def _pool(client: Any) -> Any:
    # Never in a variable of a function that raises: some versions of redis-py show its password.
    return getattr(client, "connection_pool", None)


def forsake(client: Any) -> None:
    """Close the idle connections of a client's pool, where it has one."""
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, redis.ConnectionPool):
        pool.disconnect(inuse_connections=False)


def _demoted(error: BaseException) -> bool:
    # What comes from a sentinel's master is a ConnectionError that was raised because of it.
    return isinstance(error, redis.ReadOnlyError) or isinstance(error.__context__, redis.ReadOnlyError)


def without_frames(error: BaseException) -> BaseException:
    """
    Return an error of redis-py without its traceback, and so those that it was raised from.

    Django's page of a bug (``DEBUG``) and services that collect errors show the variables of each frame, and redis-py's
    hold the password.
    """
    before: BaseException | None = error
    for _ in range(8):
        if before is None:
            break
        before.__traceback__ = None
        before = before.__cause__ or before.__context__
    return error


def _told(error: Exception, place: str) -> QueueError:
    if isinstance(error, (redis.TimeoutError, TimeoutError)):
        return QueueTimeout(f"Redis ({place}) does not answer in time, and may yet do what it was told: {said(error)}")
    if isinstance(error, redis.ResponseError):
        return QueueRefused(f"Redis ({place}) refuses: {explained(error)}")
    return QueueUnreachable(f"Redis ({place}) {unreachable(error)}")


def unreachable(error: Exception) -> str:
    """Return what follows the word Redis where a connection failed."""
    if code_of(error):
        return f"refuses: {explained(error)}"
    return "; ".join(filter(None, (f"cannot be reached: {explained(error)}", where_runserver_has_it())))


def where_runserver_has_it() -> str:
    """Return how to find the Redis that a ``runserver`` has started for itself and its children; or nothing."""
    if conf.redis_is_embedded:
        return f"the Redis that {EMBEDDED_REDIS} names may have ended with its runserver: use the running one's"
    if conf.WS4REDIS_CONNECTION == {} and settings.DEBUG:
        return f"if runserver has started a Redis of its own, set {EMBEDDED_REDIS} to what it printed"
    return ""
