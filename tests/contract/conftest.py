"""The contract with sites that come from ws4redis: one module for each section, one test for each numbered row."""

from collections.abc import Iterator

import pytest
import redis
from django.test import override_settings

from tests.support.servers import RedisServer
from uws4r.redis_clients import redis_client


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """An empty Redis, which is the site's in this process."""
    redis_server.client.flushall()
    with override_settings(WS4REDIS_CONNECTION=redis_server.url):
        yield redis_server.client
        redis_client().connection_pool.disconnect()
