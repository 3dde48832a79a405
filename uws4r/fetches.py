"""
What clients find when they come: the last messages of their channels, read at the place of the link where they join.

Clients that come together share one read, so a message that all of them find is fetched once. One read is on the way at
a time, and it brings back a bounded number of bytes: Redis cuts a link for which too much waits.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from uws4r._connection import Connection
from uws4r._hub import Loop
from uws4r.errors import LinkError
from uws4r.link import Link, passes
from uws4r.rfc6455 import CloseCode

logger = logging.getLogger("uws4r.link")

AT_ONCE = 200  # clients that share a read
NAMES_AT_ONCE = 1000  # of different channels, in one read; of a client that has more, all
BYTES = 4 << 20  # that a read brings back
FEW_BYTES = 64 << 10  # the same for a client whose read has been lost with the link: so few are not what has cut it
MOST_BYTES = 16 << 20  # the same for a client whose channels' messages take more; it is read for alone
PAUSED_BY_FETCHES = 8  # a reason of Loop.pause: what a client publishes must not overtake its read

# For each name its value; once they take more bytes than there may be, the length of the one that is too long, and -1
# for those that have not been looked at. MGET, not GET: what is no string has no value then, and rights stay the same.
SCRIPT = (
    b"local room,out,full=tonumber(ARGV[1]),{},false for i,name in ipairs(KEYS) do "
    b"local value=-1 if not full then local got=redis.pcall('MGET',name) "
    b"if got.err then value=got else value=got[1] if value then "
    b"if #value>room then value=#value full=true else room=room-#value end end end end "
    b"out[i]=value end return out"
)

Asked = tuple[Connection, int]  # a connection, and the number of its question: a later one makes it void


class Fetches:
    """
    Args:
        late: Names of channels that Redis has not subscribed us to yet; whoever wants one has to wait.
        ask_again: Has :meth:`ask_all` called, soon: Redis is busy.
        answered: Given a connection, and the values of its channels (None where it wants none): here it joins.
        refused: Given a connection that is to be closed, with code and reason.
        log_refusal: Given a command and the error that was its answer.
    """

    def __init__(
        self,
        loop: Loop,
        late: Callable[[], set[bytes]],
        ask_again: Callable[[], None],
        answered: Callable[[Connection, Any], None],
        refused: Callable[[Connection, int, str], None],
        log_refusal: Callable[[str, object], None],
    ) -> None:
        self._loop = loop
        self._late = late
        self._ask_again = ask_again
        self._answered = answered
        self._refused = refused
        self._log_refusal = log_refusal
        self._link: Link | None = None
        self._numbers = count(1)
        self._waiting: deque[Asked] = deque()
        self._unsent: list[Connection] = []  # of those, the ones that are not paused
        self._reading: list[Asked] | None = None  # those whose read is on the way
        self._room = 0  # bytes that it brings back

    # ------------------------------------------------------------ the link

    def opened(self, link: Link) -> None:
        """There is a link; everybody who waits asks anew."""
        self._link = link
        self.ask_all()

    def lost(self) -> None:
        """The link is gone."""
        self._link = None
        if self._room > FEW_BYTES:
            for connection, number in self._reading or ():
                if _wants(connection, number):
                    connection.attachment.in_vain += 1
        self._reading = None
        self._waiting.clear()
        self._unsent.clear()
        for connection in self._loop.connections:
            self._loop.resume(connection, PAUSED_BY_FETCHES)

    # ------------------------------------------------------------ asking

    def ask_all(self) -> None:
        """Ask for every connection that has not joined yet."""
        self._waiting.clear()
        self._reading = None
        for connection in self._loop.connections:
            if connection.attachment is not None:
                self.ask(connection)

    def ask(self, connection: Connection) -> None:
        """Ask for a place on the link, now or when there is one; what was asked for this connection before is void."""
        attachment = connection.attachment
        attachment.asked = next(self._numbers)
        if self._link is None:
            pass  # as soon as there is one
        elif not (attachment.fetch and attachment.channels):
            self._link.greet(self._greeted, (connection, attachment.asked))
        else:
            self._waiting.append((connection, attachment.asked))
            self._unsent.append(connection)

    def send(self) -> None:
        """Send the next read, unless one is on the way; whoever has to wait for it is not read from meanwhile."""
        if not self._waiting:
            return
        if self._reading is None:
            self._read()
        sent = {connection for connection, _ in self._reading or ()}
        for connection in self._unsent:
            if connection.is_open and connection not in sent:
                self._loop.pause(connection, PAUSED_BY_FETCHES)
        self._unsent.clear()

    def forget(self, connection: Connection) -> None:
        """The connection does not want to join any more."""
        self._loop.resume(connection, PAUSED_BY_FETCHES)

    def _read(self) -> None:
        link = self._link
        assert link is not None
        names: dict[bytes, None] = {}  # each once, in the order of those who want them
        batch: list[Asked] = []
        room = BYTES
        while self._waiting and len(batch) < AT_ONCE:
            connection, number = self._waiting[0]
            if not _wants(connection, number):
                self._waiting.popleft()
                continue
            attachment = connection.attachment
            alone = attachment.in_vain or attachment.alone
            wanted = [channel.name for channel in attachment.channels]
            if batch and (alone or len(names) + len(wanted) > NAMES_AT_ONCE):
                break
            self._waiting.popleft()
            if attachment.in_vain > 1:
                logger.warning("%s is closed: twice the link was lost while its last messages were read", connection)
                self._refused(connection, CloseCode.TRY_AGAIN_LATER, "its last messages cannot be read")
                continue
            batch.append((connection, number))
            names.update(dict.fromkeys(wanted))
            self._loop.resume(connection, PAUSED_BY_FETCHES)
            if alone:
                room = MOST_BYTES if attachment.alone else FEW_BYTES
                break
        if batch:
            self._reading, self._room = batch, room
            words = b"EVAL", SCRIPT, b"%d" % len(names), *names, b"%d" % room
            link.send(words, self._read_done, (batch, list(names), room))

    # ------------------------------------------------------------ the answer

    def _read_done(self, context: tuple[list[Asked], list[bytes], int], reply: Any) -> None:
        batch, names, room = context
        if self._reading is not batch or isinstance(reply, LinkError):
            return  # asked anew as soon as there is a link
        self._reading = None
        if passes(reply):
            self._ask_again()
        elif not isinstance(reply, Exception):
            self._hand_out(batch, dict(zip(names, reply, strict=False)), room)
        elif len(batch) > 1:
            for connection, _ in batch:  # one of them is to blame, and nobody knows which
                if connection.attachment is not None:
                    connection.attachment.alone = True
            self._put_back(batch)
        else:
            self._refuse(batch[0][0], reply)

    def _greeted(self, context: Asked, reply: Any) -> None:
        """The place of a client that wants no last messages."""
        connection, number = context
        if isinstance(reply, LinkError) or not _wants(connection, number):
            return
        if passes(reply) or not self._late().isdisjoint(channel.name for channel in connection.attachment.channels):
            self._ask_again()
        elif isinstance(reply, Exception):
            self._refuse(connection, reply)
        else:
            self._answered(connection, None)

    def _hand_out(self, batch: list[Asked], values: dict[bytes, Any], room: int) -> None:
        late = self._late()
        left: list[Asked] = []
        for place, (connection, number) in enumerate(batch):
            if not _wants(connection, number):
                continue
            attachment = connection.attachment
            wanted = [channel.name for channel in attachment.channels]
            if late and not late.isdisjoint(wanted):
                self._ask_again()
                continue
            found = [values.get(name) for name in wanted]
            if errors := [value for value in found if isinstance(value, Exception)]:
                self._refuse(connection, errors[0])
            elif not any(isinstance(value, int) for value in found):
                self._answered(connection, found)
            elif room == MOST_BYTES:
                self._answered(connection, list(_shortened(wanted, found)))
            else:
                attachment.alone = place == 0  # it had all the room there was
                left.append((connection, number))
        self._put_back(left)

    def _put_back(self, batch: Iterable[Asked]) -> None:
        # In front of those who came later; they wait as the others do.
        self._waiting.extendleft(reversed(list(batch)))
        self._unsent.extend(connection for connection, _ in batch)

    def _refuse(self, connection: Connection, error: object) -> None:
        self._log_refusal(f"to read the last messages of {connection}", error)
        self._refused(connection, CloseCode.INTERNAL_ERROR, "Redis refused")


def _wants(connection: Connection, number: int) -> bool:
    attachment = connection.attachment
    return attachment is not None and attachment.asked == number and connection.is_open


def _shortened(names: list[bytes], values: list[Any]) -> Iterable[Any]:
    """Leave out what is too long to be fetched."""
    for name, value in zip(names, values, strict=True):
        if isinstance(value, int):
            logger.warning(
                "a client's last messages take more than %d bytes: the one of %s is not sent to it",
                MOST_BYTES,
                ascii(name),
            )
            value = None
        yield value
