"""
Orders to all workers: ``manage.py uws4r`` and the signals of logins publish them, every worker carries them out.

An order is a JSON object on one channel of Redis. Whoever may publish there may give them.
"""

import json
import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from uws4r._connection import Connection
from uws4r._frames import encode_close
from uws4r.attachment import NOBODY, OWN, TOLD, Identity, Over
from uws4r.counters import counters
from uws4r.hub import Hub
from uws4r.quoting import shown
from uws4r.recent import Recent
from uws4r.rfc6455 import CloseCode
from uws4r.sessions import SessionChecks

logger = logging.getLogger("uws4r.control")

GATHER = 0.2  # seconds in which orders are gathered, so that clients are looked through once for all of them
SECTIONS = ("users", "sessions", "paths")
Names = tuple[tuple[str, str | None], ...]  # of a connection, by section
LOGOUT = 5.0  # seconds: Django tells of a logout a moment before it ends the session, which others may find meanwhile
MOST_FOUND = 10  # identities in the answer to whoever looks for connections
SUBSCRIBED = 0.1  # seconds that a new link may take until orders come


class Order:
    """
    What to do, and for whom: for users, sessions and paths as :class:`~uws4r.attachment.Identity` has them.

    Raises:
        Exception: It is none.
    """

    def __init__(self, data: bytes) -> None:
        fields = json.loads(data)
        self.do = str(fields.get("do"))
        reply_to = fields.get("reply_to")
        self.reply_to = None if reply_to is None else str(reply_to).encode()
        self.code = int(fields.get("code", 0))
        self.reason = str(fields.get("reason", ""))
        if self.do == "close":
            encode_close(self.code, self.reason)  # what cannot be sent is found out here
        self.under = tuple(str(name).encode("utf-8", "surrogatepass") for name in fields.get("under", ()))
        self.everybody = bool(fields.get("everybody"))
        self.user = fields.get("user")  # who has logged in, where somebody else may have been
        self.whom = {section: {str(name) for name in fields.get(section, ())} for section in SECTIONS}
        self.received = time.monotonic()
        self.size = len(self.under) + sum(map(len, self.whom.values()))
        self.met = 0  # connections
        self.found: list[str] = []  # of those that were looked for, the first identities

    def means(self, names: Names) -> bool:
        """Whether the order is for a connection with these names."""
        return any(name in self.whom[section] for section, name in names)


class Control:
    """
    Carries out the orders that reach one hub, in the hub's thread.

    Args:
        sessions: Looks at the sessions of clients; None where there are none.
        about: What else to say of this worker when its status is asked for; JSON can say it.
    """

    def __init__(self, hub: Hub, sessions: SessionChecks | None = None, about: Mapping[str, Any] | None = None) -> None:
        self._hub = hub
        self._sessions = sessions
        self._about = about or {}
        self._gathered: list[Order] = []
        self._recent = Recent()
        self._acts: dict[str, Callable[[Connection, Order], None]] = {
            "close": self._close,
            "leave": self._leave,
            "check": self._check,
            "find": self._find,
        }
        hub.fanout.on_control = self.receive
        hub.on_taken = self.taken

    def receive(self, data: bytes) -> None:
        """Take an order; what is none is logged."""
        try:
            order = Order(data)
        except Exception as error:  # JSON can be wrong in many ways, deep nesting and endless numbers among them
            logger.warning("what came as an order is none: %s", shown(error))
            return
        if order.do == "status":
            self._answer(order, {**status(self._hub), **self._about})
        elif order.do in self._acts:
            if not self._gathered:
                self._hub.call_later(GATHER, self._carry_out)
            self._gathered.append(order)
        else:
            logger.warning("an order that is unknown here: %s", shown(order.do))

    def _carry_out(self) -> None:
        orders, self._gathered = self._gathered, []
        index: dict[str, dict[str, list[Order]]] = {section: defaultdict(list) for section in SECTIONS}
        for order in orders:
            for section, names in order.whom.items():
                for name in names:
                    index[section][name].append(order)
        everybodys = [order for order in orders if order.everybody]
        for connection in self._hub.loop.connections:
            if connection.is_open:
                for order in dict.fromkeys([*everybodys, *_for(index, connection)]):
                    order.met += 1
                    self._hub.guarded(self._acts[order.do], connection, order)
        for order in orders:
            if order.do == "find":
                self._answer(order, {"met": order.met, "identities": order.found})
            else:
                self._answer(order, {"met": order.met})
                self._recent.keep(order)

    def taken(self, connection: Connection, began: float) -> None:
        """
        Carry out, on a new connection, the orders that came since its handshake began.

        A handshake may take long, in the site's callbacks for instance. It has looked at session, user and groups
        before the orders came, and its websocket was not there for them.
        """
        keeper = self._hub.keeper
        if not connection.is_open:
            return
        if began < self._recent.forgotten:  # nobody knows any more what came meanwhile
            self._hub.close(connection, CloseCode.TRY_AGAIN_LATER, "the handshake took too long")
            return
        if connection.expires and (keeper.link is None or began < keeper.since + SUBSCRIBED):
            self._look(connection)  # an order may have gone by before the link was there
        who = None
        for order in self._recent.since(began - LOGOUT):
            who = who or _names_of(connection)
            if not order.everybody and not order.means(who):
                continue
            if order.received >= began:
                self._hub.guarded(self._acts[order.do], connection, order)
            elif order.do == "close" and dict(who)["sessions"] in order.whom["sessions"]:
                self._look(connection, TOLD)

    def _answer(self, order: Order, fields: dict[str, Any]) -> None:
        if order.reply_to is not None:
            who = {"host": socket.gethostname(), "pid": os.getpid()}
            self._hub.keeper.tell(order.reply_to, json.dumps({**who, **fields}).encode())

    def _close(self, connection: Connection, order: Order) -> None:
        self._hub.close(connection, order.code, order.reason)

    def _leave(self, connection: Connection, order: Order) -> None:
        self._hub.leave(connection, order.under)

    def _check(self, connection: Connection, order: Order) -> None:
        others = order.user is not None and Identity.parsed(connection.identity).user not in (NOBODY, order.user)
        self._look(connection, TOLD if others else None)

    def _find(self, connection: Connection, order: Order) -> None:
        if len(order.found) < MOST_FOUND:
            order.found.append(connection.identity)

    def _look(self, connection: Connection, known: Over | None = None) -> None:
        if self._sessions is not None:
            self._sessions.ask([connection], known)


def _names_of(connection: Connection) -> Names:
    """Return by which name of each section an order may mean a connection; None where by none."""
    who = Identity.parsed(connection.identity)
    user = None if who.user == NOBODY else who.user  # an order for nobody would be one for all anonymous clients
    session = connection.session
    return tuple(zip(SECTIONS, (user, session and session.removeprefix(OWN), who.path), strict=True))


def _for(index: dict[str, dict[str, list[Order]]], connection: Connection) -> Iterator[Order]:
    for section, name in _names_of(connection):
        if name is not None:
            yield from index[section].get(name, ())


def status(hub: Hub) -> dict[str, Any]:
    """Return the figures of a worker; times in seconds, sizes in bytes."""
    now = time.monotonic()
    connections = hub.loop.connections
    queues = [connection.queued for connection in connections]
    traffic = [connection.traffic for connection in connections]
    return {
        "uptime": round(now - hub.began, 1),
        "connections": len(connections),
        "joining": sum(connection.attachment is not None for connection in connections),
        "channels": len(hub.fanout.channels),
        "queued": sum(queues),
        "longest_queue": max(queues, default=0),
        "messages_in": hub.closed_traffic[0] + sum(each[0] for each in traffic),
        "messages_out": hub.closed_traffic[1] + sum(each[2] for each in traffic),
        "withheld": hub.fanout.withheld,
        "compressed": hub.fanout.compressed,
        "waiting_publishes": len(hub.outbox),
        "lost_publishes": hub.outbox.lost,
        "link": "up" if hub.keeper.link is not None else "down",
        "link_uptime": round(now - hub.keeper.since, 1) if hub.keeper.link is not None else 0.0,
        "links": hub.keeper.links,
        "draining": hub.draining,
        **counters.snapshot(),
    }
