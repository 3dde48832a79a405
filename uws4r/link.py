"""
The hub's one connection to Redis: subscribing, publishing and reading.

A :class:`Link` is a pipeline of commands with a connection. It does no waiting and no reading or writing of its own,
except on TLS; the hub's loop moves the bytes. It knows redis-py, which makes the connection (address, AUTH, TLS);
websockets are unknown to it.
"""

import logging
import ssl
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.connection import Connection as RedisConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from uws4r._pipeline import Pipeline
from uws4r.errors import RedisUnfit
from uws4r.greeting import greeting_of, is_replica
from uws4r.refusals import ADVICE, code_of, said

logger = logging.getLogger("uws4r.link")


# Errors that say "not now": nothing was done, and the same command is done later on.
PASSING = frozenset({"BUSY", "LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"})

READ_SIZE = 1 << 16  # bytes, of one read over TLS
SHARE = 1 << 20  # bytes that one turn reads over TLS: Redis may send as fast as they are read, without an end
# Bytes of one write: a record of TLS. Of several some may be out when the socket says that it is full: nobody knows.
RECORD_SIZE = 1 << 14

Answer = Callable[[Any, Any], None]  # called with the context given and the reply, which may be an exception


def passes(error: object) -> bool:
    """Whether a reply says that Redis has not done it now, and will later."""
    return isinstance(error, hiredis.ReplyError) and str(error).partition(" ")[0] in PASSING


def open_connection(connection: RedisConnection) -> None:
    """
    Connect, and make sure that the server speaks RESP3.

    Raises:
        RedisUnfit: Redis is too old, or refuses us in a way that trying again will not cure.
        redis.RedisError, OSError: It cannot be reached now.
    """
    try:
        connection.connect()
    except BaseException as error:
        connection.disconnect()
        if isinstance(error, ResponseError) and code_of(error) == "NOPROTO":
            raise RedisUnfit(said(error), *ADVICE["NOPROTO"]) from None
        raise


def require_master(connection: RedisConnection) -> None:
    """
    Make sure that an open connection is to a master; else close it.

    Raises:
        redis.ConnectionError: It is to a replica: what is published there reaches only who listens there.
    """
    if is_replica(greeting_of(connection)):
        connection.disconnect()
        raise RedisConnectionError("it is a replica, and only a master will do")


class Link(Pipeline):
    """
    Args:
        connection: Connected by :func:`open_connection`.
        on_push, on_reply: See :class:`~uws4r._pipeline.Pipeline`.
    """

    def __init__(
        self,
        connection: RedisConnection,
        on_push: Callable[[bytes, bytes], None],
        on_reply: Callable[[], None],
    ) -> None:
        super().__init__(on_push, on_reply)
        self._connection = connection
        # redis-py has no public way to its socket; this is the only place that touches it.
        self._socket: Any = cast(Any, connection)._sock
        self._socket.setblocking(False)
        self._blocked = 0  # bytes of a write that TLS has begun, and wants to be given again just so
        self.ended = False  # over TLS: Redis has closed the connection
        self.unread = False  # over TLS: there is more, and the descriptor may not tell of it
        self.raw: bool = not isinstance(self._socket, ssl.SSLSocket)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    # ------------------------------------------------------------ commands

    def subscribe(self, name: bytes, answer: Answer, context: Any = None) -> None:
        """SUBSCRIBE to a channel; ``answer`` gets None or the error."""
        self.send((b"SUBSCRIBE", name), answer, context)

    def unsubscribe(self, name: bytes, answer: Answer, context: Any = None) -> None:
        """UNSUBSCRIBE from a channel; ``answer`` gets None or the error."""
        self.send((b"UNSUBSCRIBE", name), answer, context)

    def greet(self, answer: Answer, context: Any = None) -> None:
        """
        HELLO; ``answer`` gets what Redis is: see :func:`is_replica`.

        Not PING: an ACL may forbid that, and a Redis that is busy or whose disk is full refuses it.
        """
        self.send((b"HELLO", b"3"), answer, context)

    # ------------------------------------------------------------ TLS, where the hub's loop cannot move the bytes

    def read(self) -> None:
        """
        Read what is there, as much as one turn takes; :attr:`ended` says that it was the last.

        Raises:
            OSError: The connection is broken.
        """
        taken = 0
        while taken < SHARE and not self.full:
            try:
                data = self._socket.recv(READ_SIZE)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not data:
                self.ended = True
                break
            self.feed(data)
            taken += len(data)
        self.unread = self._socket.pending() > 0  # decrypted already

    def write(self) -> None:
        """
        Write what waits.

        Raises:
            OSError: The connection is broken.
        """
        while self.has_output:
            data = self.waiting(self._blocked or RECORD_SIZE)
            try:
                size = self._socket.send(data)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                size = 0
            if not size:  # gevent's sockets say so themselves
                self._blocked = len(data)
                return
            self.wrote(size)
            self._blocked = 0

    # ------------------------------------------------------------ the end

    def close(self, reason: str) -> None:
        """Close the connection and answer everything in flight with a :class:`~uws4r.errors.LinkError`."""
        self._socket = None
        self._connection.disconnect()
        self.fail(reason)

    def abandon(self) -> None:
        """In a forked child: let go of the descriptor without a word to the server, and of what was asked."""
        self.forget()
        self._connection._sock = None  # redis-py would shut it down, and the parent goes on using it
        if self._socket is not None:
            self._socket.close()
        self._socket = None
