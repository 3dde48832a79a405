"""
What clients publish, on its way to Redis or waiting for it.

An :class:`Outbox` keeps the messages in order while the link is away or busy, notes which copies of its own
messages a connection is going to see, and finds out what became of each message.
"""

import logging
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from uws4r._connection import Connection
from uws4r._fanout import Fanout
from uws4r._frames import wrap
from uws4r._hub import Loop
from uws4r.errors import LinkError
from uws4r.link import Link

logger = logging.getLogger("uws4r.hub")

PAUSED_BY_LINK = 1  # a reason of Loop.pause


class Outgoing(NamedTuple):
    """A message of a client for Redis."""

    connection: Connection
    payload: bytes
    text: bool
    names: tuple[bytes, ...]  # of the channels to publish it on
    expire: int  # seconds for which it is also stored; 0 for not at all
    own: bool = True  # the connection shall not get it back, unless it asked for echo


class Outbox:
    """
    Args:
        room: Messages that may wait while Redis is away.
        attempt: Calls a function with a connection and more arguments, so that an error in it ends the connection.
    """

    def __init__(self, loop: Loop, fanout: Fanout, room: int, attempt: Callable[..., None]) -> None:
        self.link: Link | None = None  # None while Redis is away
        self.lost = 0  # messages that Redis refused, or that a broken link may have swallowed
        self._loop = loop
        self._fanout = fanout
        self._room = room
        self._attempt = attempt
        self._numbers = count(1)
        self._waiting: deque[Outgoing] = deque()
        self._paused: set[Connection] = set()  # clients whose messages have to wait
        self._returned: list[Outgoing] = []  # what a broken link has not sent
        self._settling: tuple[Connection, int] | None = None  # own copies die with the next reply

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, outgoing: Outgoing) -> bool:
        """Publish a message, now or in its turn; return False where Redis is away and no more can wait."""
        if self.link is None:
            if len(self._waiting) >= self._room:
                logger.warning("%s: Redis is away and %d messages wait", outgoing.connection, len(self._waiting))
                return False
            self._waiting.append(outgoing)
        elif self._waiting or not self.link.accepts:
            # Faster than Redis: what one turn has received waits, and the client may not send more.
            self._waiting.append(outgoing)
            self._loop.pause(outgoing.connection, PAUSED_BY_LINK)
            self._paused.add(outgoing.connection)
        else:
            self._publish(outgoing)
        return True

    def send_waiting(self) -> None:
        """Publish what has waited, as far as the link takes it."""
        while self._waiting and self.link is not None and self.link.accepts:
            outgoing = self._waiting.popleft()
            self._attempt(lambda _, message: self._publish(message), outgoing.connection, outgoing)
        if not self._waiting:
            self._resume()

    def settle(self) -> None:
        """A reply has come, or none can come any more: copies expected from before the last one will not."""
        if self._settling is not None:
            connection, number = self._settling
            self._settling = None
            self._fanout.forget(connection, number)

    def link_lost(self, close: Callable[[], None]) -> None:
        """
        Keep what the link has not sent.

        Args:
            close: Closes the link, which answers everything in flight.
        """
        self.link = None
        self.settle()
        lost = self.lost
        close()
        if self.lost > lost:
            logger.warning("%d messages of clients may be lost with the link", self.lost - lost)
        self._waiting.extendleft(reversed(self._returned))
        self._returned.clear()
        self._resume()

    def _resume(self) -> None:
        while self._paused:
            self._loop.resume(self._paused.pop(), PAUSED_BY_LINK)

    def _publish(self, outgoing: Outgoing) -> None:
        number = next(self._numbers)
        connection = outgoing.connection
        if outgoing.own and not connection.echo and connection.is_open:
            self._expect(outgoing, number)
        self.link.publish(  # type: ignore[union-attr]
            outgoing.names,
            wrap(outgoing.payload, not outgoing.text),
            outgoing.expire,
            self._published,
            (outgoing, number),
        )

    def _expect(self, outgoing: Outgoing, number: int) -> None:
        connection, fanout = outgoing.connection, self._fanout
        # A connection that still waits for its fetch will have joined before this publish is pushed.
        wanted = connection.attachment.channels if connection.attachment is not None else None
        channels = [
            channel
            for name in outgoing.names
            if (channel := fanout.channels.get(name)) is not None
            and (channel in wanted if wanted is not None else fanout.listens(connection, channel))
        ]
        if channels:
            fanout.expect(connection, channels, outgoing.payload, outgoing.text, number)

    def _published(self, context: tuple[Outgoing, int], reply: Any) -> None:
        outgoing, number = context
        if not isinstance(reply, Exception):
            # The own copy came before the reply or comes right after it.
            self._settling = outgoing.connection, number
            return
        self._fanout.forget(outgoing.connection, number)
        if not isinstance(reply, LinkError):
            self.lost += 1
            log_refusal(f"a message of {outgoing.connection}", reply)
        elif reply.unsent:
            self._returned.append(outgoing)
        else:
            # Sent, and no answer: Redis may have published it, and to repeat it could double it.
            self.lost += 1


def log_refusal(what: str, error: Exception) -> None:
    """Log that Redis does not do ``what``."""
    hint = " (the ACL of uws4r's Redis user has to allow it)" if str(error).startswith("NOPERM") else ""
    logger.error("Redis refused %s: %s%s", what, error, hint)
