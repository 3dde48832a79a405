"""
The site's heartbeat (``WS4REDIS_HEARTBEAT``): a message to each client every four seconds, whatever else it gets.

Browser code of ws4redis counts the heartbeats that it misses, and nothing else. The protocol's own pings
are the hub's.
"""

from collections.abc import Callable

from uws4r._connection import Connection
from uws4r._fanout import Fanout
from uws4r._hub import Loop
from uws4r.rfc6455 import Opcode

INTERVAL = 4.0  # seconds
SLOTS = 40  # a fortieth of the clients at a time, so that no turn writes to all of them


class Heartbeats:
    """
    Args:
        payload: What is sent.
        call_later: See :meth:`uws4r.hub.Hub.call_later`.
    """

    def __init__(
        self, payload: bytes, loop: Loop, fanout: Fanout, call_later: Callable[[float, Callable[[], None]], None]
    ) -> None:
        self._payload = payload
        self._loop = loop
        self._fanout = fanout
        self._call_later = call_later
        self._slots: list[set[Connection]] = [set() for _ in range(SLOTS)]
        self._count = 0
        self._beating = False
        self._tick = 0
        self._next = 0.0  # of the loop's clock

    def add(self, connection: Connection) -> None:
        """Begin, with the first heartbeat within the interval."""
        self._slots[connection.fd % SLOTS].add(connection)
        self._count += 1
        if not self._beating:
            self._beating = True
            self._next = self._loop.now
            self._wait()

    def remove(self, connection: Connection) -> None:
        """End; the connection's descriptor is still open."""
        slot = self._slots[connection.fd % SLOTS]
        if connection in slot:
            slot.remove(connection)
            self._count -= 1

    def _wait(self) -> None:
        # Counted from the time it was due, so that the lateness of turns does not add up.
        self._next = max(self._next + INTERVAL / SLOTS, self._loop.now)
        self._call_later(self._next - self._loop.now, self._beat)

    def _beat(self) -> None:
        if not self._count:
            self._beating = False
            return
        self._tick = (self._tick + 1) % SLOTS
        for connection in self._slots[self._tick]:
            if connection.is_open:
                self._fanout.write(connection, Opcode.TEXT, self._payload)
        self._wait()
