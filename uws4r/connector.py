"""
Connects the hub to Redis, and again whenever the connection is lost.

Connecting blocks (names, TLS, AUTH), so it happens in a thread of its own; everything else here is
called by the hub's thread, but for :meth:`Connector.wait`.
"""

import logging
import random
import threading
import time
from collections.abc import Callable

from redis.connection import Connection as RedisConnection
from redis.exceptions import RedisError

from uws4r.errors import ConfigurationError
from uws4r.link import open_connection

logger = logging.getLogger("uws4r.link")

LONGEST_PAUSE = 2.0  # seconds between two attempts
STABLE = 1.0  # seconds that a connection has to last to count as a success
PATIENCE = 5.0  # seconds without Redis after which new clients are turned away at once


class Connector:
    """
    Args:
        redis: Returns a fresh, unconnected redis-py connection that speaks RESP3.
        call_soon: Has something called by the hub's thread; safe from any thread.
        call_later: The same after so many seconds; the hub's thread calls it.
        opened: What the hub does with an open connection.
        wait_for: Waits for an event at most so many seconds, and returns whether it is set.
    """

    def __init__(
        self,
        redis: Callable[[], RedisConnection],
        call_soon: Callable[[Callable[[], None]], None],
        call_later: Callable[[float, Callable[[], None]], None],
        opened: Callable[[RedisConnection], None],
        wait_for: Callable[[threading.Event, float], bool],
    ) -> None:
        self._redis = redis
        self._call_soon = call_soon
        self._call_later = call_later
        self._opened = opened
        self._wait_for = wait_for
        self._attempts = 0  # in a row that made no connection, or none that lasted
        self._up_since = 0.0
        self._stopped = False
        self.up = threading.Event()
        self.down_since = time.monotonic()
        self.failure: str | None = None  # why trying again is not expected to help

    def wait(self) -> bool:
        """
        Wait until Redis is there; False at once where it has been away for :data:`PATIENCE`.

        Safe from any thread.
        """
        if self.up.is_set():
            return True
        patience = self.down_since + PATIENCE - time.monotonic()
        return self.failure is None and patience > 0 and self._wait_for(self.up, patience)

    def start(self) -> None:
        """Connect, now."""
        if not self._stopped:
            threading.Thread(target=self._connect, name="uws4r-connect", daemon=True).start()

    def lost(self) -> None:
        """The connection is lost: make another, at once unless it was short-lived itself."""
        self.up.clear()
        self.down_since = time.monotonic()
        if self.down_since - self._up_since > STABLE:
            self._attempts = 0
            self.start()
        else:
            self._start_later()

    def stop(self) -> None:
        """Make no more connections."""
        self._stopped = True

    def _connect(self) -> None:
        try:
            connection = self._redis()
            open_connection(connection)
        except ConfigurationError as error:
            message, final = str(error), True
        except (RedisError, OSError) as error:
            message, final = str(error), False
        except Exception as error:
            logger.exception("connecting to Redis failed in an unforeseen way")
            message, final = str(error), True
        else:
            self._call_soon(lambda: self._succeeded(connection))
            return
        self._call_soon(lambda: self._failed(message, final))

    def _succeeded(self, connection: RedisConnection) -> None:
        if self._stopped:
            connection.disconnect()
            return
        self.failure = None
        self._opened(connection)
        self._up_since = time.monotonic()
        self.up.set()
        logger.info("linked to Redis")

    def _failed(self, message: str, final: bool) -> None:
        if final:
            self.failure = message
            logger.critical("no websockets: %s", message)
        elif self._attempts == 0:
            logger.error("Redis cannot be reached, trying again: %s", message)
        self._start_later()

    def _start_later(self) -> None:
        self._attempts += 1
        pause = min(LONGEST_PAUSE, 0.05 * 2 ** min(self._attempts, 10))
        self._call_later(pause * random.uniform(0.5, 1.0), self.start)
