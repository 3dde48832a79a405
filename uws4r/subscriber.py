"""
From the flags of a websocket's URL to the channels that it listens to and publishes to.

Replaced with ``WS4REDIS_SUBSCRIBER``. A subscriber lives for the length of a handshake: it decides,
and the hub carries out.
"""

from typing import Any

from uws4r.channels import SELF, channels_for
from uws4r.conf import conf
from uws4r.redis_store import RedisStore


def facility_of(path: str) -> str:
    """Return the facility of a websocket's path: what follows ``WEBSOCKET_URL``."""
    return path.replace(conf.WEBSOCKET_URL, "", 1)


class Recorder:
    """Stands where ws4redis had its own Redis subscription: notes what the hub shall subscribe to."""

    def __init__(self) -> None:
        self.names: list[str | bytes] = []

    def subscribe(self, *names: str | bytes) -> None:
        """Note channel names, in order, each once."""
        self.names = list(dict.fromkeys([*self.names, *names]))


class RedisSubscriber(RedisStore):
    """
    The channels of one websocket.

    ``subscription_channels`` and ``publish_channels`` are the flags that a URL may carry; a subclass adds
    to them, and to :meth:`set_pubsub_channels` what its flags mean.
    """

    subscription_channels = ["subscribe-session", "subscribe-group", "subscribe-user", "subscribe-broadcast"]  # noqa: RUF012
    publish_channels = ["publish-session", "publish-group", "publish-user", "publish-broadcast"]  # noqa: RUF012

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._subscription = Recorder()
        self.wants_persisted = False

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
        def own(audience: str) -> tuple[Any, ...]:
            return (SELF,) if f"{verb}-{audience}" in channels else ()

        found = channels_for(
            facility,
            prefix=conf.WS4REDIS_PREFIX,
            request=request,
            broadcast=f"{verb}-broadcast" in channels,
            groups=own("group"),
            users=own("user"),
            sessions=own("session"),
        )
        return [channel.name.decode("utf-8", "surrogatepass") for channel in found]

    def send_persisted_messages(self, websocket: Any) -> None:
        """Have the hub send what is persisted, at the place of the link where the client joins."""
        self.wants_persisted = True
