"""
How much of what clients publish Redis keeps: a budget of bytes a second for a websocket, an address and a worker.

:class:`Keeping` says whether the next message of a client may become the last one of its channels. The hub carries that
out: what may not is delivered all the same. What a site publishes itself does not come here.

What is counted is how much Redis' memory grows. A websocket that overwrites its own last message pays only for what
the new one is longer and for how much longer it stays, so a busy chat costs next to nothing, while a stranger who
leaves a new key with each connection pays in full.
"""

import logging

from uws4r._connection import Connection
from uws4r._outbox import Paid
from uws4r.attachment import NO_ADDRESS, NOBODY, Identity
from uws4r.counters import NOT_KEPT, counters
from uws4r.shares import share_of

logger = logging.getLogger("uws4r.hub")

SAVED = 60.0  # seconds of its rate that a budget saves up
# Bytes of a key besides name and value, and what the allocator rounds up: measured with Redis 7 and jemalloc.
KEY = 200
ROUNDED = 1.26
SLACK = 0.1  # of the time that a message is kept: so long a websocket that has paid may go on without another look
MOST = 4096  # addresses, and owners of debts, that are told apart
LOG_PAUSE = 60.0  # seconds between two lines of a kind

# Nobody's addresses: a Unix socket, and a proxy on this machine that UWS4R_PROXIES does not name.
HERE = NO_ADDRESS, "127.0.0.1", "::1"
OTHERS = ""  # in a table that is full: all who have no place of their own in it


def price(size: int, names: tuple[bytes, ...]) -> float:
    """Return the bytes that a message of this size takes in Redis, kept once under each name."""
    return ROUNDED * (size * len(names) + sum(map(len, names))) + KEY * len(names)


class Rate:
    """
    A budget, kept as the time at which all that has been spent is earned again.

    Args:
        setting: Its name, for the log.
        rate: Bytes a second; 0 for no limit.
        least: Bytes that have to fit, however small the rate.
    """

    __slots__ = ("most", "per_byte", "setting")

    def __init__(self, setting: str, rate: float, least: float) -> None:
        self.setting = setting
        self.per_byte = 1.0 / rate if rate else 0.0  # seconds
        self.most = max(SAVED, least * self.per_byte)  # seconds that may be spent in advance


class Table:
    """Times at which debts are paid off, by whose they are; :data:`MOST` of them, and one for all others."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._looked = 0.0

    def __len__(self) -> int:
        return len(self._times)

    def get(self, key: str) -> float:
        """Return the time for ``key``, that of all others where it has none."""
        times = self._times
        found = times.get(key)
        return times.get(OTHERS, 0.0) if found is None else found

    def set(self, key: str, time: float, now: float) -> None:
        """Note a time; where the table is full, for all who have no place in it."""
        if key not in self._times and len(self._times) >= MOST:
            if now >= self._looked + 1.0:  # not at each message of those who fill it
                self._looked = now
                self._times = {each: until for each, until in self._times.items() if until > now}
            if len(self._times) >= MOST:
                key = OTHERS
        self._times[key] = time

    def take(self, key: str) -> float:
        """Return the time for ``key`` and forget it; that of all others stays."""
        found = self._times.pop(key, None)
        return self._times.get(OTHERS, 0.0) if found is None else found


class Share(Paid):
    """One websocket: what it has spent, and what it has paid for."""

    __slots__ = ("address", "owner", "price", "spent", "until")

    def __init__(self, address: str, owner: str, spent: float) -> None:
        super().__init__()
        self.address = address  # see share_of()
        self.owner = owner  # who is left with its debt; "" where nobody can be told from others
        self.spent = spent  # up to when, of the budget of a websocket
        self.price = 0.0  # bytes that what it has paid for takes in Redis,
        self.until = 0.0  # and until when


class Keeping:
    """
    All that the clients of one worker keep. Times are seconds of any clock that the caller uses throughout.

    Args:
        client, address, worker: Bytes a second of a websocket, an address, the worker; 0 for no limit.
        message_size: Bytes of the largest message; one of that size always fits into an unused budget.
    """

    def __init__(self, client: float, address: float, worker: float, message_size: int) -> None:
        largest = price(message_size, (b"",)) + ROUNDED * 4096
        self._client = Rate("UWS4R_KEEP_RATE", client, largest)
        self._address = Rate("UWS4R_KEEP_RATE_PER_IP", address, largest)
        self._worker = Rate("UWS4R_KEEP_RATE_PER_WORKER", worker, 2 * largest)
        self.shares: dict[Connection, Share] = {}  # see Outgoing.paid()
        self._enough = 64  # shares, at which those that are worth nothing any more are looked for
        self._addresses = Table()
        self._debts = Table()  # of websockets that are closed
        self._spent = 0.0  # of the worker
        self._quiet: dict[str, tuple[float, int]] = {}  # by setting: until when no line is written, how many were not

    def __len__(self) -> int:
        """How many websockets have a state here."""
        return len(self.shares)

    def keeps(self, connection: Connection, names: tuple[bytes, ...], size: int, expire: int, now: float) -> bool:
        """
        Whether a message may be kept that is not :meth:`~uws4r._outbox.Outgoing.paid` for; with this it is.

        Args:
            names: The keys that it is kept under; each counts.
            size: Bytes of the message.
            expire: Seconds for which it is kept.
        """
        share = self.shares.get(connection) or self._begin(connection, now)
        try:
            return self._pay(connection, share, names, size, expire, now)
        finally:
            if connection.is_gone:  # a subscriber class publishes on behalf of one that has just been closed
                self.closed(connection, now)

    def closed(self, connection: Connection, now: float) -> None:
        """The websocket is closed: the next one of the same address and user begins with what it owes."""
        share = self.shares.pop(connection, None)
        if share is not None and share.owner and share.spent > now:
            spent = max(self._debts.get(share.owner), now) + share.spent - now
            self._debts.set(share.owner, min(spent, now + self._client.most), now)

    def _begin(self, connection: Connection, now: float) -> Share:
        if len(self.shares) >= self._enough:
            idle = [one for one, share in list(self.shares.items()) if max(share.spent, share.covered) <= now]
            for one in idle:
                del self.shares[one]
            self._enough = 2 * len(self.shares) + 64
        who = Identity.parsed(connection.identity)
        address = "" if who.address in HERE else share_of(who.address)
        user = "" if who.user == NOBODY else who.user
        owner = f"{address} {user}" if address or user else ""
        share = self.shares[connection] = Share(address, owner, self._debts.take(owner) if owner else 0.0)
        return share

    def _pay(
        self, connection: Connection, share: Share, names: tuple[bytes, ...], size: int, expire: int, now: float
    ) -> bool:
        due = whole = price(size, names)
        if names == share.names and share.until > now:
            due -= min(whole, share.price) * min(1.0, (share.until - now) / expire)
        client, address, worker = self._client, self._address, self._worker
        spent = max(share.spent, now)
        spent_there = max(self._addresses.get(share.address), now) if share.address else now
        spent_here = max(self._spent, now)
        # The last half of the worker's budget is for those who have spent little of their own.
        modest = share.owner and spent - now <= client.most / 4 and spent_there - now <= address.most / 4
        room = worker.most if modest else worker.most / 2
        for rate, level, most in (
            (client, spent, client.most),
            (address, spent_there, address.most),
            (worker, spent_here, room),
        ):
            if level - now + due * rate.per_byte > most:
                self._refuse(rate.setting, connection, now)
                return False
        share.spent = spent + due * client.per_byte
        if share.address:
            self._addresses.set(share.address, spent_there + due * address.per_byte, now)
        self._spent = spent_here + due * worker.per_byte
        share.names, share.size, share.price = names, size, whole
        share.until = now + expire
        share.covered = share.until + SLACK * expire
        return True

    def _refuse(self, setting: str, connection: Connection, now: float) -> None:
        counters.add(NOT_KEPT, f"more than {setting}")
        until, unsaid = self._quiet.get(setting, (now, 0))
        if now < until:
            self._quiet[setting] = until, unsaid + 1
            return
        self._quiet[setting] = now + LOG_PAUSE, 0
        more = f"; {unsaid} more since the last such line" if unsaid else ""
        logger.warning("%s publishes more than %s allows: delivered, and not kept%s", connection, setting, more)
