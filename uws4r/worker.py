"""What a worker needs whatever its server is: a hub made from the settings, and a look at Redis."""

import os
import resource
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from uws4r import __version__
from uws4r.attachment import HubOptions
from uws4r.conf import conf
from uws4r.control import Control
from uws4r.hub import Hub
from uws4r.keeping import Keeping
from uws4r.link import open_connection, require_master
from uws4r.orders import control_channel
from uws4r.redis_clients import link_connection, site_client
from uws4r.sessions import ReadSession, SessionChecks


def make_hub(
    read_session: ReadSession, thread_ends: Callable[[], None], server: Mapping[str, Any], raise_limit: bool = True
) -> Hub:
    """
    Return a hub with the present settings.

    Args:
        read_session: Reads a client's session, on one of the hub's threads.
        thread_ends: Called by each of these at its end.
        server: What to say of this worker's server when its status is asked for; JSON can say it.
        raise_limit: This process may have as many descriptors as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if raise_limit and soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    hub = Hub(
        link_connection,
        HubOptions(
            ping_interval=conf.UWS4R_PING_INTERVAL,
            ping_timeout=conf.UWS4R_PING_TIMEOUT,
            max_message_size=conf.UWS4R_MAX_MESSAGE_SIZE,
            max_queue=conf.UWS4R_MAX_QUEUE,
            compress_over=conf.UWS4R_COMPRESSION or 0,  # None: nobody is offered it
            publish_buffer=conf.UWS4R_PUBLISH_BUFFER,
            publish_buffer_size=conf.UWS4R_PUBLISH_BUFFER_SIZE,
            heartbeat=conf.WS4REDIS_HEARTBEAT.encode() if conf.WS4REDIS_HEARTBEAT else None,
            threads=conf.UWS4R_THREADS,
            thread_ends=thread_ends,
            max_message_rate=conf.UWS4R_MAX_MESSAGE_RATE,
            max_byte_rate=conf.UWS4R_MAX_BYTE_RATE,
            frame_timeout=conf.UWS4R_FRAME_TIMEOUT,
            message_timeout=conf.UWS4R_MESSAGE_TIMEOUT,
            receive_buffer=conf.UWS4R_RECEIVE_BUFFER,
            control=control_channel().encode(),
        ),
        keeping(),
    )
    about = {"uws4r": __version__, "descriptors": soft, "settings": told_settings(), "server": dict(server)}
    Control(hub, SessionChecks(read_session, conf.UWS4R_SESSION_CHECK, hub), about)
    return hub


def keeping() -> Keeping | None:
    """Return this process's budget for what clients keep in Redis; None where no rate is limited."""
    rates = conf.UWS4R_KEEP_RATE, conf.UWS4R_KEEP_RATE_PER_IP, conf.UWS4R_KEEP_RATE_PER_WORKER
    return _keeping(os.getpid(), *rates, conf.UWS4R_MAX_MESSAGE_SIZE) if any(rates) else None


@lru_cache(maxsize=1)
def _keeping(pid: int, client: float, address: float, worker: float, message_size: int) -> Keeping:
    # It outlives its hub: in native mode a hub ends with its last client, who would come back to a new budget.
    return Keeping(client, address, worker, message_size)


def told_settings() -> dict[str, Any]:
    """Return the settings in which a worker and whoever asks for its status have to agree; none is a secret."""
    return {
        "WEBSOCKET_URL": conf.WEBSOCKET_URL,
        "UWS4R_PING_INTERVAL": conf.UWS4R_PING_INTERVAL,
        "UWS4R_MAX_CONNECTIONS": conf.UWS4R_MAX_CONNECTIONS,
        # Pub/sub does not know databases: messages arrive from another one, and the last one is not found there.
        "database": site_client().connection_pool.connection_kwargs.get("db") or 0,
    }


def reach_redis() -> None:
    """
    Connect to Redis as a hub does, and leave.

    Raises:
        ConfigurationError: It is none that a hub can use, or the setting is wrong.
        redis.RedisError, OSError: It cannot be reached now.
    """
    connection = link_connection()
    try:
        open_connection(connection)
        require_master(connection)
    finally:
        connection.disconnect()
