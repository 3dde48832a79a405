"""
A worker's registry of who listens to what.

A :class:`Hub` attaches connections to channels, encodes each message once and queues the same bytes on
every listener. It owns the loop (an epoll set behind one descriptor) and what keeps the link, and decides
what happens to a connection; an engine calls :meth:`Hub.run_once` whenever :meth:`Hub.fileno` is readable.
It knows neither Django nor uWSGI.

All of it belongs to the one thread that runs it, except the methods marked as safe from any thread.
"""

import heapq
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from redis.connection import Connection as RedisConnection

from uws4r._channel import Channel
from uws4r._connection import Connection, Limits
from uws4r._fanout import Fanout
from uws4r._frames import encode_close, encode_frame, parse_close
from uws4r._hub import Loop
from uws4r._outbox import Outbox, Outgoing
from uws4r.attachment import Attachment, HubOptions, Overrides
from uws4r.counters import CLOSED, counters
from uws4r.errors import ProtocolError
from uws4r.heartbeat import Heartbeats
from uws4r.keeper import LinkKeeper
from uws4r.keeping import Keeping
from uws4r.quoting import brief, shown
from uws4r.rfc6455 import CloseCode, Opcode
from uws4r.threads import WorkerThreads

logger = logging.getLogger("uws4r.hub")

STOP_TIME = 1.0  # seconds that clients have to answer the close frame of a worker that stops
RESTART = CloseCode.SERVICE_RESTART, "the server restarts"
CLOSE_TIME = 5.0  # seconds that a client has to answer a close frame

OPEN, CLOSING, LINGERING = 0, 1, 2  # uws4r._connection.State
PAUSED_BY_OVERRIDES = 2  # a reason of Loop.pause
TEXT, CLOSE, PING, PONG = map(int, (Opcode.TEXT, Opcode.CLOSE, Opcode.PING, Opcode.PONG))  # quicker to compare


class Hub:
    """
    Args:
        redis: Returns a fresh, unconnected redis-py connection that speaks RESP3.
        options: See :class:`HubOptions`.
        keeping: Says what of clients' messages is kept; None for all of it.
    """

    def __init__(
        self,
        redis: Callable[[], RedisConnection],
        options: HubOptions | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.options = options or HubOptions()
        self.keeping = keeping
        self.pid = os.getpid()
        options = self.options
        self._limits = Limits(options.max_message_size, options.max_message_rate, options.max_byte_rate)
        self.fanout = Fanout()
        self.loop = Loop(self.fanout, options.max_queue, self._limits)
        self.draining = False  # no new connections: the worker stops
        self.over = False  # ended before its worker; the next client gets a new hub
        self.engine: Any = None  # what an engine keeps with its hub
        self.max_connections = 0  # that its engine can hold; 0: any number
        self.max_descriptors = 0  # the first number of a descriptor that its engine cannot wait for; 0: any will do
        # Takes each message of a client on its way to Redis; where the engine wants to see it, and returns it.
        self.through: Callable[[Connection, bytes, bool], bytes] | None = None
        self.stopped = threading.Event()
        self.began = time.monotonic()
        self.closed_traffic = (0, 0)  # messages in and out of connections that are closed
        # Given each new connection, and when its handshake began; of the monotonic clock.
        self.on_taken: Callable[[Connection, float], None] | None = None
        self.each_second: Callable[[list[Connection]], None] | None = None  # given those whose session ends now
        self.threads = WorkerThreads(self.options.threads, self.options.thread_ends)  # for what may block
        self._commands: deque[Callable[[], None]] = deque()
        self._arrivals: deque[Attachment] = deque()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []  # a heap: when, tie-break, what
        self._numbers = count(1)
        self._overrides: dict[Connection, Overrides] = {}  # of the few whose subscriber class has some
        self._left: dict[Connection, Callable[[], None]] = {}  # of those that somebody counts
        self._ticking = False
        # One message is always accepted, however large it may be.
        self._receive_buffer = max(options.receive_buffer, 2 * options.max_message_size)
        self.fanout.on_tapped = self._tapped
        self.fanout.compress_over = self.options.compress_over
        # Whether a client is slow is asked for each frame in its queue but the first.
        self.fanout.batch_size = min(self.fanout.batch_size, self.options.max_queue)
        self.fanout.control = self.options.control
        self.fanout.heartbeat = heartbeat = self.options.heartbeat
        self._heartbeats = Heartbeats(heartbeat, self.loop, self.fanout, self.call_later) if heartbeat else None
        byte_room = max(options.publish_buffer_size, 2 * options.max_message_size)
        self.outbox = Outbox(self.loop, self.fanout, options.publish_buffer, byte_room, self.guarded, self.call_later)
        # How to wait for the hub outside of it; an engine that shares a thread with its callers has its own way.
        self.wait_for: Callable[[threading.Event, float], bool] = threading.Event.wait
        self.keeper = LinkKeeper(
            redis,
            self.loop,
            self.fanout,
            self.outbox,
            options.control,
            self.call_soon,
            self.call_later,
            wait_for=lambda event, seconds: self.wait_for(event, seconds),
            answered=lambda connection, reply: self.guarded(self._join, connection, reply),
            refused=lambda connection, code, reason: self.guarded(self._fail, connection, code, reason),
        )
        self.call_soon(self.keeper.connector.start)

    # ------------------------------------------------------------ safe from any thread

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to do."""
        return self.loop.fileno()

    def attach(self, attachment: Attachment) -> None:
        """Take over a websocket whose 101 is out."""
        self._arrivals.append(attachment)
        self.loop.wake()
        if self.stopped.is_set():
            self._turn_away()

    def stop(self, timeout: float = 2.0) -> None:
        """Close every connection with 1012 and end; waits for that, at most ``timeout`` seconds."""
        self.draining = True
        end = time.monotonic() + timeout
        self.call_soon(self._stop)
        self.wait_for(self.stopped, timeout)
        if not self.threads.finish(max(0.0, end - time.monotonic())):
            logger.warning("methods of a subscriber class are cut off: they still run at the end of the worker")

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the hub's thread call something in its next turn."""
        self._commands.append(call)
        self.loop.wake()

    # ------------------------------------------------------------ a turn

    @property
    def has_more(self) -> bool:
        """Whether the next turn has something to do that :meth:`fileno` does not tell of."""
        return self.keeper.more or self.loop.has_input

    def run_once(self, block: bool = True) -> bool:
        """
        Do what there is to do; return whether there will be a next turn.

        Args:
            block: Wait for something to do; False where an engine has waited for :meth:`fileno`.
        """
        loop = self.loop
        loop.wait(block and not self.keeper.more and not self._commands and not self._arrivals)
        self._run_commands()
        self.keeper.read()
        self._read_clients()
        for connection in loop.due():
            self.guarded(self._timer, connection)
        self._run_calls()
        self.outbox.send_waiting()
        self._flush()
        loop.arm(self._calls[0][0] if self._calls else 0.0)
        return not self.stopped.is_set()

    def _read_clients(self) -> None:
        self._read_those(False)
        if self.loop.behind:
            self.outbox.send_waiting()
            self._flush()  # nobody waits for those who keep us busy
        self._read_those(True)
        if self._limits.unfinished > self._receive_buffer:
            # To well below the limit: not again for each piece that comes.
            for connection in self.loop.crowding(self._receive_buffer * 3 // 4):
                logger.warning("%s is closed: messages that are not whole take too much memory", connection)
                self.guarded(self._fail, connection, CloseCode.TRY_AGAIN_LATER, "too many unfinished messages")

    def _read_those(self, heavy: bool) -> None:
        following, read = self.loop.next_received, self._read_client
        while (connection := following(heavy)) is not None:
            try:  # as guarded() does, which would be one more call for each message
                read(connection)
            except Exception:
                self._end_by_bug(connection)

    def _run_commands(self) -> None:
        for _ in range(len(self._commands)):
            self._commands.popleft()()
        for _ in range(len(self._arrivals)):
            self.take(self._arrivals.popleft())

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Have something called after so many seconds, by the hub's thread."""
        heapq.heappush(self._calls, (self.loop.now + seconds, next(self._numbers), call))

    def _run_calls(self) -> None:
        while self._calls and self._calls[0][0] <= self.loop.now:
            heapq.heappop(self._calls)[2]()

    def _flush(self) -> None:
        self.keeper.write()
        trouble = self.loop.flush()
        if self.loop.link_broken:
            self.keeper.lost("the connection is broken")
        for connection in trouble:
            self.guarded(self._look_at, connection)

    def guarded(self, act: Callable[..., None], connection: Connection, *arguments: Any) -> None:
        """One connection's bug ends that connection, never the hub."""
        try:
            act(connection, *arguments)
        except Exception:
            self._end_by_bug(connection)

    def _end_by_bug(self, connection: Connection) -> None:
        """In an ``except`` clause."""
        logger.exception("%s: a bug in uws4r ends this connection", connection)
        try:
            self._fail(connection, CloseCode.INTERNAL_ERROR, "internal error")
        except Exception:
            self._drop(connection)

    # ------------------------------------------------------------ connections

    def take(self, attachment: Attachment) -> Connection | None:
        """Make a connection of an attachment, now; None where that fails."""
        try:
            connection = Connection(
                attachment.fd,
                attachment.identity,
                attachment.publish,
                attachment.expire,
                self._limits,
                attachment.echo,
                attachment.changes,
                attachment.window,
                attachment,
            )
            connection.session, connection.expires = attachment.session, attachment.expires
            self.loop.add(connection)
        except Exception:
            logger.exception("%s cannot be attached", brief(attachment.identity))
            attachment.abandon()
            return None
        if attachment.left is not None:
            self._left[connection] = attachment.left
        if attachment.overrides is not None:
            self._overrides[connection] = attachment.overrides
            connection.tapped = attachment.overrides.takes_pushes
            attachment.overrides.opened(self, connection)
        if self._heartbeats is not None:
            self._heartbeats.add(connection)
        if not self._ticking:
            self._ticking = True
            self.call_later(1.0, self._tick)
        self.guarded(self._welcome, connection)
        if self.on_taken is not None:
            self.guarded(self.on_taken, connection, attachment.began)
        return connection

    def receive(self, connection: Connection, early: bytes = b"") -> None:
        """
        Receive from a connection that the engine has found readable, or that goes on with what it has sent.

        Args:
            early: What a server has read of it itself; received instead.
        """
        self.keeper.fetches.send()  # what it publishes comes after it
        if early and not connection.is_gone:
            self.loop.receive_early(connection, early)
            self._read_clients()
        elif not connection.is_gone and (connection.goes_on or not connection.paused):
            self.loop.receive_from(connection)
            self._read_clients()

    def _welcome(self, connection: Connection) -> None:
        attachment = connection.attachment
        logger.info("%s open", connection)
        if self.options.ping_interval:
            self.loop.set_timer(connection, self.options.ping_interval)
        if self.draining:
            self._fail(connection, *RESTART)
            return
        for name, facility in attachment.subscribe:
            channel, new = self.fanout.want(name, facility)
            attachment.channels.append(channel)
            if new:
                self.keeper.subscribe(channel)
        for opcode, payload in attachment.greeting:
            self.fanout.write(connection, opcode, payload)
        self.keeper.fetches.ask(connection)

    def _tick(self) -> None:
        """Once a second, as long as there are connections."""
        options = self.options
        stuck, expired = self.loop.sweep(options.frame_timeout, options.message_timeout, int(time.time()))
        for connection in stuck:
            self.guarded(self._fail, connection, CloseCode.POLICY_VIOLATION, "a message that did not become whole")
        if self.each_second is not None:
            self.each_second(expired)
        self._ticking = self.loop.count > 0
        if self._ticking:
            self.call_later(1.0, self._tick)

    def _join(self, connection: Connection, reply: Any) -> None:
        for channel in connection.attachment.channels:
            self.fanout.join(connection, channel)
        if isinstance(reply, list):
            self.fanout.greet(connection, reply)
        if connection.tapped:
            self._overrides[connection].joined([channel.name for channel in connection.attachment.channels])
        connection.attachment = None

    def _read_client(self, connection: Connection) -> None:
        if self.outbox.bytes and connection.publishes and self.outbox.crowded(connection):
            self.outbox.pause(connection)  # what it has sent waits where it is
        try:
            while connection.reads and (event := connection.next_event()) is not None:
                opcode, payload = event
                if opcode == CLOSE:
                    self._closed_by_client(connection, payload)
                elif not connection.is_open:
                    pass  # our close frame is out: nothing but the answer counts
                elif opcode == PING:
                    self.fanout.write(connection, Opcode.PONG, payload)
                elif opcode != PONG:
                    self._message(connection, payload, opcode == TEXT)
        except ProtocolError as error:
            self._fail(connection, error.close_code, str(error))
        if not connection.ended or connection.unread:
            return
        if connection.queued:
            self.fanout.mark_dirty(connection)  # one try to get our close frame out; then the flush reports it
        else:
            self._drop(connection)

    def _message(self, connection: Connection, payload: bytes, text: bool) -> None:
        connection.count_message()
        if not payload or payload == self.options.heartbeat:
            return
        if self.through is not None:
            payload = self.through(connection, payload, text)
        overrides = self._overrides.get(connection) if self._overrides else None
        if overrides is not None and overrides.takes_messages:
            if overrides.received(payload, text):
                self.loop.pause(connection, PAUSED_BY_OVERRIDES)
        elif connection.publishes:
            self.publish(Outgoing(connection, payload, text, connection.publishes, connection.expire))

    def publish(self, outgoing: Outgoing) -> None:
        """Publish a message of a client; where Redis is away and too many wait already the client is closed."""
        keeping = self.keeping
        if keeping is not None and not outgoing.paid(keeping.shares, now := self.loop.now):
            outgoing.passing = not keeping.keeps(
                outgoing.connection, outgoing.names, len(outgoing.payload), outgoing.expire, now
            )
        if not self.outbox.put(outgoing):
            self._fail(outgoing.connection, CloseCode.TRY_AGAIN_LATER, "the message queue is away")

    def _closed_by_client(self, connection: Connection, payload: bytes) -> None:
        if not connection.is_open:  # the answer to our own close frame, or the two have crossed
            if connection.queued:
                connection.set_state(LINGERING)
                connection.answered = True
            else:
                self._drop(connection)
            return
        code, reason = parse_close(payload)
        connection.close_code, connection.close_reason = code, reason
        counters.add(CLOSED, f"{code} by the client")
        answer = code if payload else CloseCode.NORMAL
        self._leave(connection)
        self.fanout.write(connection, Opcode.CLOSE, encode_close(answer))
        connection.set_state(LINGERING)
        connection.answered = True
        self.loop.set_timer(connection, CLOSE_TIME)

    def close(self, connection: Connection, code: int, reason: str = "") -> None:
        """Begin the close handshake (RFC 6455 §7.1.2); the client has :data:`CLOSE_TIME` to answer."""
        if connection.is_open:
            self._say_close(connection, code, reason, CLOSING)

    def _fail(self, connection: Connection, code: int, reason: str) -> None:
        """Fail the connection (§7.1.7): close frame out, nothing of the client counts any more."""
        if connection.is_open:
            self._say_close(connection, code, reason, LINGERING)
        elif not connection.is_gone:
            self._drop(connection)

    def _say_close(self, connection: Connection, code: int, reason: str, state: int) -> None:
        connection.close_code, connection.close_reason = code, reason
        counters.add(CLOSED, f"{code} {reason}")
        self._leave(connection)
        self.fanout.write(connection, Opcode.CLOSE, encode_close(code, reason))
        connection.set_state(state)
        if state == LINGERING:
            self.loop.deafen(connection)
        self.loop.set_timer(connection, CLOSE_TIME)

    def _leave(self, connection: Connection) -> None:
        """Take a connection off its channels, and off those it waits to join."""
        channels = self.fanout.leave_all(connection)
        if connection.attachment is not None:  # has joined none, or was interrupted while joining
            channels = connection.attachment.channels
            connection.attachment = None
            self.keeper.fetches.forget(connection)
        for channel in channels:
            self._unwant(channel)

    def leave(self, connection: Connection, under: tuple[bytes, ...]) -> None:
        """End what a connection may receive and publish on the channels whose names begin with one of ``under``."""
        connection.publishes = tuple(name for name in connection.publishes if not name.startswith(under))
        if self._overrides and (overrides := self._overrides.get(connection)) is not None:
            overrides.left(under)
        attachment = connection.attachment
        channels = attachment.channels if attachment is not None else self.fanout.channels_of(connection)
        for channel in [channel for channel in channels if channel.name.startswith(under)]:
            if attachment is not None:
                attachment.channels.remove(channel)
            else:
                self.fanout.leave(connection, channel)
            self._unwant(channel)
        if attachment is not None:
            self.keeper.fetches.ask(connection)  # the reply that is on its way has values for all of them

    def _unwant(self, channel: Channel) -> None:
        if self.fanout.unwant(channel):
            self.keeper.unsubscribe(channel)

    def give_up(self, connection: Connection) -> None:
        """The engine cannot wait for a connection any more: it ends."""
        self._drop(connection)

    def _look_at(self, connection: Connection) -> None:
        """The loop met trouble with a connection, or has flushed one that lingers."""
        if connection.is_gone:
            return
        if connection.ended:
            self._drop(connection)
        elif connection.lingers:
            if connection.queued:
                pass  # its timer ends it
            elif connection.answered:
                self._drop(connection)
            else:
                self.loop.half_close(connection)
        elif self.loop.slow(connection):
            logger.warning("%s is slow: %d bytes wait for it", connection, connection.queued)
            self.loop.discard(connection)
            self._fail(connection, CloseCode.TRY_AGAIN_LATER, "too slow")

    def _timer(self, connection: Connection) -> None:
        if connection.is_gone:
            return
        if not connection.is_open:
            self._drop(connection)
            return
        interval, silence = self.options.ping_interval, self.loop.silence(connection)
        left = interval + self.options.ping_timeout - silence
        if connection.paused:  # its pong would not be read
            self.loop.set_timer(connection, interval)
        elif connection.pinged and left < 0.2 and self.loop.unread(connection):
            self.loop.set_timer(connection, 1.0)  # we are late, and the pong may be there
        elif connection.pinged and left < 0.2:  # two ticks of the wheel
            self._fail(connection, CloseCode.INTERNAL_ERROR, "no answer to the ping")
        elif connection.pinged:
            self.loop.set_timer(connection, min(interval, left))
        elif silence + 0.2 < interval:
            self.loop.set_timer(connection, interval - silence)
        else:
            self.fanout.write(connection, Opcode.PING, b"")
            connection.pinged = True
            # Where an answer may take longer than an interval, the next ping may be due before its time is over.
            self.loop.set_timer(connection, min(interval, self.options.ping_timeout))

    def _drop(self, connection: Connection) -> None:
        """Close the descriptor; the last thing that happens to a connection."""
        if connection.is_gone:
            return
        self._leave(connection)
        if self._heartbeats is not None:
            self._heartbeats.remove(connection)
        if not connection.close_code:
            counters.add(CLOSED, "1006 without a close frame")
        code = connection.close_code or CloseCode.ABNORMAL
        if self._left and (left := self._left.pop(connection, None)) is not None:
            left()
        if self.keeping is not None:
            self.keeping.closed(connection, self.loop.now)
        if self._overrides and (overrides := self._overrides.pop(connection, None)) is not None:
            overrides.closed(code, connection.close_reason)
        seconds = self.loop.age(connection)
        name = str(connection)
        self.loop.remove(connection)
        messages_in, bytes_in, messages_out, bytes_out = connection.traffic
        self.closed_traffic = self.closed_traffic[0] + messages_in, self.closed_traffic[1] + messages_out
        logger.info(
            "%s closed: %d %s after %.1f s, in %d messages %d bytes, out %d messages %d bytes",
            name,
            code,
            shown(connection.close_reason),
            seconds,
            messages_in,
            bytes_in,
            messages_out,
            bytes_out,
        )
        if self.draining and not self.loop.count:
            self._stop_now()

    # ------------------------------------------------------------ overridden methods of subscribers

    def _tapped(self, connection: Connection, channel: bytes, payload: bytes, text: bool, withheld: bool) -> None:
        """A message for a connection whose subscriber class wants to see it first."""
        if connection.is_open and not self._overrides[connection].pushed(channel, payload, text, withheld):
            logger.warning("%s is slow: too many messages wait for parse_response() of its subscriber", connection)
            self._fail(connection, CloseCode.TRY_AGAIN_LATER, "too slow")

    def send(self, connection: Connection, opcode: int, payload: bytes) -> None:
        """Send one message to one client, if it is still there."""
        if connection.is_open:
            self.fanout.write(connection, opcode, payload)

    def caught_up(self, connection: Connection) -> None:
        """The client's messages have been worked off: read on."""
        self.loop.resume(connection, PAUSED_BY_OVERRIDES)

    def fail(self, connection: Connection) -> None:
        """Something of the site's has failed, on behalf of this client: it is closed with 1011."""
        self._fail(connection, CloseCode.INTERNAL_ERROR, "internal error")

    # ------------------------------------------------------------ the end

    def _stop(self) -> None:
        self.draining = True
        for connection in self.loop.connections:
            self._fail(connection, *RESTART)
        if self.loop.count:
            self.call_later(STOP_TIME, self._stop_now)
        else:
            self._stop_now()

    def _stop_now(self) -> None:
        if self.stopped.is_set():
            return
        for connection in self.loop.connections:
            self._drop(connection)
        self.keeper.stop()
        self.stopped.set()
        self._turn_away()

    def _turn_away(self) -> None:
        """Close what was attached too late."""
        while self._arrivals:
            try:
                self._arrivals.popleft().abandon(encode_frame(encode_close(*RESTART), Opcode.CLOSE))
            except IndexError:
                return  # another thread was faster

    @property
    def busy(self) -> bool:
        """Whether something of clients, who may have left, is still on its way to Redis."""
        return bool(self.outbox) or self.keeper.busy

    def retire(self) -> None:
        """End for want of clients, between two turns."""
        self.draining = self.over = True
        self._stop_now()
        self.threads.finish(0)
        self.loop.close()

    def crash(self) -> None:
        """After an error that nothing else caught: close all clients, so that they come back to a new hub."""
        self.draining = self.over = True
        try:
            for connection in self.loop.connections:
                self._fail(connection, *RESTART)
            self.loop.flush()
        finally:
            self._stop_now()

    def disown(self) -> None:
        """In a forked child: close the copies of the parent's descriptors and leave its clients alone."""
        self.keeper.abandon()
        self.loop.disown()
        self.stopped.set()
