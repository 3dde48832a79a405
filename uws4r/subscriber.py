"""
From the flags of a websocket's URL to the channels that it listens to and publishes to.

Replaced with ``WS4REDIS_SUBSCRIBER``. A subscriber decides during the handshake, and the hub carries out;
of a class that overrides :meth:`~RedisSubscriber.parse_response`, ``publish_message`` or
:meth:`~RedisSubscriber.release` it lives as long as its websocket.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from uws4r.channels import AUDIENCES, SELF, channels_for
from uws4r.conf import conf
from uws4r.errors import ConfigurationError
from uws4r.redis_clients import redis_client
from uws4r.redis_store import RedisStore


def facility_of(path: str) -> str:
    """Return the facility of a websocket's path: what follows ``WEBSOCKET_URL``."""
    return path.replace(conf.WEBSOCKET_URL, "", 1)


class Recorder:
    """Stands where ws4redis had a Redis subscription of its own: notes what the hub shall subscribe to."""

    def __init__(self) -> None:
        self.names: list[str | bytes] = []
        self.pushes: deque[list[Any]] = deque()  # what the hub has for parse_response()
        self.sealed = False  # the websocket is open

    @property
    def subscribed(self) -> bool:
        """Whether there is any channel."""
        return bool(self.names)

    def subscribe(self, *names: str | bytes) -> None:
        """
        Note channel names, in order, each once.

        Raises:
            ConfigurationError: The websocket is open already.
        """
        if self.sealed:
            raise ConfigurationError("the channels of an open websocket are fixed: subscribe in set_pubsub_channels()")
        self.names = list(dict.fromkeys([*self.names, *names]))

    def unsubscribe(self, *names: str | bytes) -> None:
        """Forget channel names, without an argument all of them; an open websocket's are left by closing it."""
        if not self.sealed:
            self.names = [name for name in self.names if names and name not in names]

    def psubscribe(self, *patterns: Any, **handlers: Any) -> None:
        """Refuse: the hub knows its listeners by the channel's name."""
        raise ConfigurationError("uws4r subscribes to channels by name, not by pattern: subscribe() to each name")

    def parse_response(self, *args: Any, **kwargs: Any) -> list[Any] | None:
        """Return the push that the hub has for the connection; None when it has been returned already."""
        return self.pushes.popleft() if self.pushes else None

    def reset(self) -> None:
        """Nothing to do: the hub unsubscribes when the last listener leaves."""

    close = reset


class RecordingConnection:
    """
    A Redis client for a subscriber: everything as it is, but that subscriptions are recorders.

    Args:
        client: None for the site's, which most handshakes never ask for.
    """

    def __init__(self, client: Any = None) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(redis_client() if self._client is None else self._client, name)

    def pubsub(self, **options: Any) -> Recorder:
        """Return a new recorder."""
        return Recorder()


class Live(Protocol):
    """The open websocket of a subscriber."""

    def publish(self, payload: bytes, expire: int | None, binary: bool) -> None:
        """Have the hub publish on the subscriber's channels."""


class RedisSubscriber(RedisStore):
    """
    The channels of one websocket.

    ``subscription_channels`` and ``publish_channels`` are the flags that a URL may carry; a subclass adds
    to them, and to :meth:`set_pubsub_channels` what its flags mean.

    ``close_code`` and ``close_reason`` say in :meth:`release` how the websocket ended: what the client sent,
    or the server where that was first (RFC 6455 §7.1.5); 1005 for a close frame without a code, 1006 for none.

    A subclass may override ``publish_message(message, expire=None)`` too: it is called with each message of
    the client, and ``super().publish_message(…)`` has the hub publish it. Like :meth:`parse_response` and
    :meth:`release` it is called in a thread of its own: it may block and use the database, its calls for one
    websocket come one after the other, and an error in it closes that websocket with 1011.
    """

    subscription_channels = ["subscribe-session", "subscribe-group", "subscribe-user", "subscribe-broadcast"]  # noqa: RUF012
    publish_channels = ["publish-session", "publish-group", "publish-user", "publish-broadcast"]  # noqa: RUF012

    def __init__(self, connection: Any = None) -> None:
        super().__init__(RecordingConnection(connection))
        self._subscription = Recorder()
        self._live: Live | None = None  # when the websocket is open
        self._link_descriptor: Callable[[], int | None] = lambda: None
        self.wants_persisted = False
        self.close_code: int | None = None  # until it is closed
        self.close_reason = ""

    def set_pubsub_channels(self, request: Any, channels: list[str]) -> None:
        """
        Decide, from the flags granted, where the client listens and where its messages go.

        Args:
            channels: Of the flags, those in the URL that ``WS4REDIS_ALLOWED_CHANNELS`` grants.
        """
        facility = facility_of(request.path_info)
        self._subscription.subscribe(*self._names(request, facility, "subscribe", channels))
        self._publishers.update(self._names(request, facility, "publish", channels))

    def _names(self, request: Any, facility: str, verb: str, channels: list[str]) -> list[str]:
        asked = [audience for audience in AUDIENCES if f"{verb}-{audience}" in channels]
        if not asked:
            return []

        def own(audience: str) -> tuple[Any, ...]:
            return (SELF,) if audience in asked else ()

        found = channels_for(
            facility,
            prefix=conf.WS4REDIS_PREFIX,
            request=request,
            broadcast="broadcast" in asked,
            groups=own("group"),
            users=own("user"),
            sessions=own("session"),
        )
        return [channel.name.decode("utf-8", "surrogatepass") for channel in found]

    def send_persisted_messages(self, websocket: Any) -> None:
        """
        Have the hub send what is persisted, at the place of the link where the client joins.

        Args:
            websocket: ``websocket.send(message)`` queues a message behind the 101, in front of what is persisted.
        """
        self.wants_persisted = True

    def send_persited_messages(self, websocket: Any) -> None:
        """The misspelt name of :meth:`send_persisted_messages`."""
        self.send_persisted_messages(websocket)

    def parse_response(self) -> Any:
        """
        Return the push for this websocket: ``[b"message", channel, payload]``, or one about a subscription.

        Overridden, it is called once for each push, and what it returns goes to the client: a push, whose
        payload counts, or a str or bytes; None for nothing. Unchanged messages are withheld from the client
        as they would be without the override (its own ones, copies); changed ones are not.
        """
        return self._subscription.parse_response()

    def get_file_descriptor(self) -> int | None:
        """
        Return the descriptor of the hub's link, which all websockets of a worker share; None without one.

        A subclass that returns None for a websocket has it not listen to anything.
        """
        return self._link_descriptor()

    def release(self) -> None:
        """The websocket is closed. Nothing to do here; overridden, the last thing that happens to it."""

    def _publish(self, payload: bytes, expire: int | None, binary: bool) -> int:
        if self._live is None:
            return super()._publish(payload, expire, binary)
        self._live.publish(payload, expire, binary)
        return 0  # on its way: nobody knows yet whom it reaches
