"""A hub for the tests of hubs, and a Redis with no links but those of hubs here."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.hubs import Bench
from tests.support.servers import RedisServer
from uws4r.attachment import HubOptions


@pytest.fixture(scope="module")
def hub_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with no links but those of the hubs here."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture
def make(hub_redis: RedisServer) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []
    hub_redis.client.flushall()

    def start(server: RedisServer = hub_redis, **options: object) -> Bench:
        benches.append(Bench(server, HubOptions(**options)))  # type: ignore[arg-type]
        return benches[-1]

    yield start
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()
