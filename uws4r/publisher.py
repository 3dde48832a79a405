"""
Publishing from anywhere: a view, a Celery task, a management command, a shell.

Needs Django's settings and Redis, nothing else of uws4r's server side.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from uws4r._frames import unwrap
from uws4r.channels import AUDIENCES, Channel, at_hand, channels_for, in_cookies
from uws4r.conf import conf
from uws4r.errors import ConfigurationError
from uws4r.offloop import in_event_loop
from uws4r.redis_clients import carried_out, redis_client
from uws4r.redis_store import SELF, RedisStore


class RedisPublisher(RedisStore):
    """
    Publishes to one facility's audiences, and reads what is persisted there.

    Args:
        facility: The part of the websockets' URL behind ``WEBSOCKET_URL``.
        broadcast: To everybody who subscribed to broadcasts.
        users, groups, sessions: Names; :data:`~uws4r.redis_store.SELF` for those of the request.
        request: Where SELF takes its names from.

    ``RedisPublisher()`` without arguments publishes to nobody and is good for :meth:`fetch_message`.
    A publisher made in a coroutine finds out whom SELF means when it first publishes, with :meth:`apublish_message`.

    Raises:
        ValueError: No facility, SELF without a request, or something else than names.
        ConfigurationError: SELF in ``sessions``, and the request's session is in its cookie.
    """

    def __init__(
        self,
        *,
        request: Any = None,
        facility: str | None = None,
        broadcast: bool = False,
        groups: Any = (),
        users: Any = (),
        sessions: Any = (),
    ) -> None:
        self._find: Callable[[], set[str]] | None = None  # what finds the names, where they are not known yet
        super().__init__()
        redis_client()  # a wrong setting is an error here, not at the first message
        # Nothing is compared that is not a tuple: a lazy user would be loaded.
        self._addressed = any(
            value is not None and value is not False and not (type(value) is tuple and not value)
            for value in (broadcast, groups, users, sessions)
        )
        if facility is None:
            if broadcast or groups or users or sessions:
                raise ValueError("RedisPublisher needs a facility to publish to: facility='…'")
            return
        if sessions is True or sessions is SELF or (isinstance(sessions, (list, tuple, set)) and SELF in sessions):
            _require_key(request)
        whom = {"groups": groups, "users": users, "sessions": sessions}
        find = partial(self._get_message_channels, request=request, facility=facility, broadcast=broadcast, **whom)
        if in_event_loop() and not all(map(at_hand, whom.values())):
            self._find = find  # which asks the database, or the store of the sessions
        else:
            self._publishers = find()

    @property
    def _publishers(self) -> set[str]:
        if (find := self._find) is not None:
            try:
                names = find()
            except SynchronousOnlyOperation:
                raise SynchronousOnlyOperation(
                    "whom SELF means has to be looked up in a database: await apublish_message() in a coroutine"
                ) from None
            self._names, self._find = names, None  # in this order, for other threads
        return self._names

    @_publishers.setter
    def _publishers(self, names: set[str]) -> None:
        self._names, self._find = names, None

    async def _find_names(self) -> None:
        if self._find is not None:
            # Where the site's own database connections are.
            await sync_to_async(lambda: self._publishers, thread_sensitive=True)()

    def fetch_message(self, request: Any, facility: str, audience: str = "any") -> bytes | None:
        """
        Return the persisted message of an audience of this request, or None.

        Args:
            audience: ``"session"``, ``"user"``, ``"group"``, ``"broadcast"``; ``"any"`` looks in this
                order and returns the first there is.
        Raises:
            ValueError: Another audience.
            ConfigurationError: The audience is the session, and sessions are in cookies.
            QueueError: Redis does not answer, or refuses; a ``redis.RedisError``, too.
        """
        return self._first(self._sought(request, facility, audience))

    async def afetch_message(self, request: Any, facility: str, audience: str = "any") -> bytes | None:
        """The same as :meth:`fetch_message`, in a coroutine: the event loop goes on meanwhile."""
        channels = await sync_to_async(self._sought, thread_sensitive=True)(request, facility, audience)
        return await self._asked(partial(self._first, channels))

    @staticmethod
    def _sought(request: Any, facility: str, audience: str) -> list[Channel]:
        if audience != "any" and audience not in AUDIENCES:
            raise ValueError(f"audience is {audience!r}, not one of any, {', '.join(AUDIENCES)}")
        if audience == "session":
            _require_key(request)
        wanted = {name: audience in ("any", name) for name in AUDIENCES}
        return channels_for(
            facility,
            prefix=conf.WS4REDIS_PREFIX,
            request=request,
            broadcast=wanted["broadcast"],
            groups=[SELF] if wanted["group"] and request is not None else (),
            users=[SELF] if wanted["user"] and request is not None else (),
            sessions=[SELF] if wanted["session"] and request is not None else (),
        )

    def _first(self, channels: list[Channel]) -> bytes | None:
        if not channels:
            return None
        client = self._connection
        for data in carried_out(client, lambda: client.mget([channel.name for channel in channels])):
            if data:  # an empty value is what a client's message has left that was not kept
                return unwrap(data)[0]
        return None


def _require_key(request: Any) -> None:
    if in_cookies(getattr(request, "session", None).__class__):
        raise ConfigurationError(
            "a session that is kept in the browser (SESSION_ENGINE = …signed_cookies) has no key, and cannot be an "
            "audience: publish to users, or choose another SESSION_ENGINE"
        )
