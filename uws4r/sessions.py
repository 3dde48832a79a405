"""
Whether the clients' sessions are still theirs: a look from time to time, and where somebody says so.

Signals tell of most logouts. What has no signal, and what Redis has swallowed, is found here: each session
is read at the time when it is known to end, and once in a while, on a worker thread. What cannot be read closes nobody.

A session that is gone has been ended, or goes on under another key: a login, and a change of one's own password,
renew the key. The store cannot say which. So it is looked at twice, a second apart: an order may tell of a logout
meanwhile, and the browser gets to know its new key. Then its websocket is closed so that the client comes back.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from uws4r._connection import Connection
from uws4r.attachment import ENDED, GONE, OWN, TOLD, Identity, Over
from uws4r.hub import Hub
from uws4r.quoting import shown

logger = logging.getLogger("uws4r.sessions")

READS = 20  # at most, a second
READERS = 2  # at the same time: each is a thread, with a connection to the database

# Called on a worker thread with a session's key and the user's name as Identity has it. Returns when the
# session ends, in seconds of the epoch; what has become of it if it is not that user's session any more.
ReadSession = Callable[[str, str], int | Over]


class SessionChecks:
    """
    Args:
        read: Reads one session.
        period: Seconds between two looks at a session, as far as :data:`READS` allows; 0: only where asked, and
            when it is known to end.
        hub: Whose clients they are.
    """

    def __init__(self, read: ReadSession, period: float, hub: Hub) -> None:
        self._read = read
        self._period = period
        self._hub = hub
        self._urgent: dict[Connection, Over | None] = {}  # in order, each once; with what is known of it
        self._round: deque[Connection] = deque()  # the rest of the present round
        self._share = 0.0  # of the round, for each tick
        self._carry = 0.0
        self._due: deque[tuple[Connection, Over | None]] = deque()  # to be read now
        self._reading = 0
        self._failing = False
        hub.each_second = self.tick

    def ask(self, connections: Iterable[Connection], known: Over | None = None) -> None:
        """
        Look at the sessions of these first.

        Args:
            known: What a look before has found, or the site has told, so that one look is enough.
        """
        for connection in connections:
            if self._urgent.get(connection) is not TOLD:
                self._urgent[connection] = known or self._urgent.get(connection)

    def tick(self, expired: list[Connection]) -> None:
        """Begin the reads of one second, first of those whose session is known to end now."""
        self.ask(expired)
        if self._period and not self._round:
            self._round.extend(connection for connection in self._hub.loop.connections if connection.expires)
            self._share = len(self._round) / self._period
        self._carry = min(self._carry + self._share, READS)
        room = READS - self._reading - len(self._due)  # what takes long is not piled up
        while self._urgent and room > 0:
            connection = next(iter(self._urgent))
            room -= self._want(connection, self._urgent.pop(connection))
        while self._round and room > 0 and self._carry >= 1:
            self._carry -= 1
            room -= self._want(self._round.popleft())
        self._begin()

    def _want(self, connection: Connection, known: Over | None = None) -> bool:
        session = connection.session if connection.is_open else None
        wanted = session is not None and bool(connection.expires or not session.startswith(OWN))
        if wanted:
            self._due.append((connection, known))
        return wanted

    def _begin(self) -> None:
        while self._due and self._reading < READERS:
            connection, known = self._due.popleft()
            self._reading += 1
            user = Identity.parsed(connection.identity).user
            self._hub.threads.submit(partial(self._look, connection, known, str(connection.session), user))

    def _look(self, connection: Connection, known: Over | None, session: str, user: str) -> None:
        """On a worker thread."""
        try:
            found = self._read(session, user)
        except Exception as error:
            self._hub.call_soon(partial(self._failed, error))
        else:
            self._hub.call_soon(partial(self._seen, connection, known, found))

    def _seen(self, connection: Connection, known: Over | None, found: int | Over) -> None:
        self._reading -= 1
        self._begin()
        self._failing = False
        if not isinstance(found, Over):
            if connection.expires:
                connection.expires = max(found, int(time.time()) + 1)
        elif known is None:
            self.ask([connection], found)
        elif found is GONE and (known is TOLD or 0 < connection.expires <= time.time()):
            self._hub.close(connection, *ENDED)
        else:
            self._hub.close(connection, *found)

    def _failed(self, error: Exception) -> None:
        self._reading -= 1
        self._begin()
        if not self._failing:
            self._failing = True
            logger.warning(
                "sessions cannot be read, so nobody is closed for a session that has ended: %s", shown(repr(error))
            )
