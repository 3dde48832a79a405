"""
What clients publish, on its way to Redis or waiting for it.

An :class:`Outbox` keeps the messages in order while the link is away or busy, notes which copies of its own
messages a connection is going to see, and finds out what became of each message.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

import logging
import time
from collections import deque

from uws4r._connection cimport HEAVY, OPEN, PAUSED_BY_LINK, Client, Connection
from uws4r._fanout cimport Fanout
from uws4r._frames cimport wrap
from uws4r._pipeline cimport Pipeline

from uws4r.errors import LinkError
from uws4r.link import passes
from uws4r.refusals import explained

logger = logging.getLogger("uws4r.hub")

cdef enum:
    MESSAGE_COST = 256  # bytes that a message which waits takes, without its payload

cdef double HOLD = 0.25  # seconds until a Redis that was busy is tried again
cdef double LOG_PAUSE = 1.0  # seconds between two lines on refusals of one kind


cdef class Paid:
    """What a websocket has paid for, and may keep in Redis again without another look; see :mod:`uws4r.keeping`."""

    cdef public tuple names     # the channels
    cdef public int64_t size    # bytes of the largest message
    cdef public double covered  # seconds: up to when Redis may keep it

    def __cinit__(self):
        self.names = ()
        self.size = -1


@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class Outgoing:
    """
    A message of a client for Redis.

    Args:
        names: Of the channels to publish it on.
        expire: Seconds for which it is also stored; 0 for not at all.
        own: The connection shall not get it back, unless it asked for echo.
    """

    cdef readonly Connection connection
    cdef readonly bytes payload
    cdef bint text
    cdef readonly tuple names
    cdef readonly int64_t expire
    cdef bint own
    cdef public bint passing  # it is not stored, and what is stored there is forgotten
    cdef uint64_t number  # of the publish

    cdef size_t size(self):
        return PyBytes_GET_SIZE(self.payload) + MESSAGE_COST

    def __init__(
        self,
        Connection connection not None,
        bytes payload not None,
        bint text,
        tuple names not None,
        int64_t expire,
        bint own=True,
    ):
        self.connection = connection
        self.payload = payload
        self.text = text
        self.names = names
        self.expire = expire
        self.own = own

    def paid(self, dict shares not None, double now):
        """Whether it is not stored, or its connection has paid for that; ``shares`` has a :class:`Paid` for those that have."""
        if self.expire <= 0:
            return True
        cdef Paid share = shares.get(self.connection)
        return (
            share is not None
            and PyBytes_GET_SIZE(self.payload) <= share.size
            and now + self.expire <= share.covered
            and self.names == share.names
        )


@cython.final
cdef class Outbox:
    """
    Args:
        room: Messages that may wait while Redis is away.
        byte_room: Bytes that may wait, at any time.
        attempt: Calls a function with a connection and more arguments, so that an error in it ends the connection.
        call_later: See :meth:`uws4r.hub.Hub.call_later`.
    """

    cdef public Pipeline link       # None while Redis is away
    cdef public object on_readonly  # called when what the link leads to is no master any more
    cdef public bint doubted        # the link has not answered for a moment: what is sent now may be lost
    cdef readonly uint64_t lost     # messages that Redis refused, or that a broken link may have swallowed
    cdef object loop
    cdef Fanout fanout
    cdef size_t room
    cdef size_t byte_room
    cdef readonly size_t bytes      # of the messages that wait
    cdef object attempt
    cdef object call_later
    cdef uint64_t numbers
    cdef readonly object waiting    # a deque
    cdef object first               # those that come before it: of clients that do not keep the hub busy
    cdef set paused                 # clients whose messages have to wait
    cdef set paused_first           # of them, those whose messages come first
    cdef list returned              # what a broken link has not sent, or Redis was too busy for
    cdef size_t on_the_way          # publishes that are not answered
    cdef size_t resting             # calls of rest() that are not over
    cdef bint held                  # Redis is busy: nothing is sent until it has been left alone for a while
    cdef dict quiet                 # by kind of refusal: until when no line is written, and how many were not
    cdef object answer

    def __init__(self, loop, Fanout fanout not None, size_t room, size_t byte_room, attempt, call_later):
        self.on_readonly = lambda: None
        self.loop = loop
        self.fanout = fanout
        self.room = room
        self.byte_room = byte_room
        self.attempt = attempt
        self.call_later = call_later
        self.waiting = deque()
        self.first = deque()
        self.paused = set()
        self.paused_first = set()
        self.returned = []
        self.quiet = {}
        self.answer = self.published  # made once, not for each message

    def __len__(self):
        return len(self.waiting) + len(self.first) + len(self.returned)

    def crowded(self, Connection connection not None):
        """Whether Redis is there, and so many bytes wait for it that the client's messages have to stay where they are."""
        # Clients that keep the hub busy have half of the room, so that there is some for the others.
        return self.link is not None and self.bytes >= (
            self.byte_room // 2 if connection.client.level >= HEAVY else self.byte_room
        )

    def pause(self, Connection connection not None):
        """Have the client wait until its messages can be published."""
        self.loop.pause(connection, PAUSED_BY_LINK)
        (self.paused if connection.client.level >= HEAVY else self.paused_first).add(connection)

    def put(self, Outgoing outgoing not None):
        """Publish a message, now or in its turn; return False where Redis is away and no more can wait."""
        cdef Client *client = &outgoing.connection.client
        if self.link is None or self.held:
            if <size_t>len(self) >= self.room or self.bytes + outgoing.size() > self.byte_room:
                logger.warning(
                    "%s: Redis is away, and %d messages with %d bytes wait", outgoing.connection, len(self), self.bytes
                )
                return False
            self.wait(outgoing, self.waiting)
        elif (
            client.outgoing
            or self.resting
            or self.doubted
            or (self.waiting and client.level >= HEAVY)
            or self.first
            or not self.link.ready(client.level >= HEAVY)
        ):
            # Faster than Redis: it waits, and the client may not send more. Its messages stay in order.
            self.wait(outgoing, self.waiting if client.level >= HEAVY or client.outgoing else self.first)
            self.pause(outgoing.connection)
        else:
            self.publish(outgoing)
        return True

    cdef wait(self, Outgoing outgoing, where):
        where.append(outgoing)
        outgoing.connection.client.outgoing += 1
        self.bytes += outgoing.size()

    cdef Outgoing next(self):
        # The message that the link takes now; None if it takes none, or there is none.
        cdef Outgoing outgoing
        if self.link is None:
            return None
        if self.first and self.link.ready(False):
            outgoing = <Outgoing?>self.first.popleft()
        elif self.waiting and self.link.ready(True):
            outgoing = <Outgoing?>self.waiting.popleft()
        else:
            return None
        outgoing.connection.client.outgoing -= 1
        self.bytes -= outgoing.size()
        return outgoing

    def send_waiting(self):
        """Publish what has waited, as far as the link takes it."""
        cdef Outgoing outgoing
        if self.held or self.resting or self.doubted:
            return
        while (outgoing := self.next()) is not None:
            self.attempt(self.publish_for, outgoing.connection, outgoing)
        if not self.first:
            self.resume(self.paused_first)
            if not self.waiting:
                self.resume(self.paused)

    def rest(self, double seconds):
        """Send nothing for so long: Redis is back, and other workers may not be subscribed again yet."""
        self.resting += 1
        self.call_later(seconds, self.wake)

    def wake(self):
        """The time of a :meth:`rest` is over."""
        self.resting -= 1

    def link_lost(self, close):
        """
        Keep what the link has not sent.

        Args:
            close: Closes the link, which answers everything in flight.
        """
        self.link = None
        self.doubted = False
        cdef uint64_t lost = self.lost
        close()
        if self.lost > lost:
            logger.warning("%d messages of clients may be lost with the link", self.lost - lost)
        self.take_back()
        self.resume(self.paused)
        self.resume(self.paused_first)

    cdef hold(self):
        # Redis is busy: send nothing for a while, and then, in order, what it was too busy for.
        if not self.held:
            self.held = True
            logger.warning("Redis is busy: what clients publish waits")
            self.call_later(HOLD, self.release)

    def release(self):
        """The time of holding back is over."""
        if self.on_the_way and self.link is not None:  # what comes back from there is older than what waits
            self.call_later(HOLD, self.release)
        else:
            self.take_back()

    cdef take_back(self):
        # What has been sent in vain is older than all that waits.
        self.held = False
        self.waiting.extendleft(reversed(self.first))
        self.waiting.extendleft(reversed(self.returned))
        self.first.clear()
        self.returned.clear()

    cdef resume(self, set paused):
        while paused:
            self.loop.resume(paused.pop(), PAUSED_BY_LINK)

    def publish_for(self, connection, Outgoing outgoing not None):
        """Publish a message of this connection, now."""
        self.publish(outgoing)

    cdef int publish(self, Outgoing outgoing) except -1:
        cdef Connection connection = outgoing.connection
        self.numbers += 1
        outgoing.number = self.numbers
        if outgoing.own and not connection.client.echo and connection.client.state == OPEN:
            self.expect(outgoing)
        self.link.publish(outgoing.names, wrap(outgoing.payload, not outgoing.text), outgoing.expire, self.answer, outgoing, outgoing.passing)
        self.on_the_way += 1
        return 0

    cdef expect(self, Outgoing outgoing):
        cdef Connection connection = outgoing.connection
        # A connection that still waits for its fetch will have joined before this publish is pushed.
        wanted = connection.attachment.channels if connection.attachment is not None else None
        cdef list channels = []
        for name in outgoing.names:
            channel = self.fanout.channels.get(name)
            if channel is not None and (
                channel in wanted if wanted is not None else self.fanout.listens(connection, channel)
            ):
                channels.append(channel)
        if channels:
            self.fanout.expect(connection, channels, outgoing.payload, outgoing.text, outgoing.number)

    def published(self, Outgoing outgoing not None, reply):
        """Redis has answered, or will not."""
        self.on_the_way -= 1
        if not isinstance(reply, Exception):
            self.fanout.answered(outgoing.connection, outgoing.number)
            if isinstance(reply, bytes):
                self.log_refusal(f"to store a message of {outgoing.connection}, which is published", reply.decode())
            return
        self.fanout.forget(outgoing.connection, outgoing.number)
        if isinstance(reply, LinkError):
            unsent = reply.unsent
        elif passes(reply):
            self.hold()
            unsent = True
        elif "READONLY" in str(reply):
            self.on_readonly()
            unsent = True
        else:
            self.lost += 1
            self.log_refusal(f"a message of {outgoing.connection}", reply)
            return
        if unsent:
            self.wait(outgoing, self.returned)
        else:
            # Sent, and no answer: Redis may have published it, and to repeat it could double it.
            self.lost += 1

    def log_refusal(self, str what not None, error):
        """Log that Redis does not do ``what``; of many refusals of a kind, one a second."""
        kind = str(error).partition(" ")[0]
        until, unsaid = self.quiet.get(kind, (0.0, 0))
        now = time.monotonic()
        if now < until:
            self.quiet[kind] = until, unsaid + 1
            return
        self.quiet[kind] = now + LOG_PAUSE, 0
        more = f"; {unsaid} more since the last such line" if unsaid else ""
        logger.error("Redis refused %s: %s%s", what, explained(error), more)
