"""
Keeps a hub linked to Redis: makes a link, notices its end, and restores on the next one what the last had.

A :class:`LinkKeeper` owns the link and its connector. When a link opens it subscribes to every channel that
somebody listens to and asks anew for every reply that was in flight; whether Redis still answers it finds out
by itself. What a reply means for a websocket the hub decides. All of it runs in the hub's thread.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import hiredis
from redis.connection import Connection as RedisConnection

from uws4r._channel import Channel
from uws4r._connection import Connection
from uws4r._fanout import Fanout
from uws4r._hub import Loop
from uws4r._outbox import Outbox
from uws4r.connector import LONGEST_PAUSE, Connector
from uws4r.errors import LinkError
from uws4r.fetches import Fetches
from uws4r.greeting import is_replica
from uws4r.link import Link, passes
from uws4r.rfc6455 import CloseCode

logger = logging.getLogger("uws4r.link")

PUSHES_PER_TURN = 1000
PUSHES_AT_ONCE = 50  # before it is looked at how many listeners they have
DELIVERIES_PER_TURN = 1 << 16
LOOK = 0.5  # seconds between two looks whether Redis still answers
PATIENCE = 4.0  # seconds without an answer after which it is gone; what blocks Redis for less costs nothing
OTHERS = 0.2  # seconds that connecting and subscribing may take other workers
AGAIN = 0.25  # seconds until a Redis that was busy is asked again


class LinkKeeper:
    """
    Args:
        redis: Returns a fresh, unconnected redis-py connection that speaks RESP3.
        control: The channel of orders for workers; None where nobody takes any.
        call_soon, call_later: See :meth:`uws4r.hub.Hub.call_soon`, :meth:`uws4r.hub.Hub.call_later`.
        wait_for: Waits for an event at most so many seconds, and returns whether it is set.
        answered: Given a connection that waits for its place on the link, and the values that it finds there.
        refused: Given a connection that is to be closed, with code and reason: Redis denies what it needs.
    """

    def __init__(
        self,
        redis: Callable[[], RedisConnection],
        loop: Loop,
        fanout: Fanout,
        outbox: Outbox,
        control: bytes | None,
        call_soon: Callable[[Callable[[], None]], None],
        call_later: Callable[[float, Callable[[], None]], None],
        wait_for: Callable[[threading.Event, float], bool],
        answered: Callable[[Connection, Any], None],
        refused: Callable[[Connection, int, str], None],
    ) -> None:
        self.link: Link | None = None
        self.links = 0  # ever
        self.since = 0.0  # when the last one was made; of the monotonic clock
        self.more = False  # the link has unhandled input
        self.connector = Connector(
            redis, call_soon, call_later, self.opened, lambda: self.lost("the sentinels name another master"), wait_for
        )
        self._loop = loop
        self._fanout = fanout
        self._outbox = outbox
        self._control = control
        self._call_soon = call_soon
        self._call_later = call_later
        self._refused = refused
        self._told_of_binary = False
        self._asked_at: float | None = None  # since when Redis owes an answer to HELLO, or was heard since
        self._again: set[bytes] = set()  # channels that a busy Redis has not subscribed to, or not unsubscribed from
        self._asking_again = False
        self.fetches = Fetches(loop, lambda: self._again, self._ask_again, answered, refused, outbox.log_refusal)
        outbox.on_readonly = self._demoted

    @property
    def busy(self) -> bool:
        """Whether commands are on their way, or without an answer."""
        return self.link is not None and bool(self.link.in_flight or self.link.has_output)

    def descriptor(self) -> int | None:
        """Return the link's descriptor, None while Redis is away; from any thread."""
        link = self.link
        return None if link is None else link.fileno()

    # ------------------------------------------------------------ the life of a link

    def opened(self, connection: RedisConnection) -> None:
        """A connection is made: it becomes the link."""
        self.link = self._outbox.link = link = Link(connection, self._fanout.push, self._fanout.reply)
        self.links += 1
        self.since = time.monotonic()
        if self.links > 1:
            # The pauses between attempts grow with the outage: so long others may be behind us.
            self._outbox.rest(min(LONGEST_PAUSE, self.since - self.connector.down_since) + OTHERS)
        self._asked_at = None
        self._look(link)
        self._loop.watch_link(link, link.fileno(), link.raw)
        if self._control is not None:
            link.subscribe(self._control, self._control_subscribed)
        # All in one go, one command for each: of several names in one command Redis would refuse all for one.
        self._again.clear()
        for channel in self._fanout.channels.values():
            link.subscribe(channel.name, self._subscribed, channel)
        self.fetches.opened(link)

    def lost(self, reason: str) -> None:
        """The link is of no use any more: let go of it, and make another."""
        link, self.link = self.link, None
        if link is None:
            return
        logger.warning("the link to Redis is lost: %s", reason)
        self.more = False
        self._fanout.reply()  # what was pushed counts; what was expected will not come any more
        self._loop.unwatch_link()
        self.fetches.lost()
        self._outbox.link_lost(lambda: link.close(reason))
        self.connector.lost()

    def _look(self, link: Link) -> None:
        """A server that has gone without a word is noticed by its silence, a demoted one by what it says."""
        if link is not self.link:
            return
        now = self._loop.now
        if self._asked_at is None:
            self._asked_at = now
            link.greet(self._greeted)
        elif link.heard:
            self._asked_at = now
        else:
            self._outbox.doubted = True
        if now - self._asked_at >= PATIENCE:
            self.lost(f"no answer within {PATIENCE} s")
            return
        link.heard = False
        self._call_later(LOOK, lambda: self._look(link))

    def _greeted(self, context: Any, reply: Any) -> None:
        self._asked_at = None
        if is_replica(reply):
            self._demoted()

    def _demoted(self) -> None:
        link = self.link

        def leave() -> None:
            if link is self.link:
                self.lost("Redis is a replica now: looking for the master")

        self._call_soon(leave)  # not in the middle of its replies

    def stop(self) -> None:
        """Close the link, and make no more."""
        if waiting := len(self._outbox):
            logger.warning("%d messages of clients that waited for Redis end with this worker", waiting)
        self.connector.stop()
        link, self.link = self.link, None
        if link is not None:
            self._loop.unwatch_link()
            link.close("the worker stops")

    def abandon(self) -> None:
        """In a forked child: let go of the link, which stays the parent's."""
        if self.link is not None:
            self.link.abandon()
            self.link = None

    # ------------------------------------------------------------ a turn of the hub

    def read(self) -> None:
        """Handle what the link has to say, as far as one turn goes."""
        link, loop = self.link, self._loop
        if link is None or not (loop.link_ready or self.more):
            return
        try:
            if not link.raw:
                link.read()
            if link.heard:
                self._outbox.doubted = False
            for _ in range(PUSHES_PER_TURN // PUSHES_AT_ONCE):
                self.more = link.dispatch(PUSHES_AT_ONCE)
                if not self.more or self._fanout.planned >= DELIVERIES_PER_TURN:
                    break
            self.more = self.more or link.unread
            if self._fanout.binary and not self._told_of_binary:
                self._told_of_binary = True
                logger.info("a message is sent as binary, its bytes are no text (ws4redis sent all as text); said once")
        except (OSError, LinkError) as error:
            self.lost(str(error))
            return
        if (loop.link_ended or link.ended) and not self.more:
            self.lost("Redis closed the connection")

    def write(self) -> None:
        """Ask for those who wait for a place on the link; over TLS write what waits, else the hub's loop does it."""
        self.fetches.send()
        link = self.link
        if link is not None and not link.raw and link.has_output:
            try:
                link.write()
            except OSError as error:
                self.lost(str(error))
            else:
                self._loop.want_link_writable(link.has_output)

    # ------------------------------------------------------------ what a hub wants of Redis

    def subscribe(self, channel: Channel) -> None:
        """Listen to a channel, as soon as there is a link."""
        if self.link is not None:
            self.link.subscribe(channel.name, self._subscribed, channel)

    def unsubscribe(self, channel: Channel) -> None:
        """Listen to a channel no longer."""
        if self.link is not None:
            self.link.unsubscribe(channel.name, self._unsubscribed, channel.name)

    def tell(self, channel: bytes, data: bytes) -> None:
        """Publish something that no client listens to; while Redis is away nobody can be told."""
        if self.link is not None:
            self.link.publish((channel,), data, 0, lambda context, reply: None)

    # ------------------------------------------------------------ replies

    def _ask_again(self) -> None:
        """Redis was busy: soon ask anew for all that it has not done."""
        if not self._asking_again:
            self._asking_again = True
            self._call_later(AGAIN, self._now_again)

    def _now_again(self) -> None:
        self._asking_again = False
        if self.link is None:
            return  # a new link begins with everything
        names, self._again = self._again, set()
        for name in names:
            if name == self._control:
                self.link.subscribe(name, self._control_subscribed)
            elif (channel := self._fanout.channels.get(name)) is not None:
                self.subscribe(channel)
            else:
                self.link.unsubscribe(name, self._unsubscribed, name)
        self.fetches.ask_all()

    def _passed_over(self, name: bytes, reply: Any) -> bool:
        if passes(reply):
            self._again.add(name)
            self._ask_again()
            return True
        return False

    def _subscribed(self, channel: Channel, reply: Any) -> None:
        if not isinstance(reply, Exception) or isinstance(reply, LinkError) or self._passed_over(channel.name, reply):
            return
        self._outbox.log_refusal(f"SUBSCRIBE {channel.name!r}", reply)
        for connection in self._loop.connections:
            waits = connection.attachment is not None and channel in connection.attachment.channels
            if waits or self._fanout.listens(connection, channel):
                self._refused(connection, CloseCode.INTERNAL_ERROR, "Redis refused")

    def _control_subscribed(self, context: Any, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError) and not self._passed_over(self._control or b"", reply):
            self._outbox.log_refusal(
                f"SUBSCRIBE {self._control!r}, so no logout and no `manage.py uws4r` reaches us", reply
            )

    def _unsubscribed(self, name: bytes, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError) and not self._passed_over(name, reply):
            self._outbox.log_refusal(f"UNSUBSCRIBE {name!r}", reply)
