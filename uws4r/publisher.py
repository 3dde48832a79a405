"""
Publishing from anywhere: a view, a Celery task, a management command, a shell.

Needs Django's settings and Redis, nothing else of uws4r's server side.
"""

from typing import Any

from uws4r._frames import unwrap
from uws4r.channels import AUDIENCES, channels_for, in_cookies
from uws4r.conf import conf
from uws4r.errors import ConfigurationError
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
        super().__init__()
        redis_client()  # a wrong setting is an error here, not at the first message
        self._addressed = any(value not in (False, (), None) for value in (broadcast, groups, users, sessions))
        if facility is None:
            if broadcast or groups or users or sessions:
                raise ValueError("RedisPublisher needs a facility to publish to: facility='…'")
            return
        if sessions is True or sessions is SELF or (isinstance(sessions, (list, tuple, set)) and SELF in sessions):
            _require_key(request)
        self._publishers = self._get_message_channels(
            request=request, facility=facility, broadcast=broadcast, groups=groups, users=users, sessions=sessions
        )

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
        if audience != "any" and audience not in AUDIENCES:
            raise ValueError(f"audience is {audience!r}, not one of any, {', '.join(AUDIENCES)}")
        if audience == "session":
            _require_key(request)
        wanted = {name: audience in ("any", name) for name in AUDIENCES}
        channels = channels_for(
            facility,
            prefix=conf.WS4REDIS_PREFIX,
            request=request,
            broadcast=wanted["broadcast"],
            groups=[SELF] if wanted["group"] and request is not None else (),
            users=[SELF] if wanted["user"] and request is not None else (),
            sessions=[SELF] if wanted["session"] and request is not None else (),
        )
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
