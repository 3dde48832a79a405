"""
Connects the hub to Redis, and again whenever the connection is lost.

Connecting blocks (names, TLS, AUTH), so it happens in threads of its own; everything else here is
called by the hub's thread, but for :meth:`Connector.wait`.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from redis.connection import Connection as RedisConnection
from redis.exceptions import RedisError

from uws4r.errors import ConfigurationError
from uws4r.link import open_connection, require_master
from uws4r.refusals import explained

logger = logging.getLogger("uws4r.link")

LONGEST_PAUSE = 0.8  # seconds between two attempts
MOST_ATTEMPTS = 6  # at the same time: one that hangs does not keep the next from succeeding
STABLE = 1.0  # seconds that a connection has to last to count as a success
WATCH = 1.0  # seconds between two questions to the sentinels whether the master is still the same
PATIENCE = 5.0  # seconds without Redis after which new clients are turned away at once


class Connector:
    """
    Args:
        redis: Returns a fresh, unconnected redis-py connection that speaks RESP3.
        call_soon: Has something called by the hub's thread; safe from any thread.
        call_later: The same after so many seconds; the hub's thread calls it.
        opened: What the hub does with an open connection.
        moved: Called when the sentinels name another master than the one that is connected to.
        wait_for: Waits for an event at most so many seconds, and returns whether it is set.
    """

    def __init__(
        self,
        redis: Callable[[], RedisConnection],
        call_soon: Callable[[Callable[[], None]], None],
        call_later: Callable[[float, Callable[[], None]], None],
        opened: Callable[[RedisConnection], None],
        moved: Callable[[], None],
        wait_for: Callable[[threading.Event, float], bool],
    ) -> None:
        self._redis = redis
        self._call_soon = call_soon
        self._call_later = call_later
        self._opened = opened
        self._moved = moved
        self._wait_for = wait_for
        self._attempts = 0  # in a row that made no connection, or none that lasted
        self._running = 0  # of them, those whose end is not known
        self._outage = 0  # its number: attempts of the last one are not gone on with
        self._told: set[str] = set()  # reasons of this outage that have been logged
        self._up_since = 0.0
        self._stopped = False
        self._made: deque[RedisConnection] = deque()  # open ones that the hub's thread has not looked at
        self.up = threading.Event()
        self.down_since = time.monotonic()
        self.failure: str | None = None  # why trying again is not expected to help

    def wait(self, most: float = PATIENCE) -> bool:
        """
        Wait until Redis is there, at most so many seconds; False at once where it has been away for :data:`PATIENCE`.

        Safe from any thread.
        """
        if self.up.is_set():
            return True
        patience = self.down_since + PATIENCE - time.monotonic()
        return self.failure is None and patience > 0 and self._wait_for(self.up, min(patience, most))

    def start(self) -> None:
        """Connect, now; and again and again until it succeeds."""
        if self._stopped or self.up.is_set():
            return
        if self._running < MOST_ATTEMPTS:
            self._running += 1
            threading.Thread(target=self._connect, name="uws4r-connect", daemon=True).start()
        self._start_later()

    def _start_later(self) -> None:
        self._attempts += 1
        pause = min(LONGEST_PAUSE, 0.05 * 2 ** min(self._attempts, 10))
        self._call_later(pause * random.uniform(0.5, 1.0), partial(self._start_again, self._outage))

    def _start_again(self, outage: int) -> None:
        if outage == self._outage:
            self.start()

    def lost(self) -> None:
        """The connection is lost: make another, at once unless it was short-lived itself."""
        self.up.clear()
        self.down_since = time.monotonic()
        self._outage += 1
        if self.down_since - self._up_since > STABLE:
            self._attempts = 0
            self.start()
        else:
            self._start_later()

    def stop(self) -> None:
        """Make no more connections; of those that are on their way each is closed when it is made."""
        self._stopped = True
        self._turn_away()

    def _turn_away(self) -> None:
        """In place of the hub's thread, which may take no turn any more."""
        while self._made:
            try:
                self._made.popleft().disconnect()
            except IndexError:
                return  # another thread was faster

    def _connect(self) -> None:
        try:
            connection = self._redis()
            open_connection(connection)
            require_master(connection)
        except ConfigurationError as error:
            message, final = str(error), True
        except (RedisError, OSError) as error:
            message, final = explained(error), False
        except Exception as error:
            logger.exception("connecting to Redis failed in an unforeseen way")
            message, final = str(error), True
        else:
            self._made.append(connection)
            self._call_soon(self._succeeded)
            if self._stopped:
                self._turn_away()
            return
        self._call_soon(lambda: self._failed(message, final))

    def _succeeded(self) -> None:
        self._running -= 1
        if self._stopped:
            self._turn_away()
            return
        connection = self._made.popleft()
        if self.up.is_set():  # another attempt was faster
            connection.disconnect()
            return
        self.failure = None
        self._opened(connection)
        self._up_since = time.monotonic()
        self.up.set()
        self._told.clear()
        logger.info("linked to Redis")
        self._watch(self._outage, connection)

    def _watch(self, outage: int, connection: RedisConnection) -> None:
        """Sentinels may name another master while the old one goes on answering, for ten seconds and more."""
        pool = getattr(connection, "connection_pool", None)
        if pool is None or outage != self._outage or self._stopped:
            return

        def ask() -> None:
            try:
                moved = pool.get_master_address() != (connection.host, connection.port)
            except Exception:  # no sentinel answers: the link is what there is
                moved = False
            self._call_soon(compare if moved else again)

        def compare() -> None:
            if outage == self._outage and not self._stopped:
                self._moved()

        def again() -> None:
            self._watch(outage, connection)

        def begin() -> None:
            threading.Thread(target=ask, name="uws4r-connect", daemon=True).start()

        self._call_later(WATCH, begin)

    def _failed(self, message: str, final: bool) -> None:
        self._running -= 1
        if self._stopped or self.up.is_set():
            return
        self.failure = message if final else None
        if message in self._told:
            return
        self._told.add(message)
        if final:
            logger.critical("no websockets: %s", message)
        else:
            logger.error("Redis cannot be reached, trying again: %s", message)
