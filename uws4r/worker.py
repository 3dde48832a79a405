"""What a worker needs whatever its server is: a hub made from the settings, and a look at Redis."""

import resource

from uws4r.attachment import HubOptions
from uws4r.conf import conf
from uws4r.control import Control
from uws4r.hub import Hub
from uws4r.link import open_connection
from uws4r.orders import control_channel
from uws4r.redis_store import link_connection
from uws4r.sessions import ReadSession, SessionChecks


def make_hub(read_session: ReadSession) -> Hub:
    """
    Return a hub with the present settings, which may have as many descriptors as the system allows.

    Args:
        read_session: Reads a client's session.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    hub = Hub(
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
            max_message_rate=conf.UWS4R_MAX_MESSAGE_RATE,
            max_byte_rate=conf.UWS4R_MAX_BYTE_RATE,
            frame_timeout=conf.UWS4R_FRAME_TIMEOUT,
            control=control_channel().encode(),
        ),
    )
    Control(hub, SessionChecks(read_session, conf.UWS4R_SESSION_CHECK, hub))
    return hub


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
