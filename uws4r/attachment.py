"""What a hub is told: once, when its worker makes it, and by each handshake about its connection."""

import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote

from uws4r._channel import Channel
from uws4r._connection import Connection
from uws4r.rfc6455 import LOGGED_OUT, RENEWED, CloseCode


@dataclass(frozen=True)
class HubOptions:
    """What a hub is told once, when its worker makes it."""

    ping_interval: float = 25.0  # seconds of a client's silence before it is pinged; 0 for never
    ping_timeout: float = 20.0  # seconds that it then has to send anything
    max_message_size: int = 1 << 20  # bytes of one message of a client
    max_message_rate: float = 0  # messages of a client in a second, on the average; 0 for any number
    max_byte_rate: float = 0  # bytes of a client in a second, on the average; 0 for any number
    frame_timeout: float = 60.0  # seconds for a frame to become whole; 0 for any time
    message_timeout: float = 60.0  # the same for a message, over all its fragments
    receive_buffer: int = 64 << 20  # bytes of all clients' messages that are not yet whole
    max_queue: int = 1 << 20  # bytes that may wait for a client; beyond it the client is slow (1013)
    compress_over: int = 512  # bytes; a longer message is compressed for clients that agreed on it
    publish_buffer: int = 1000  # messages of clients that wait while Redis is away
    publish_buffer_size: int = 16 << 20  # bytes of messages that wait for Redis
    heartbeat: bytes | None = None  # sent to every client, and no message when one sends it
    threads: int = 64  # for what may block: overridden methods of subscribers, reading sessions
    thread_ends: Callable[[], None] = lambda: None  # called by each of them at its end
    control: bytes | None = None  # the name of the channel of orders for workers


# What quote() would leave as it is, which is nearly everything, and what it takes a microsecond and more to find out.
PLAIN_ADDRESS = re.compile(r"[\w.~:-]*", re.ASCII).fullmatch
PLAIN_USER = re.compile(r"[\w.~@+-]*", re.ASCII).fullmatch
PLAIN_PATH = re.compile(r"[\w.~/:@!$&'()*+,;=-]*", re.ASCII).fullmatch


class Over(NamedTuple):
    """That a login does not hold any more, and what its websocket is closed with."""

    code: int
    reason: str


ENDED = Over(LOGGED_OUT, "the login has ended")
TOLD = Over(LOGGED_OUT, "logged out")  # the site has said so
# The browser may have another session by now. Whoever has only the key of the one before comes back as nobody.
GONE = Over(RENEWED, "the session is not there any more")
CHANGED = Over(RENEWED, "the session has another user")

# Stands in front of the key of a login that the site has made itself: Django's rules do not tell whether it holds.
OWN = "\0"

NOBODY = "-"  # the user of a client that has none, or none that is known
NO_ADDRESS = "unix"  # the address of a client that came over a Unix socket


class Identity(NamedTuple):
    """Who a client is. Each part is quoted: it contains no space, and two values never become one."""

    address: str  # or NO_ADDRESS
    user: str  # or NOBODY, which is no user's name
    path: str

    @classmethod
    def of(cls, address: str, user: str | None, path: str) -> "Identity":
        """
        Quote the parts, so that nothing a client has sent reaches a log as it came.

        Args:
            user: A user's name, whatever the site allows as one; None for nobody.
        """
        if not PLAIN_ADDRESS(address):
            address = quote(address, safe=":", errors="surrogatepass")
        return cls(address, NOBODY if user is None else quoted_user(user), quoted_path(path))

    @classmethod
    def parsed(cls, text: str) -> "Identity":
        """Return what :meth:`__str__` has made a text of; connections keep it as one, which is smaller."""
        address, _, rest = text.partition(" ")
        user, _, path = rest.partition(" ")
        return cls(address, user, path)

    def __str__(self) -> str:
        return f"{self.address} {self.user} {self.path}"


def quoted_user(name: str) -> str:
    """Return a user's name as :class:`Identity` has it: for each name another text, and never :data:`NOBODY`."""
    if name == NOBODY or not PLAIN_USER(name):
        return "%2D" if name == NOBODY else quote(name, safe="@+", errors="surrogatepass")
    return name or "%"  # which quote() never returns


def unquoted_user(name: str) -> str | None:
    """Return what :func:`quoted_user` was given; None for :data:`NOBODY`."""
    if name == NOBODY:
        return None
    return "" if name == "%" else unquote(name, errors="surrogatepass")


def quoted_path(path: str) -> str:
    """Return a path as :class:`Identity` has it."""
    return path if PLAIN_PATH(path) else quote(path, safe="/:@!$&'()*+,;=~", errors="surrogatepass")


class Overrides(Protocol):
    """What a subscriber class does itself for its connection. The hub calls; nothing here may block."""

    takes_pushes: bool  # pushed() decides what the client gets
    takes_messages: bool  # received() decides what is published

    def opened(self, hub: Any, connection: Connection) -> None:
        """The connection is open; ``hub`` takes what is decided, in its own thread (``call_soon``)."""

    def joined(self, channels: list[bytes]) -> None:
        """The connection listens to these channels from now on."""

    def pushed(self, channel: bytes, payload: bytes, text: bool, withheld: bool) -> bool:
        """
        A message came for the connection; return False where too many wait already.

        Args:
            withheld: By the rules on duplicates the client would not get it.
        """

    def received(self, payload: bytes, text: bool) -> bool:
        """The client has sent a message; return True to receive no more until ``hub.caught_up``."""

    def left(self, under: tuple[bytes, ...]) -> None:
        """The connection may no longer publish on channels whose names begin with one of ``under``."""

    def closed(self, code: int, reason: str) -> None:
        """The connection is closed, with this code and reason of whoever closed it first; the last call."""


@dataclass(slots=True)
class Attachment:
    """What a handshake has found out about a connection, for the hub to carry out."""

    fd: int  # a duplicate of the request's socket; from :meth:`Hub.attach` on the hub's
    identity: str  # who it is, as :class:`Identity` writes it
    subscribe: tuple[tuple[bytes, object], ...] = ()  # (channel name, facility)
    publish: tuple[bytes, ...] = ()  # names of the channels that the client's messages go to
    expire: int = 0  # seconds for which they are also stored
    echo: bool = False
    changes: bool = False
    window: int = 0  # bits, 9 or 15, where the handshake agreed on compressing messages (RFC 7692)
    greeting: tuple[tuple[int, bytes], ...] = ()  # (opcode, payload), sent before anything else
    fetch: bool = True  # send the persisted values
    session: str | None = None  # the key of the client's session, or OWN and that of a login of the site's
    expires: int = 0  # seconds of the epoch: when it ends; 0 where nobody has looked at it
    overrides: Overrides | None = None
    left: Callable[[], None] | None = None  # called when the connection is closed, or never came to be
    channels: list[Channel] = field(default_factory=list)  # the hub's, of ``subscribe``
    began: float = field(default_factory=time.monotonic)  # the handshake, before it looked at who the client is
    asked: int = 0  # number of the question whose answer makes the connection join
    in_vain: int = 0  # links that were lost while its channels' last messages were read
    alone: bool = False  # those are read for it alone: together with others' they were too much, or refused

    def abandon(self, goodbye: bytes = b"") -> None:
        """
        Close what no hub will take.

        Args:
            goodbye: A frame for the client, whose 101 is out; as far as the socket takes it at once.
        """
        if self.fd >= 0:
            with suppress(OSError), socket.socket(fileno=self.fd) as client:
                client.send(goodbye, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self.overrides is not None:
            self.overrides.closed(CloseCode.ABNORMAL, "")
        if self.left is not None:
            self.left()
