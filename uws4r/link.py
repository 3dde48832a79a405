"""
The hub's one connection to Redis: subscribing, publishing and reading, pipelined over RESP3.

A :class:`Link` turns calls into commands and bytes into pushes and replies. It does no waiting and no
reading or writing of its own, except on TLS; the hub's loop moves the bytes. It knows redis-py, which
makes the connection (address, AUTH, TLS), and hiredis, which parses; websockets are unknown to it.
"""

import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

import hiredis
from redis.connection import Connection as RedisConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from uws4r.errors import ConfigurationError, LinkError

logger = logging.getLogger("uws4r.link")


# Stores and publishes one message on several channels as one event: the pushes are neighbours on every link. Not
# MULTI: Redis before 7.2 puts the pushes of a connection that listens to what it publishes inside the array that
# EXEC answers. Where Redis does not store (out of memory, its disk is full) it still publishes, and the reply says
# why it has not stored; but for a replica, where a publish reaches only those who are there.
#
# Sent as EVAL, not by its digest: half a microsecond more for Redis, and no answer NOSCRIPT, after
# which a message would be published behind later ones.
PUBLISH_SCRIPT = (
    "local why for _,name in ipairs(KEYS) do if ARGV[2]~='0' then "
    "local said=redis.pcall('SET',name,ARGV[1],'EX',ARGV[2]) if said.err then "
    "if string.find(said.err,'READONLY',1,true) then return said end why=said.err end end "
    "redis.call('PUBLISH',name,ARGV[1]) end return why"
)

# Errors that say "not now": nothing was done, and the same command is done later on.
PASSING = frozenset({"BUSY", "LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"})

# What may be on its way before the hub holds back further publishes.
OUTPUT_LIMIT = 4 << 20  # bytes not yet written
IN_FLIGHT_LIMIT = 1000  # commands not yet answered
# hiredis moves all that it has to the front after each KiB it has parsed: a megabyte at once takes it 300 ms.
FEED_SIZE = 1 << 14
READ_SIZE = 1 << 16  # bytes, of one read over TLS

pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command  # its stub is too narrow

Answer = Callable[[Any, Any], None]  # called with the context given and the reply, which may be an exception


def passes(error: object) -> bool:
    """Whether a reply says that Redis has not done it now, and will later."""
    return isinstance(error, hiredis.ReplyError) and str(error).partition(" ")[0] in PASSING


def is_replica(greeting: Any) -> bool:
    """Whether an answer to HELLO comes from a replica."""
    told = greeting if isinstance(greeting, dict) else {}
    return told.get(b"role", told.get("role")) in (b"replica", b"slave", "replica", "slave")


class Awaited:
    """A command on its way: what to do with its reply, and where its bytes end in the output."""

    __slots__ = ("answer", "context", "end")

    def __init__(self, end: int, answer: Answer, context: Any) -> None:
        self.end = end  # bytes written to the link before it and with it
        self.answer = answer
        self.context = context


def open_connection(connection: RedisConnection) -> None:
    """
    Connect, and make sure that the server speaks RESP3.

    Raises:
        ConfigurationError: Redis is too old, or refuses us in a way that trying again will not cure.
        redis.RedisError, OSError: It cannot be reached now.
    """
    try:
        connection.connect()
    except BaseException as error:
        connection.disconnect()
        if isinstance(error, ResponseError) and ("HELLO" in str(error) or "NOPROTO" in str(error)):
            raise ConfigurationError(f"uws4r needs Redis 6 or newer (RESP3): {error}") from error
        raise


def require_master(connection: RedisConnection) -> None:
    """
    Make sure that an open connection is to a master; else close it.

    Raises:
        redis.ConnectionError: It is to a replica: what is published there reaches only who listens there.
    """
    if is_replica(getattr(connection, "handshake_metadata", None)):
        connection.disconnect()
        raise RedisConnectionError("it is a replica, and only a master will do")


class Link:
    """
    Args:
        connection: Connected by :func:`open_connection`.
        on_push: Called with channel name and payload of each message, in order.
        on_reply: Called before each reply is handled: what was pushed before it came before it.
    """

    def __init__(
        self,
        connection: RedisConnection,
        on_push: Callable[[bytes, bytes], None],
        on_reply: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._on_push = on_push
        self._on_reply = on_reply
        self._unfed: deque[bytes] = deque()  # pieces that the reader shall have next
        self._nothing = object()  # False, hiredis's own sign for it, is also a RESP3 value
        self._reader = hiredis.Reader(notEnoughData=self._nothing)
        self._awaited: deque[Awaited] = deque()
        self._output: list[bytes] = []
        self._rest = b""  # taken from the output, not yet written as a whole
        self._rest_sent = 0
        self._queued = 0  # bytes that commands have made, ever
        self._written = 0  # of those, handed to the kernel
        # redis-py has no public way to its socket; this is the only place that touches it.
        self._socket: Any = cast(Any, connection)._sock
        self._socket.setblocking(False)
        self.heard = False  # something came since the hub last looked
        self.ended = False  # over TLS: Redis has closed the connection
        self.raw: bool = not isinstance(self._socket, ssl.SSLSocket)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def in_flight(self) -> int:
        """Commands that Redis has not answered."""
        return len(self._awaited)

    @property
    def accepts(self) -> bool:
        """Whether a publish may be sent now; else it has to wait for its place."""
        return len(self._awaited) < IN_FLIGHT_LIMIT and self._queued - self._written < OUTPUT_LIMIT

    # ------------------------------------------------------------ commands

    def _send(self, command: bytes, answer: Answer, context: Any) -> None:
        self._queued += len(command)
        self._awaited.append(Awaited(self._queued, answer, context))
        self._output.append(command)

    def subscribe(self, name: bytes, answer: Answer, context: Any = None) -> None:
        """SUBSCRIBE to a channel; ``answer`` gets None or the error."""
        self._send(pack((b"SUBSCRIBE", name)), answer, context)

    def unsubscribe(self, name: bytes, answer: Answer, context: Any = None) -> None:
        """UNSUBSCRIBE from a channel; ``answer`` gets None or the error."""
        self._send(pack((b"UNSUBSCRIBE", name)), answer, context)

    def fetch(self, names: Iterable[bytes], answer: Answer, context: Any = None) -> None:
        """Read the persisted values of channels; ``answer`` gets a list, with None where there is none."""
        self._send(pack((b"MGET", *names)), answer, context)

    def publish(self, names: tuple[bytes, ...], data: bytes, expire: int, answer: Answer, context: Any = None) -> None:
        """
        Publish on channels and, with ``expire`` > 0 seconds, store there.

        ``answer`` gets the error, or the reply: bytes say why Redis has published and not stored.
        """
        if expire <= 0 and len(names) == 1:
            self._send(pack((b"PUBLISH", names[0], data)), answer, context)
            return
        command = (b"EVAL", PUBLISH_SCRIPT, len(names), *names, data, max(expire, 0))
        self._send(pack(command), answer, context)

    def greet(self, answer: Answer, context: Any = None) -> None:
        """
        HELLO; ``answer`` gets what Redis is: see :func:`is_replica`.

        Not PING: an ACL may forbid that, and a Redis that is busy or whose disk is full refuses it.
        """
        self._send(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", answer, context)

    # ------------------------------------------------------------ input

    def feed(self, data: bytes) -> None:
        """Take bytes that the hub has read."""
        self.heard = True
        if len(data) <= FEED_SIZE and not self._unfed:
            self._reader.feed(data)
        else:
            self._unfed.extend(data[at : at + FEED_SIZE] for at in range(0, len(data), FEED_SIZE))

    def read(self) -> None:
        """
        Read what is there over TLS, which only the link can; :attr:`ended` says that it was the last.

        Raises:
            OSError: The connection is broken.
        """
        while True:
            try:
                data = self._socket.recv(READ_SIZE)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if not data:
                self.ended = True
                return
            self.feed(data)

    def dispatch(self, limit: int) -> bool:
        """
        Handle at most ``limit`` pushes and replies; return whether there may be more.

        Raises:
            LinkError: Redis sent something that is not RESP3, or that nobody asked for.
        """
        gets = self._reader.gets
        nothing = self._nothing
        on_push = self._on_push
        for _ in range(limit):
            try:
                item = gets()
            except Exception as error:  # also a TypeError, for a map with arrays as keys, or a MemoryError
                raise LinkError(f"not RESP3: {error}") from error
            if type(item) is hiredis.PushNotification:
                kind = item[0] if item else None
                if kind == b"message":
                    if len(item) != 3 or type(item[1]) is not bytes or type(item[2]) is not bytes:
                        raise LinkError(f"a message without name and payload: {item!r:.100}")
                    on_push(item[1], item[2])
                elif kind in (b"subscribe", b"unsubscribe"):
                    self._answer(None)
            elif item is nothing:
                if not self._unfed:
                    return False
                self._reader.feed(self._unfed.popleft())
            else:
                self._answer(item)
        return True

    def _answer(self, reply: Any) -> None:
        if not self._awaited:
            raise LinkError(f"a reply without a command: {reply!r:.100}")
        awaited = self._awaited.popleft()
        self._on_reply()
        awaited.answer(awaited.context, reply)

    # ------------------------------------------------------------ output

    def output(self) -> tuple[bytes, int]:
        """Return ``(bytes, offset)``: from the offset on, the bytes are to be written."""
        if self._rest_sent == len(self._rest):
            self._rest = b"".join(self._output)
            self._rest_sent = 0
            self._output.clear()
        return self._rest, self._rest_sent

    def wrote(self, size: int) -> None:
        """So many of the bytes of :meth:`output` are out."""
        self._rest_sent += size
        self._written += size
        if self._rest_sent == len(self._rest):
            self._rest = b""
            self._rest_sent = 0

    @property
    def has_output(self) -> bool:
        """Whether bytes wait to be written."""
        return self._written < self._queued

    def write(self) -> None:
        """
        Write what waits over TLS, which only the link can.

        Raises:
            OSError: The connection is broken.
        """
        while self.has_output:
            data, offset = self.output()
            try:
                self.wrote(self._socket.send(memoryview(data)[offset:]))
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return

    # ------------------------------------------------------------ the end

    def close(self, reason: str) -> None:
        """Close the connection and answer everything in flight with a :class:`~uws4r.errors.LinkError`."""
        self._socket = None
        self._connection.disconnect()
        awaited, self._awaited = self._awaited, deque()
        for entry in awaited:
            # Redis cannot have done what was not written as a whole.
            entry.answer(entry.context, LinkError(reason, unsent=entry.end > self._written))

    def abandon(self) -> None:
        """In a forked child: let go of the descriptor without a word to the server."""
        self._connection._sock = None  # redis-py would shut it down, and the parent goes on using it
        if self._socket is not None:
            self._socket.close()
        self._socket = None
