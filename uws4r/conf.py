"""
Every setting: one typed property each, with its unit and default, read at each use.

Old names (``WS4REDIS_*``, ``WEBSOCKET_URL``) are ws4redis'; new settings are ``UWS4R_*``. Where one
exists under both names the new one wins. Nothing else in uws4r reads its settings from Django's.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils.functional import empty
from django.utils.module_loading import import_string

attribute_of = object.__getattribute__
EMBEDDED_REDIS = "UWS4R_EMBEDDED_REDIS"  # set by a runserver that has started a Redis, for its children


class Hidden(dict[str, Any]):
    """A dictionary that may hold a password: what it looks like in a traceback shows its keys only."""

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{key!r}: …' for key in self)}}}"

    @property
    def key(self) -> "HiddenText":
        """A text that is another one for other contents."""
        return HiddenText(dict.__repr__(self))


class HiddenText(str):
    """A text that may hold a password, and does not show it in a traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"

    @property
    def key(self) -> "HiddenText":
        """See :attr:`Hidden.key`."""
        return self


class Conf:
    """The settings as uws4r uses them; make no copies, so that ``override_settings`` works."""

    def __init__(self) -> None:
        self.assigned: dict[str, Any] = {}  # to the attributes of :mod:`uws4r.settings`; they come first

    def _get(self, name: str, default: Any) -> Any:
        if name in self.assigned:
            return self.assigned[name]
        # Not through the lazy object, which makes and catches two exceptions for each setting that a site has not made.
        held = attribute_of(settings, "_wrapped")
        if held is empty:
            held = settings
        if name.startswith("WS4REDIS_"):
            default = getattr(held, name, default)
            name = "UWS4R_" + name[9:]
        return getattr(held, name, default)

    def cache(self, alias: str) -> Hidden | None:
        """Return an entry of Django's ``CACHES``, None where there is none."""
        entry = settings.CACHES.get(alias)
        return None if entry is None else Hidden(entry)

    @property
    def WEBSOCKET_URL(self) -> str:
        """Path that marks a request as a websocket; what follows it is the facility. ``"/ws/"``."""
        return self._get("WEBSOCKET_URL", "/ws/")

    @property
    def WS4REDIS_CONNECTION(self) -> dict[str, Any] | str:
        """
        Redis: keyword arguments of ``redis.Redis``, a URL, sentinels, or a cache. ``{}``: localhost:6379, database 0.

        The environment variable :data:`EMBEDDED_REDIS`, where it is set, says what ``{}`` means.
        """
        configured = self._get("WS4REDIS_CONNECTION", None) or os.environ.get(EMBEDDED_REDIS) or {}
        if isinstance(configured, str):
            return HiddenText(configured)
        return Hidden(configured) if isinstance(configured, Mapping) else configured

    @property
    def redis_is_embedded(self) -> bool:
        """Whether the environment variable says which Redis it is."""
        return bool(not self._get("WS4REDIS_CONNECTION", None) and os.environ.get(EMBEDDED_REDIS))

    @property
    def WS4REDIS_PREFIX(self) -> str:
        """Put in front of every channel and key, with a colon behind it; ``""`` for none."""
        return self._get("WS4REDIS_PREFIX", None) or ""

    @property
    def WS4REDIS_EXPIRE(self) -> int:
        """Seconds for which the last message of each channel is kept; 0 for not at all. 3600."""
        return self._get("WS4REDIS_EXPIRE", 3600) or 0

    @property
    def WS4REDIS_SUBSCRIBER(self) -> str:
        """Dotted path of the subscriber class. ``"uws4r.subscriber.RedisSubscriber"``."""
        return self._get("WS4REDIS_SUBSCRIBER", "uws4r.subscriber.RedisSubscriber")

    @property
    def WS4REDIS_HEARTBEAT(self) -> str | None:
        """A text sent to each client every 4 seconds, and swallowed when it comes from one. None: no such text."""
        return self._get("WS4REDIS_HEARTBEAT", None) or None

    @property
    def WS4REDIS_ALLOWED_CHANNELS(self) -> Any:
        """Callable, or its dotted path: ``f(request, channels)`` returns those it grants. None: all."""
        return self._get("WS4REDIS_ALLOWED_CHANNELS", None)

    @property
    def WS4REDIS_PROCESS_REQUEST(self) -> Any:
        """Callable, or its dotted path: ``f(request)`` sets ``request.session`` and ``request.user`` itself. None."""
        return self._get("WS4REDIS_PROCESS_REQUEST", None)

    @property
    def UWS4R_ALLOWED_ORIGINS(self) -> list[str]:
        """Origins allowed besides the site's own and ``CSRF_TRUSTED_ORIGINS``; ``"*"`` allows all. ``[]``."""
        return self._get("UWS4R_ALLOWED_ORIGINS", [])

    @property
    def UWS4R_PROXIES(self) -> list[str]:
        """Proxies whose X-Forwarded-For is believed: addresses, networks, or ``"unix"``. ``["unix"]``."""
        return self._get("UWS4R_PROXIES", ["unix"])

    @property
    def UWS4R_PING_INTERVAL(self) -> float:
        """Seconds of silence before the server pings a client; 0 disables pings. 25."""
        return self._get("UWS4R_PING_INTERVAL", 25.0)

    @property
    def UWS4R_PING_TIMEOUT(self) -> float:
        """Seconds that a client has to answer a ping with anything. 20."""
        return self._get("UWS4R_PING_TIMEOUT", 20.0)

    @property
    def UWS4R_MAX_MESSAGE_SIZE(self) -> int:
        """Bytes that a message of a client may have; more closes with 1009. 1 MiB."""
        return self._get("UWS4R_MAX_MESSAGE_SIZE", 1 << 20)

    @property
    def UWS4R_MAX_QUEUE(self) -> int:
        """Bytes that may wait for a client; a slower one is closed with 1013. 1 MiB."""
        return self._get("UWS4R_MAX_QUEUE", 1 << 20)

    @property
    def UWS4R_COMPRESSION(self) -> int | None:
        """Bytes; longer messages are compressed for clients that offer it (RFC 7692). None: not even offered. 512."""
        value = self._get("UWS4R_COMPRESSION", 512)
        if isinstance(value, bool):
            return 512 if value else None
        return value

    @property
    def UWS4R_SUBPROTOCOLS(self) -> list[str]:
        """Subprotocols that are spoken here; of those that a client offers the first is chosen. ``[]``: any."""
        return self._get("UWS4R_SUBPROTOCOLS", [])

    @property
    def UWS4R_REQUIRE_ORIGIN(self) -> bool:
        """Whether a client that sends no Origin is refused; browsers send one, most other clients do not. False."""
        return self._get("UWS4R_REQUIRE_ORIGIN", False)

    @property
    def UWS4R_MAX_MESSAGE_RATE(self) -> float:
        """Messages and control frames a second of a client, over 10 seconds; more closes with 1008. 0: any. 1000."""
        return self._get("UWS4R_MAX_MESSAGE_RATE", 1000)

    @property
    def UWS4R_MAX_BYTE_RATE(self) -> float:
        """Bytes a second of a client, inflated, over 10 seconds; more closes with 1008. 0: any. 10 MiB."""
        return self._get("UWS4R_MAX_BYTE_RATE", 10 << 20)

    @property
    def UWS4R_KEEP_RATE(self) -> float:
        """Bytes a second by which what one websocket keeps in Redis may grow, over 60 seconds. 0: no limit. 64 KiB."""
        return self._get("UWS4R_KEEP_RATE", 64 << 10)

    @property
    def UWS4R_KEEP_RATE_PER_IP(self) -> float:
        """The same for all websockets of one address (an IPv6 /64) in one worker. 0: no limit. 256 KiB."""
        return self._get("UWS4R_KEEP_RATE_PER_IP", 256 << 10)

    @property
    def UWS4R_KEEP_RATE_PER_WORKER(self) -> float:
        """The same for all websockets of one worker. 0: no limit. 1 MiB."""
        return self._get("UWS4R_KEEP_RATE_PER_WORKER", 1 << 20)

    @property
    def UWS4R_FRAME_TIMEOUT(self) -> float:
        """Seconds from the first byte of a client's frame to its last; longer closes with 1008. 0: any. 60."""
        return self._get("UWS4R_FRAME_TIMEOUT", 60)

    @property
    def UWS4R_MESSAGE_TIMEOUT(self) -> float:
        """Seconds from the first byte of a client's message to its last; longer closes with 1008. 0: any. 60."""
        return self._get("UWS4R_MESSAGE_TIMEOUT", 60)

    @property
    def UWS4R_RECEIVE_BUFFER(self) -> int:
        """Bytes of messages that a worker's clients have begun; beyond it the largest are closed with 1013. 64 MiB."""
        return self._get("UWS4R_RECEIVE_BUFFER", 64 << 20)

    @property
    def UWS4R_MAX_CONNECTIONS_PER_IP(self) -> int:
        """Websockets of one address in one worker; more are answered 429. 0: any number. 0."""
        return self._get("UWS4R_MAX_CONNECTIONS_PER_IP", 0)

    @property
    def UWS4R_MAX_CONNECTIONS_PER_USER(self) -> int:
        """Websockets of one user in one worker; more are answered 429. 0: any number. 0."""
        return self._get("UWS4R_MAX_CONNECTIONS_PER_USER", 0)

    @property
    def UWS4R_MAX_FACILITY_LENGTH(self) -> int:
        """Characters of a facility; longer ones are answered 400. 1024."""
        return self._get("UWS4R_MAX_FACILITY_LENGTH", 1024)

    @property
    def UWS4R_MAX_CHANNELS(self) -> int:
        """Channels that one websocket listens and publishes to, together; more are answered 400. 1000."""
        return self._get("UWS4R_MAX_CHANNELS", 1000)

    @property
    def UWS4R_SESSION_CHECK(self) -> float:
        """Seconds between two looks whether a client's session still is its user's; 0: none. 60."""
        return self._get("UWS4R_SESSION_CHECK", 60)

    @property
    def UWS4R_LOGIN_CHECKER(self) -> Any:
        """
        Callable, or its dotted path, for logins that the site has made: ``f(key, user)`` says whether one still holds.

        None: nobody looks at them.
        """
        return self._get("UWS4R_LOGIN_CHECKER", None)

    @property
    def UWS4R_PUBLISH_BUFFER(self) -> int:
        """Messages of clients that a worker keeps while Redis is away; one more closes its client with 1013. 1000."""
        return self._get("UWS4R_PUBLISH_BUFFER", 1000)

    @property
    def UWS4R_PUBLISH_BUFFER_SIZE(self) -> int:
        """Bytes of clients' messages that may wait for Redis in a worker. 16 MiB."""
        return self._get("UWS4R_PUBLISH_BUFFER_SIZE", 16 << 20)

    @property
    def UWS4R_MAX_CONNECTIONS(self) -> int:
        """Connections of one worker; more are answered 503. 0: as many as it has descriptors."""
        return self._get("UWS4R_MAX_CONNECTIONS", 0)

    @property
    def UWS4R_MODE(self) -> str:
        """``"detached"``, or ``"native"``: a websocket stays a request of uWSGI's async engine. ``"detached"``."""
        return self._get("UWS4R_MODE", "detached")

    @property
    def UWS4R_THREADS(self) -> int:
        """Threads of a worker for overridden methods of subscribers: so many may block at the same time. 64."""
        return self._get("UWS4R_THREADS", 64)


conf = Conf()

# Every setting by its name here; those of ws4redis may also be written ``UWS4R_…``.
SETTINGS = tuple(name for name in vars(Conf) if name.isupper())


@lru_cache(maxsize=16)
def _imported(path: str) -> Any:
    found = import_string(path)
    if not callable(found):
        raise TypeError(f"{path} is not callable")
    return found


def callback(setting: Any) -> Any:
    """Return the callable that a setting names, None where it names none."""
    return _imported(setting) if isinstance(setting, str) else setting
