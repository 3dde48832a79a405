"""
The engine of native mode: every websocket stays a request of uWSGI, in its async engine.

Each request waits for its own client. One of them, the pilot, also waits for the one connection to Redis and for the
hub, and does the hub's turns; when its client leaves it wakes another, which takes over. A worker without websockets
has no pilot, so its hub ends with its last one.

All of it happens in one thread. uWSGI's descriptors are numbers in two tables of its own, which brings three rules:
a number has one waiter; it is closed only when nobody waits for it; and a request that waits for two at once has to
reckon with uWSGI closing the second of them. It does so where both are ready in the same moment, because it has
forgotten about the second when it comes to it. So the pilot waits for duplicates, and makes new ones where they are
gone.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from uws4r._connection import Connection
from uws4r.attachment import Attachment
from uws4r.engines.turns import Turns
from uws4r.hub import Hub
from uws4r.shield import Shield

logger = logging.getLogger("uws4r.engines")

LONG = 3600  # seconds; of a request that waits for nothing but to be woken
SPARE_SLOTS = 8  # for requests that are no websockets, be it to be answered 503


class Spare:
    """
    A duplicate of a descriptor, to wait for: uWSGI may close it, and its number may be somebody else's then.

    Args:
        identity: Returns what tells a descriptor's file from all others, None where it is closed.
    """

    def __init__(self, identity: Callable[[int], object]) -> None:
        self._identity = identity
        self._fd = -1
        self._file: object = None

    def of(self, original: int) -> int:
        """Return a duplicate of ``original``, the same as before where it is still one."""
        file = self._identity(original)
        if file != self._file or self._identity(self._fd) != file:
            self.close()
            self._fd, self._file = os.dup(original), file
        return self._fd

    def close(self) -> None:
        """Close the duplicate, if it still is one."""
        if self._file is not None and self._identity(self._fd) == self._file:
            os.close(self._fd)
        self._fd, self._file = -1, None


def socket_of(fd: int) -> object:
    """Return what tells a socket from all others, None where the descriptor is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Requests:
    """
    The requests that a worker's websockets are, and its one pilot among them.

    Args:
        server: The module ``uwsgi``.
    """

    def __init__(self, hub: Hub, server: Any) -> None:
        self.hub = hub
        self._server = server
        self._plugin = server.uws4r
        self._turns = Turns(hub)
        self._thread = threading.get_ident()
        self._pilot: int | None = None  # its slot
        self._parked: dict[int, Connection | None] = {}  # by slot; None: it waits for something else than a client
        self._coming = 0  # requests that are going to be parked
        self._shields: dict[Connection, Shield] = {}
        self._until: dict[int, Callable[[], bool]] = {}  # of those that wait for the hub to bring something about
        self._client = Spare(socket_of)
        self._link = Spare(socket_of)
        self._loop = Spare(lambda fd: hub.loop.owns(fd) or None)
        hub.loop.lend()
        hub.through = self._through
        hub.wait_for = self._wait_for
        hub.max_connections = max(1, server.cores - SPARE_SLOTS)
        hub.max_descriptors = self._plugin.max_fd

    def expect(self) -> None:
        """A request is about to become a websocket: :meth:`serve` will be called, or :meth:`give_up`."""
        self._coming += 1
        # Without a pilot, orders for clients of its time may have been waiting for long; they are not for this one.
        self._turns.once()

    def give_up(self) -> None:
        """The request did not become one."""
        self._coming -= 1
        self._left()

    def serve(self, attachment: Attachment, shield: Shield, early: bytes) -> None:
        """
        Be the request of a websocket until it is gone.

        Args:
            early: What uWSGI has read of the client already.
        """
        connection = self.hub.take(attachment)
        if connection is None:
            self.give_up()
            return
        self._coming -= 1
        self._shields[connection] = shield
        slot = self._enter(connection)
        try:
            if early:
                self.hub.receive(connection, early)
            self._turn(slot)
            if connection.goes_on:
                self.hub.loop.wake()
            while not connection.is_gone:
                if self._park(slot, connection) or connection.goes_on:
                    self.hub.receive(connection)
                self._turn(slot)
                if connection.goes_on:
                    self.hub.loop.wake()  # the pilot, which wakes this request again after everybody else's turn
            self._parked[slot] = None
            while len(self._parked) == 1 and self.hub.busy:  # nobody else is there to see off what it has published
                self._park(slot, None)
                self._turn(slot)
        finally:
            if not connection.is_gone:
                self.hub.give_up(connection)
            os.close(connection.fd)
            del self._shields[connection]
            self._leave(slot)

    def _through(self, connection: Connection, payload: bytes, text: bool) -> bytes:
        return self._shields[connection].through(payload, text)

    def _wait_for(self, event: threading.Event, seconds: float) -> bool:
        if threading.get_ident() != self._thread:
            return event.wait(seconds)
        if event is self.hub.stopped:  # uWSGI ends the worker: none of its requests goes on
            self.hub.loop.take_back()
            return self._turns.until_stopped(seconds)
        deadline = time.monotonic() + seconds
        slot = self._enter(None)
        self._until[slot] = event.is_set
        try:
            while not event.is_set() and (left := deadline - time.monotonic()) > 0:
                self._park(slot, None, int(left) + 1)
                self._turn(slot)
        finally:
            del self._until[slot]
            self._coming += 1  # it goes on with its handshake: not the end of the hub
            self._leave(slot)
            self._coming -= 1
        if not event.is_set():
            self._left()  # it does not become a websocket
        return event.is_set()

    def _enter(self, connection: Connection | None) -> int:
        slot: int = self._plugin.slot()
        self._parked[slot] = connection
        return slot

    def _leave(self, slot: int) -> None:
        del self._parked[slot]
        if self._pilot == slot:
            self._pilot = None
            self._client.close()
        self._left()

    def _left(self) -> None:
        """Hand over to another pilot where there is none; end the hub where nobody is left."""
        if self._parked:
            if self._pilot is None:
                self._plugin.wake(next(iter(self._parked)))
        elif not self._coming:
            self._link.close()
            self._loop.close()
            if not self.hub.stopped.is_set():
                self.hub.retire()

    def _park(self, slot: int, connection: Connection | None, seconds: int = LONG) -> bool:
        """Wait for what concerns this request; return whether its client has something to say."""
        if self._pilot is None:
            self._pilot = slot
        wait = self._server.wait_fd_read
        own = -1 if connection is None or connection.paused else connection.fd
        if self._pilot == slot:
            if own >= 0:
                own = self._client.of(own)
                wait(own)
            link = self.hub.keeper.descriptor()
            if link is not None:
                wait(self._link.of(link))
            wait(self._loop.of(self.hub.fileno()), seconds)
        elif own >= 0:
            wait(own)
        else:
            if connection is not None:
                self._until[slot] = lambda: connection.is_gone or connection.goes_on or not connection.paused
            self._server.async_sleep(seconds)
        self._server.suspend()
        if connection is not None:
            self._until.pop(slot, None)
        return own >= 0 and self._server.ready_fd() == own

    def _turn(self, slot: int) -> None:
        try:
            self._turns.once()
        except Exception:
            logger.exception("a bug in uws4r ends the hub: all its clients are sent away, the next one gets a new hub")
            self.hub.crash()
        # Only the pilot wakes others, once in each round of uWSGI's: what is woken runs in the same round, so those who
        # always have something to do would keep it going for ever, and uWSGI would look at no descriptor.
        ready = [other for other, happened in self._until.items() if other != slot and happened()]
        if slot == self._pilot:
            for other in ready:
                self._plugin.wake(other)
        if self.hub.has_more or (ready and slot != self._pilot):
            self.hub.loop.wake()  # the pilot, in the next round


def run_in_requests(hub: Hub, server: Any) -> None:
    """Make this worker's websockets the requests of ``hub``."""
    hub.engine = Requests(hub, server)
