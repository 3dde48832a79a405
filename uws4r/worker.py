"""What a worker needs whatever its server is: a hub made from the settings, and a look at Redis."""

import resource

from uws4r.attachment import HubOptions
from uws4r.conf import conf
from uws4r.hub import Hub
from uws4r.link import open_connection
from uws4r.redis_store import link_connection


def make_hub() -> Hub:
    """Return a hub with the present settings, which may have as many descriptors as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return Hub(
        link_connection,
        HubOptions(
            ping_interval=conf.UWS4R_PING_INTERVAL,
            ping_timeout=conf.UWS4R_PING_TIMEOUT,
            max_message_size=conf.UWS4R_MAX_MESSAGE_SIZE,
            max_queue=conf.UWS4R_MAX_QUEUE,
            compress_over=conf.UWS4R_COMPRESSION or 0,  # None: nobody is offered it
            publish_buffer=conf.UWS4R_PUBLISH_BUFFER,
            heartbeat=conf.WS4REDIS_HEARTBEAT.encode() if conf.WS4REDIS_HEARTBEAT else None,
            threads=conf.UWS4R_THREADS,
        ),
    )


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
    finally:
        connection.disconnect()
