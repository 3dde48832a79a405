"""Whether there is room for one more websocket in this worker: descriptors, and shares of addresses and users."""

import logging
import resource
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

from uws4r._descriptors import lowest_free
from uws4r.attachment import NO_ADDRESS, NOBODY, Identity
from uws4r.conf import conf
from uws4r.errors import HandshakeError
from uws4r.hub import Hub
from uws4r.quoting import brief
from uws4r.shares import share_of

logger = logging.getLogger("uws4r.application")

SPARE_DESCRIPTORS = 64  # kept free for files, the database, and the requests themselves


def check_capacity(hub: Hub) -> None:
    """
    Make sure that the hub can take a connection.

    Raises:
        HandshakeError: 503, it cannot.
    """
    if hub.draining:
        raise HandshakeError("The server restarts: come back in a moment", status=503)
    for most, name in ((conf.UWS4R_MAX_CONNECTIONS, "UWS4R_MAX_CONNECTIONS"), (hub.max_connections, "async = …")):
        if not most or hub.loop.count < most:
            continue
        logger.warning("%d connections, as many as %s allows: 503", most, name)
        raise HandshakeError("The server is full: come back later", status=503)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if hub.max_descriptors:
        limit = min(limit, hub.max_descriptors)
    try:
        lowest = lowest_free(hub.fileno())  # tells how many are in use
    except OSError:
        lowest = limit
    if lowest + SPARE_DESCRIPTORS >= limit:
        logger.warning("fewer than %d of %d descriptors are left: 503 (max-fd, ulimit -n)", SPARE_DESCRIPTORS, limit)
        raise HandshakeError("The server is full: come back later", status=503)


class Census:
    """How many websockets of this process each address and each user has, where that is limited. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def admit(self, identity: str) -> Callable[[], None] | None:
        """
        Count a websocket in; return what counts it out, None where nothing is counted.

        Args:
            identity: Who it is, as :class:`Identity` writes it.
        Raises:
            HandshakeError: 429, the address or the user has as many as it may.
        """
        most_of_address, most_of_user = conf.UWS4R_MAX_CONNECTIONS_PER_IP, conf.UWS4R_MAX_CONNECTIONS_PER_USER
        if not most_of_address and not most_of_user:
            return None
        who = Identity.parsed(identity)
        limits = {}
        # Who came over a Unix socket, and through no proxy that says from where, has no address.
        if most_of_address and who.address != NO_ADDRESS:
            limits["address", share_of(who.address)] = most_of_address
        if most_of_user and who.user != NOBODY:
            limits["user", who.user] = most_of_user
        if not limits:
            return None
        keys = list(limits)
        with self._lock:
            for key in keys:
                if self._counts[key] >= limits[key]:
                    most = limits[key]
                    logger.warning(
                        "%s: its %s has %d websockets here, as many as it may: 429", brief(identity), key[0], most
                    )
                    raise HandshakeError(f"Too many websockets of this {key[0]}", status=429)
            self._counts.update(keys)
        return partial(self._leave, keys)

    def _leave(self, keys: list[tuple[str, str]]) -> None:
        with self._lock:
            self._counts.subtract(keys)
            for key in keys:
                if not self._counts[key]:
                    del self._counts[key]


census = Census()
