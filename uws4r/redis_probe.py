"""
Whether a Redis is one that a site can work with: reached, new enough, allowed what hubs and publishers do.

What may be done is tried, not read from an ACL, on channels and keys of the doctor's own; keys last a second.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import redis

from uws4r._pipeline import PUBLISH_SCRIPT
from uws4r.channels import channels_for
from uws4r.conf import conf
from uws4r.diagnosis import FAILED, OK, Finding
from uws4r.errors import ConfigurationError, RedisUnfit
from uws4r.greeting import greeting_of
from uws4r.link import open_connection
from uws4r.orders import control_channel
from uws4r.redis_clients import link_connection, make_client, site_client, where, where_runserver_has_it
from uws4r.refusals import advice, code_of, said
from uws4r.threads import within

CONNECTION = "settings.py: WS4REDIS_CONNECTION"
REDIS_ERRORS = (redis.RedisError, OSError, ConfigurationError)


def of_redis(error: Exception) -> Finding:
    """Return why Redis cannot be used."""
    if isinstance(error, RedisUnfit):
        return Finding(FAILED, error.seen, error.means, error.change)
    seen = said(error)
    if isinstance(error, ConfigurationError):
        return Finding(FAILED, seen, "", CONNECTION)
    if forbidden(error):
        change = f"redis-cli ACL SETUSER {user()} +@connection"
        return Finding(FAILED, seen, "an ACL of Redis forbids what opens a connection", change)
    known = advice(error)
    if known is not None:
        return Finding(FAILED, seen, *known)
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
        change = f"is Redis running (redis-cli ping)? {CONNECTION}: host, port, ssl, unix_socket_path"
        change = "; ".join(filter(None, (change, where_runserver_has_it())))
        return Finding(FAILED, seen, "Redis cannot be reached from this process", change)
    return Finding(FAILED, seen, "Redis refuses", CONNECTION)


def forbidden(error: Exception) -> bool:
    """Whether an ACL of Redis is the reason."""
    return code_of(error) == "NOPERM"


def user() -> str:
    """Return the name that Redis knows this site by."""
    return site_client().connection_pool.connection_kwargs.get("username") or "default"


# ---------------------------------------------------------------- reached, and what it is


def of_server(timeout: float) -> Finding:
    """Connect to Redis as a hub does, and return what it is."""
    try:
        told = within(2 * timeout, lambda: _greet(timeout))
    except REDIS_ERRORS as error:
        finding = of_redis(error)
        return finding._replace(seen=f"{where()}: {finding.seen}")
    name, version, mode, role = (told.get(key, "?") for key in ("server", "version", "mode", "role"))
    seen = f"{name} {version} at {where()}"
    if mode == "sentinel":
        means = "this is a sentinel, which knows where Redis is, and is none"
        return Finding(FAILED, seen, means, f"{CONNECTION}: the master that it names")
    if role in ("replica", "slave"):
        means = "this is a replica: it takes no SET, and what is published there reaches nobody on its master"
        return Finding(FAILED, f"{seen}, a {role}", means, f"{CONNECTION}: the master")
    return Finding(OK, f"{seen}, RESP3")


def _greet(timeout: float) -> dict[str, str]:
    connection = link_connection()
    connection.socket_timeout = connection.socket_connect_timeout = timeout
    try:
        open_connection(connection)
        return {key: str(value) for key, value in greeting_of(connection).items()}
    finally:
        connection.disconnect()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# ---------------------------------------------------------------- what may be done


def of_permissions(facility: str, timeout: float) -> Finding:
    """Do everything once that hubs and publishers do in Redis, with a facility of one's own; name what is forbidden."""
    client = make_client(conf.WS4REDIS_CONNECTION)
    client.connection_pool.connection_kwargs.update(socket_timeout=timeout, socket_connect_timeout=timeout)
    refused: list[tuple[str, str]] = []  # what was tried, and what allows it
    done = []
    try:
        for command, pattern, act in _attempts(client, facility, timeout):
            try:
                act()
            except redis.ResponseError as error:
                if not forbidden(error):
                    finding = of_redis(error)
                    return finding._replace(seen=f"{command}: {finding.seen}")
                refused.append((f"{command} {pattern}".rstrip(), _grant(str(error), command, pattern)))
            else:
                done.append(command)
    except REDIS_ERRORS as error:
        return of_redis(error)
    finally:
        client.close()
    if not refused:
        return Finding(OK, f"{', '.join(dict.fromkeys(done))} are allowed")
    grants = " ".join(dict.fromkeys(grant for _, grant in refused if grant))
    return Finding(
        FAILED,
        f"forbidden to the user {user()!r}: {', '.join(tried for tried, _ in refused)}",
        "an ACL of Redis: workers with this user would close websockets with 1011, or not hear of logouts",
        f"redis-cli ACL SETUSER {user()} {grants}",
    )


def _attempts(client: redis.Redis, facility: str, timeout: float) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield command, names that it is about, and what tries it."""
    prefix = conf.WS4REDIS_PREFIX
    own = [facility]
    channels = channels_for(facility, prefix=prefix, broadcast=True, users=own, groups=own, sessions=own)
    patterns = {}
    for channel in channels:
        audience = channel.name.decode().removeprefix(f"{prefix}:" if prefix else "").partition(":")[0]
        patterns[channel.name] = f"{prefix}:*" if prefix else f"{audience}:*"
    control = control_channel()
    for name in (*patterns, control.encode(), f"{control}:{facility}".encode()):
        yield "SUBSCRIBE", patterns.get(name, f"{control}*"), partial(_subscribe, client, name, timeout)
    for name, pattern in patterns.items():
        yield "PUBLISH", pattern, partial(client.publish, name, b"")
        yield "SET", pattern, partial(client.set, name, b"", ex=1)
        yield "MGET", pattern, partial(client.mget, [name])
        yield "EVAL", pattern, partial(client.eval, PUBLISH_SCRIPT.decode(), 1, name, b"", 1)
    yield "MULTI", "", partial(_together, client, "MULTI")
    yield "EXEC", "", partial(_together, client, "MULTI", "EXEC")


def _together(client: redis.Redis, *commands: str) -> None:
    # A pipeline of redis-py would tell of EXEC without MULTI where MULTI is what is forbidden.
    with client.client() as single:
        for command in commands:
            single.execute_command(command)
        single.connection.disconnect()  # nobody else shall find a transaction that has begun


def _subscribe(client: redis.Redis, name: bytes, timeout: float) -> None:
    with client.pubsub() as listener:
        listener.subscribe(name)
        if listener.get_message(timeout=timeout) is None:
            raise redis.TimeoutError("no answer to SUBSCRIBE")
        listener.unsubscribe(name)
        listener.get_message(timeout=timeout)


def _grant(said: str, command: str, pattern: str) -> str:
    """Return the rule of an ACL that allows what was refused."""
    if "channel" in said:
        return f"&{pattern}"
    if "key" in said:
        return f"~{pattern}"
    if "executing the script" in said:  # a command in it, which has been tried by itself
        return ""
    return f"+{command.lower()}" + (" +unsubscribe" if command == "SUBSCRIBE" else "")


def other_prefixes(ending: str, timeout: float) -> list[str]:
    """Return the prefixes of the channels that somebody listens to, by how their names end; none where it is secret."""
    client = make_client(conf.WS4REDIS_CONNECTION)
    client.connection_pool.connection_kwargs.update(socket_timeout=timeout, socket_connect_timeout=timeout)
    try:
        names: list[Any] = client.pubsub_channels(f"*{ending}")
    except REDIS_ERRORS:
        return []
    finally:
        client.close()
    texts = (_text(name) for name in names)
    return sorted({text.removesuffix(ending).rstrip(":") for text in texts if text.endswith(ending)})
