"""
What is uWSGI's: its options checked, a request's socket detached, the hub stopped with its worker.

Outside uWSGI (tests, ``runserver``) the checks pass, and :func:`detach` says that it cannot.
"""

import logging
import os
from typing import Any

from redis.exceptions import RedisError

from uws4r.errors import ConfigurationError
from uws4r.hub import Hub
from uws4r.link import open_connection
from uws4r.redis_store import link_connection

try:
    import uwsgi
except ImportError:
    uwsgi = None

logger = logging.getLogger("uws4r.uwsgi")

# uWSGI ends TLS, FastCGI and SCGI itself on these: a detached socket would carry raw frames into them.
UNUSABLE_SOCKETS = (
    "https-socket",
    "https-socket-modifier1",
    "ssl-socket",
    "suwsgi-socket",
    "fastcgi-socket",
    "fastcgi-nph-socket",
    "scgi-socket",
    "scgi-nph-socket",
)


# Loops of uWSGI that own the worker's thread, or make threads out of greenlets.
UNSUPPORTED_ENGINES = ("gevent", "async", "asyncio", "tornado", "gevent-monkey-patch")


def _option(name: str) -> Any:
    for key in (name, name.encode()):
        if key in uwsgi.opt:
            return uwsgi.opt[key]
    return None


def check_server() -> None:
    """
    Make sure that websockets can work in this uWSGI and with this Redis.

    Raises:
        ConfigurationError: They cannot; says what to change.
    """
    if uwsgi is None:
        return
    for name in UNSUPPORTED_ENGINES:
        if _option(name) is not None:
            raise ConfigurationError(f"uws4r's hub runs in a thread, which {name} = … would starve: leave it out")
    if not _option("enable-threads") and not _option("threads"):
        raise ConfigurationError("uws4r's hub runs in a thread of its own: set enable-threads = true for this uWSGI")
    for name in UNUSABLE_SOCKETS:
        if _option(name) is not None:
            raise ConfigurationError(
                f"websockets cannot be detached from {name}: serve them on `socket` or `http-socket`, "
                "and end TLS in NGiNX or with uWSGI's router (https = …)"
            )
    connection = link_connection()
    try:
        open_connection(connection)
    except (RedisError, OSError) as error:
        logger.error("Redis cannot be reached now, websockets are answered 503 until it can: %s", error)
    finally:
        connection.disconnect()


def detach(environ: dict[str, Any]) -> int:
    """
    Return a duplicate of the request's socket; it stays open when uWSGI closes its own.

    Raises:
        OSError: The client has gone, or this process is out of descriptors.
    """
    if uwsgi is None:
        raise ConfigurationError("websockets need uWSGI, or manage.py runserver")
    return os.dup(uwsgi.connection_fd())


def stop_with_worker(hub: Hub) -> None:
    """Close the hub's clients with 1012 when this worker stops or reloads, after what the site has set itself."""
    if uwsgi is None:
        return
    before = getattr(uwsgi, "atexit", None)

    def stop() -> None:
        try:
            if before is not None:
                before()
        finally:
            hub.stop()

    uwsgi.atexit = stop
