"""
What clients publish, on its way to Redis or waiting for it.

An :class:`Outbox` keeps the messages in order while the link is away or busy, notes which copies of its own
messages a connection is going to see, and finds out what became of each message.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from uws4r._connection import Connection
from uws4r._fanout import Fanout
from uws4r._frames import wrap
from uws4r._hub import Loop
from uws4r.errors import LinkError
from uws4r.link import Link, passes

logger = logging.getLogger("uws4r.hub")

PAUSED_BY_LINK = 1  # a reason of Loop.pause
HOLD = 0.25  # seconds until a Redis that was busy is tried again
LOG_PAUSE = 1.0  # seconds between two lines on refusals of one kind


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
        call_later: See :meth:`uws4r.hub.Hub.call_later`.
    """

    def __init__(
        self,
        loop: Loop,
        fanout: Fanout,
        room: int,
        attempt: Callable[..., None],
        call_later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.link: Link | None = None  # None while Redis is away
        self.on_readonly: Callable[[], None] = lambda: None  # what the link leads to is no master any more
        self.doubted = False  # the link has not answered for a moment: what is sent now may be lost
        self.lost = 0  # messages that Redis refused, or that a broken link may have swallowed
        self._loop = loop
        self._fanout = fanout
        self._room = room
        self._attempt = attempt
        self._call_later = call_later
        self._numbers = count(1)
        self._waiting: deque[Outgoing] = deque()
        self._paused: set[Connection] = set()  # clients whose messages have to wait
        self._returned: list[Outgoing] = []  # what a broken link has not sent, or Redis was too busy for
        self._on_the_way = 0  # publishes that are not answered
        self._resting = 0  # calls of rest() that are not over
        self._held = False  # Redis is busy: nothing is sent until it has been left alone for a while
        # By kind of refusal: until when no line is written, and how many were not.
        self._quiet: dict[str, tuple[float, int]] = {}
        self._settling: tuple[Connection, int] | None = None  # own copies die with the next reply

    def __len__(self) -> int:
        return len(self._waiting) + len(self._returned)

    def put(self, outgoing: Outgoing) -> bool:
        """Publish a message, now or in its turn; return False where Redis is away and no more can wait."""
        if self.link is None or self._held:
            if len(self) >= self._room:
                logger.warning("%s: Redis is away and %d messages wait", outgoing.connection, len(self))
                return False
            self._waiting.append(outgoing)
        elif self._waiting or self._resting or self.doubted or not self.link.accepts:
            # Faster than Redis: what one turn has received waits, and the client may not send more.
            self._waiting.append(outgoing)
            self._loop.pause(outgoing.connection, PAUSED_BY_LINK)
            self._paused.add(outgoing.connection)
        else:
            self._publish(outgoing)
        return True

    def send_waiting(self) -> None:
        """Publish what has waited, as far as the link takes it."""
        if self._held or self._resting or self.doubted:
            return
        while self._waiting and self.link is not None and self.link.accepts:
            outgoing = self._waiting.popleft()
            self._attempt(lambda _, message: self._publish(message), outgoing.connection, outgoing)
        if not self._waiting:
            self._resume()

    def rest(self, seconds: float) -> None:
        """Send nothing for so long: Redis is back, and other workers may not be subscribed again yet."""
        self._resting += 1
        self._call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._resting -= 1

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
        self.doubted = False
        self.settle()
        lost = self.lost
        close()
        if self.lost > lost:
            logger.warning("%d messages of clients may be lost with the link", self.lost - lost)
        self._take_back()
        self._resume()

    def _hold(self) -> None:
        """Redis is busy: send nothing for a while, and then, in order, what it was too busy for."""
        if not self._held:
            self._held = True
            logger.warning("Redis is busy: what clients publish waits")
            self._call_later(HOLD, self._release)

    def _release(self) -> None:
        if self._on_the_way and self.link is not None:  # what comes back from there is older than what waits
            self._call_later(HOLD, self._release)
        else:
            self._take_back()

    def _take_back(self) -> None:
        self._held = False
        self._waiting.extendleft(reversed(self._returned))
        self._returned.clear()

    def _resume(self) -> None:
        while self._paused:
            self._loop.resume(self._paused.pop(), PAUSED_BY_LINK)

    def _publish(self, outgoing: Outgoing) -> None:
        number = next(self._numbers)
        self._on_the_way += 1
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
        self._on_the_way -= 1
        if not isinstance(reply, Exception):
            # The own copy came before the reply or comes right after it.
            self._settling = outgoing.connection, number
            if isinstance(reply, bytes):
                self.log_refusal(f"to store a message of {outgoing.connection}, which is published", reply.decode())
            return
        self._fanout.forget(outgoing.connection, number)
        if isinstance(reply, LinkError):
            unsent = reply.unsent
        elif passes(reply):
            self._hold()
            unsent = True
        elif "READONLY" in str(reply):
            self.on_readonly()
            unsent = True
        else:
            self.lost += 1
            self.log_refusal(f"a message of {outgoing.connection}", reply)
            return
        if unsent:
            self._returned.append(outgoing)
        else:
            # Sent, and no answer: Redis may have published it, and to repeat it could double it.
            self.lost += 1

    def log_refusal(self, what: str, error: object) -> None:
        """Log that Redis does not do ``what``; of many refusals of a kind, one a second."""
        kind = str(error).partition(" ")[0]
        until, unsaid = self._quiet.get(kind, (0.0, 0))
        now = time.monotonic()
        if now < until:
            self._quiet[kind] = until, unsaid + 1
            return
        self._quiet[kind] = now + LOG_PAUSE, 0
        hint = " (the ACL of uws4r's Redis user has to allow it)" if kind == "NOPERM" else ""
        more = f"; {unsaid} more since the last such line" if unsaid else ""
        logger.error("Redis refused %s: %s%s%s", what, error, hint, more)
