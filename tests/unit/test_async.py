"""Publishing in coroutines: the event loop goes on while Redis hangs, and all else is as it is without."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, override_settings
from django.urls import path
from django.utils.asyncio import async_unsafe
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy, override

from tests.support.servers import RedisServer, free_port, wait_until
from uws4r import offloop
from uws4r.errors import QueueRefused, QueueTimeout, QueueUnreachable
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import site_client
from uws4r.redis_store import SELF
from uws4r.testing import capture

TIMEOUT = 1.0  # seconds, of the publishers


@pytest.fixture
def server(own_redis: RedisServer) -> Iterator[RedisServer]:
    with override_settings(
        WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": own_redis.port, "socket_timeout": TIMEOUT}
    ):
        yield own_redis
        site_client().connection_pool.disconnect()


@contextmanager
def hanging(server: RedisServer) -> Iterator[None]:
    assert server.process is not None
    server.process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def lively() -> AsyncIterator[None]:
    """The event loop goes on all the time."""
    longest, over = 0.0, False

    async def tick() -> None:
        nonlocal longest
        while not over:
            begin = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - begin)

    task = asyncio.create_task(tick())
    yield
    over = True
    await task
    assert longest < TIMEOUT / 2


class Session(dict[str, Any]):
    session_key = "k3y"


def lazily(user: Any) -> Any:
    """A request as an async view has it: to look at its user asks the database, which must not be done there."""
    return SimpleNamespace(user=SimpleLazyObject(async_unsafe(lambda: user)), session=Session())


MARY = SimpleNamespace(is_authenticated=True, get_username=lambda: "mary")
NOBODY = SimpleNamespace(is_authenticated=False, get_username=lambda: "")


def test_it_is_published_kept_and_counted(server: RedisServer) -> None:
    listener = server.client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("broadcast:f")
    listener.get_message(timeout=5)

    async def publish() -> tuple[int, bytes | None]:
        count = await RedisPublisher(facility="f", broadcast=True).apublish_message({"a": 1}, 60)
        return count, await RedisPublisher().afetch_message(None, "f", "broadcast")

    assert asyncio.run(publish()) == (1, b'{"a": 1}')
    message = listener.get_message(timeout=5)
    assert message is not None
    assert message["data"] == b'{"a": 1}'
    assert 55 < server.client.ttl("broadcast:f") <= 60
    listener.close()


def test_a_redis_that_hangs_blocks_nobody(server: RedisServer) -> None:
    async def publish() -> None:
        publisher = RedisPublisher(facility="f", broadcast=True)
        await publisher.apublish_message("before")
        with hanging(server):
            async with lively():
                begin = time.monotonic()
                with pytest.raises(QueueTimeout, match="may yet do what it was told"):
                    await publisher.apublish_message("perhaps")
                assert TIMEOUT * 0.8 < time.monotonic() - begin < TIMEOUT * 4
                with pytest.raises(QueueTimeout):
                    await publisher.afetch_message(None, "f")
        await publisher.apublish_message("after")

    asyncio.run(publish())
    assert server.client.get("broadcast:f") == b"after"


def test_the_errors_are_the_same(server: RedisServer) -> None:
    async def publish(message: object = "m") -> None:
        await RedisPublisher(facility="f", broadcast=True).apublish_message(message)

    with pytest.raises(ValueError, match="not JSON"):
        asyncio.run(publish(float("nan")))
    server.client.config_set("maxmemory", 1)
    with pytest.raises(QueueRefused, match="the memory of Redis is full"):
        asyncio.run(publish())
    nobody = {"host": "127.0.0.1", "port": free_port()}
    with override_settings(WS4REDIS_CONNECTION=nobody), pytest.raises(QueueUnreachable):
        asyncio.run(publish())


def test_connections_are_bounded_and_so_are_threads(server: RedisServer) -> None:
    async def publish() -> None:
        publisher = RedisPublisher(facility="f", broadcast=True)
        await asyncio.gather(*(publisher.apublish_message(str(number), 0) for number in range(500)))

    asyncio.run(publish())
    # The server's own client is one of them.
    assert len(server.client.client_list()) <= offloop.MOST_THREADS + 1
    workers = [thread for thread in threading.enumerate() if thread.name == "uws4r-worker"]
    assert len(workers) <= offloop.MOST_THREADS


def test_connections_outlive_the_event_loop(server: RedisServer) -> None:
    """Under uWSGI each request to an async view has an event loop of its own."""

    async def publish() -> None:
        await RedisPublisher(facility="f", broadcast=True).apublish_message("m")

    for _ in range(5):
        asyncio.run(publish())
        async_to_sync(publish)()
    assert server.client.info("stats")["total_connections_received"] < 5


def test_while_all_threads_wait_the_next_is_told_in_time_and_not_published(server: RedisServer) -> None:
    released = threading.Event()

    async def publish() -> None:
        publisher = RedisPublisher(facility="f", broadcast=True)
        wait = partial(offloop.off_loop, partial(released.wait, 30), None, TimeoutError)
        others = [asyncio.create_task(wait()) for _ in range(offloop.MOST_THREADS)]
        async with lively():
            begin = time.monotonic()
            await asyncio.sleep(0)
            with pytest.raises(QueueTimeout, match=r"others already wait for Redis .*it was not asked"):
                await publisher.apublish_message("never")
            assert TIMEOUT * 0.8 < time.monotonic() - begin < TIMEOUT * 4
        cancelled = asyncio.create_task(publisher.apublish_message("never"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):  # which reaches it in the loop's next turn
            await cancelled
        released.set()
        await asyncio.gather(*others)
        await publisher.apublish_message("after")

    with server.client.monitor() as monitor:
        asyncio.run(publish())
        said = []
        while not said or "EXEC" not in said[-1]:
            said.append(monitor.next_command()["command"])
    assert not any("never" in command for command in said)
    assert any("after" in command for command in said)


def test_who_is_cancelled_leaves_at_once_and_spoils_nothing(server: RedisServer) -> None:
    async def publish() -> None:
        publisher = RedisPublisher(facility="f", broadcast=True)
        hung = RedisPublisher(facility="hung", broadcast=True)
        await publisher.apublish_message("before")
        with hanging(server):
            begin = time.monotonic()
            tasks = [asyncio.create_task(hung.apublish_message("m")) for _ in range(3 * offloop.MOST_THREADS)]
            with pytest.raises(TimeoutError if hasattr(asyncio, "timeout") else asyncio.TimeoutError):
                await asyncio.wait_for(hung.apublish_message("m"), 0.05)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            assert time.monotonic() - begin < TIMEOUT
        # Whatever was under way has its own connection, and none of its answers reaches somebody else.
        for number in range(50):
            await publisher.apublish_message(f"after {number}")
            assert await publisher.afetch_message(None, "f") == f"after {number}".encode()

    asyncio.run(publish())


def test_a_loop_that_ends_meanwhile_is_no_error(
    server: RedisServer, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    async def publish() -> None:
        task = asyncio.create_task(RedisPublisher(facility="f", broadcast=True).apublish_message("m"))
        await asyncio.sleep(0.05)
        task.cancel()

    with hanging(server):
        asyncio.run(publish())
    wait_until(lambda: server.client.ping(), "awake")
    asyncio.run(_publish("next"))
    assert "Traceback" not in "".join(capfd.readouterr())


async def _publish(message: str) -> int:
    return await RedisPublisher(facility="f", broadcast=True).apublish_message(message)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork(server: RedisServer) -> None:
    asyncio.run(_publish("parent"))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(_publish("child"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert server.client.get("broadcast:f") == b"child"


def test_the_language_is_that_of_the_coroutine(server: RedisServer) -> None:
    async def publish() -> None:
        with override("de"):
            await RedisPublisher(facility="f", broadcast=True).apublish_message(gettext_lazy("Monday"))

    asyncio.run(publish())
    assert server.client.get("broadcast:f") == b"Montag"


def test_what_is_captured_in_a_test() -> None:
    with capture() as published:
        asyncio.run(_publish("m"))
        assert asyncio.run(RedisPublisher().afetch_message(None, "f")) == b"m"
    assert [(each.text, each.channels) for each in published] == [("m", {"broadcast:f"})]


# ---------------------------------------------------------------- SELF


def test_self_is_found_out_where_a_database_may_be_asked(server: RedisServer) -> None:
    async def publish(request: Any) -> None:
        publisher = RedisPublisher(request=request, facility="f", users=[SELF], sessions=[SELF])
        await publisher.apublish_message("m")
        await publisher.apublish_message("m")

    asyncio.run(publish(lazily(MARY)))
    assert sorted(server.client.keys()) == [b"session:k3y:f", b"user:mary:f"]
    server.client.flushall()
    asyncio.run(publish(lazily(NOBODY)))
    assert server.client.keys() == [b"session:k3y:f"]


def test_a_lazy_user_in_the_list_is_too(server: RedisServer) -> None:
    async def publish(users: Any) -> None:
        await RedisPublisher(facility="f", users=users).apublish_message("m")

    asyncio.run(publish([lazily(MARY).user, "john"]))
    assert sorted(server.client.keys()) == [b"user:john:f", b"user:mary:f"]


def test_without_await_it_says_what_to_do(server: RedisServer) -> None:
    async def publish() -> None:
        RedisPublisher(request=lazily(MARY), facility="f", users=[SELF]).publish_message("m")

    with pytest.raises(SynchronousOnlyOperation, match="await apublish_message"):
        asyncio.run(publish())

    async def on_commit() -> None:
        RedisPublisher(facility="f", broadcast=True).publish_on_commit("m")

    with pytest.raises(SynchronousOnlyOperation, match=r"a coroutine has no transaction.*sync_to_async"):
        asyncio.run(on_commit())
    assert server.client.keys() == []


def test_what_needs_no_database_is_known_at_once(server: RedisServer) -> None:
    async def make() -> None:
        with pytest.raises(ValueError, match="contains 7, which is no name of a user"):
            RedisPublisher(facility="f", users=[7])
        publisher = RedisPublisher(facility="f", users=["mary"], groups=("g",), broadcast=True)
        assert publisher._find is None
        assert publisher.publish_message("m") == 0

    asyncio.run(make())


def test_fetching_for_a_request(server: RedisServer) -> None:
    server.client.set("user:mary:f", "for mary")

    async def fetch(request: Any) -> bytes | None:
        return await RedisPublisher().afetch_message(request, "f")

    assert asyncio.run(fetch(lazily(MARY))) == b"for mary"
    assert asyncio.run(fetch(lazily(NOBODY))) is None


# ---------------------------------------------------------------- views


async def view(request: HttpRequest) -> HttpResponse:
    request.user = SimpleLazyObject(async_unsafe(lambda: MARY))
    publisher = RedisPublisher(request=request, facility="f", users=[SELF], broadcast=True)
    try:
        count = await publisher.apublish_message("from a view")
    except QueueTimeout as error:
        return HttpResponse(str(error), status=503)
    return HttpResponse(str(count))


async def sync_part(request: HttpRequest) -> HttpResponse:
    request.user = SimpleLazyObject(async_unsafe(lambda: MARY))

    def act() -> int:
        return RedisPublisher(request=request, facility="f", users=[SELF]).publish_message("from its sync part")

    return HttpResponse(str(await sync_to_async(act)()))


urlpatterns = [path("publish/", view), path("sync/", sync_part)]


@pytest.mark.parametrize("where", ["publish", "sync"])
def test_in_an_async_view(server: RedisServer, where: str) -> None:
    async def ask() -> None:
        with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[]):
            responses = await asyncio.gather(*(AsyncClient().get(f"/{where}/") for _ in range(20)))
            assert {(response.status_code, response.content) for response in responses} == {(200, b"0")}
            if where == "publish":
                with hanging(server):
                    async with lively():
                        response = await AsyncClient().get("/publish/")
                assert response.status_code == 503

    asyncio.run(ask())
    value = server.client.get("user:mary:f")
    assert value in (b"from a view", b"from its sync part")
