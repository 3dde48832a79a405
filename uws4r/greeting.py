"""
How a connection to Redis begins, behind address, TLS and login: its name is told, and what Redis is is looked at.

The name is for whoever looks at ``CLIENT LIST``. It goes with HELLO, which no ACL forbids and which is there where
``CLIENT`` is not; and where Redis does not want it, it goes without.
"""

from collections.abc import Callable
from typing import Any

import redis
from redis.connection import Connection

from uws4r.errors import RedisUnfit
from uws4r.refusals import ADVICE, code_of

Begin = Callable[[Connection], None]  # redis-py's ``redis_connect_func``


def told(answer: Any) -> dict[str, Any]:
    """Return an answer to HELLO as a dictionary, over either protocol; an empty one for none."""
    if isinstance(answer, list):
        answer = dict(zip(answer[::2], answer[1::2], strict=False))
    if not isinstance(answer, dict):
        return {}

    def text(value: Any) -> Any:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    return {text(key): text(value) for key, value in answer.items()}


def greeting_of(connection: Any) -> dict[str, Any]:
    """Return what Redis has said of itself when the connection was made; an empty dictionary where nobody asked."""
    return told(getattr(connection, "uws4r_greeting", None) or getattr(connection, "handshake_metadata", None))


def is_replica(answer: Any) -> bool:
    """Whether an answer to HELLO comes from a replica."""
    return told(answer).get("role") in ("replica", "slave")


def beginning(given: Begin | None = None, prefix: str | None = None) -> Begin:
    """
    Return what redis-py shall call when a connection is made.

    Args:
        given: What the site has set itself; it comes first.
        prefix: ``WS4REDIS_PREFIX``, where this Redis has to be one that a hub can use; None: any will do.
    """

    def begin(connection: Connection) -> None:
        name, connection.client_name = connection.client_name, None
        try:
            if given is not None:
                given(connection)
            else:
                connection.on_connect()
        except redis.ResponseError as error:
            if prefix is not None and "in cluster mode" in str(error):  # SELECT
                raise RedisUnfit(str(error), *ADVICE["MOVED"]) from None
            raise
        finally:
            connection.client_name = name  # of the next time, too
        if name:
            _greet(connection, str(name))
        if prefix is not None:
            require_names_together(connection, prefix)

    return begin


def _greet(connection: Any, name: str) -> None:
    connection.uws4r_greeting = None  # that of the last time
    protocol = 3 if connection.protocol in (3, "3") else 2
    connection.send_command("HELLO", protocol, "SETNAME", name, check_health=False)
    try:
        connection.uws4r_greeting = connection.read_response()
    except redis.ResponseError:
        pass  # it goes without


def require_names_together(connection: Any, prefix: str) -> None:
    """
    Make sure that all names of a site are on the node that this connection leads to.

    In cluster mode they are where the prefix has a hash tag, such as ``{mysite}``, and the node is the right one.

    Raises:
        RedisUnfit: They are not.
    """
    greeting = greeting_of(connection)
    if greeting.get("mode") != "cluster" or is_replica(greeting):
        return
    tag, end, _ = prefix.partition("{")[2].partition("}")
    if not (tag and end):
        raise RedisUnfit("mode cluster", *ADVICE["MOVED"])
    connection.send_command("MGET", f"{prefix}:broadcast:", check_health=False)
    try:
        connection.read_response()
    except redis.ResponseError as error:
        if code_of(error) == "MOVED":
            means = "this node of the cluster is not the one that has the names of this site"
            raise RedisUnfit(str(error), means, "WS4REDIS_CONNECTION: the node that it names") from None
        if code_of(error) == "CLUSTERDOWN":
            raise
