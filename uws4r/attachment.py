"""What a hub is told: once, when its worker makes it, and by each handshake about its connection."""

from dataclasses import dataclass, field

from uws4r._fanout import Channel


@dataclass(frozen=True)
class HubOptions:
    """What a hub is told once, when its worker makes it."""

    ping_interval: float = 25.0  # seconds of a client's silence before it is pinged; 0 for never
    ping_timeout: float = 20.0  # seconds that it then has to send anything
    max_message_size: int = 1 << 20  # bytes of one message of a client
    max_queue: int = 1 << 20  # bytes that may wait for a client; beyond it the client is slow (1013)
    publish_buffer: int = 1000  # messages of clients that wait while Redis is away
    heartbeat: bytes | None = None  # a message of a client that stands for none


@dataclass(slots=True)
class Attachment:
    """What a handshake has found out about a connection, for the hub to carry out."""

    fd: int  # a duplicate of the request's socket; from :meth:`Hub.attach` on the hub's
    identity: str  # who it is, for the log
    subscribe: tuple[tuple[bytes, object], ...] = ()  # (channel name, facility)
    publish: tuple[bytes, ...] = ()  # names of the channels that the client's messages go to
    expire: int = 0  # seconds for which they are also stored
    echo: bool = False
    changes: bool = False
    greeting: tuple[tuple[int, bytes], ...] = ()  # (opcode, payload), sent before anything else
    fetch: bool = True  # send the persisted values
    channels: list[Channel] = field(default_factory=list)  # the hub's, of ``subscribe``
    asked: int = 0  # number of the fetch whose reply makes the connection join
