"""A hub on a real Redis, in this process, its clients at the other end of socket pairs."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection as RedisConnection
from redis.retry import Retry

from tests.support.servers import RedisServer, wait_until
from tests.support.wire import Client
from uws4r._connection import Connection
from uws4r.attachment import Attachment, HubOptions
from uws4r.engines.thread import run_in_thread
from uws4r.hub import Hub


class Bench:
    """A running hub, and what a test does to it."""

    def __init__(self, server: RedisServer, options: HubOptions) -> None:
        self.server = server
        self.redis = server.client
        self.clients: list[Client] = []
        self.descriptors: dict[socket.socket, int] = {}  # a client's socket -> the hub's end
        self.hub = Hub(self.connection, options)
        self.thread = run_in_thread(self.hub)
        assert self.hub.keeper.connector.wait()

    def connection(self) -> RedisConnection:
        return RedisConnection(
            host="127.0.0.1", port=self.server.port, protocol=3, client_name="uws4r", retry=Retry(NoBackoff(), 0)
        )

    def call(self, function: Callable[[], Any]) -> Any:
        """Something done by the hub's thread."""
        done = threading.Event()
        results: list[Any] = []

        def run() -> None:
            results.append(function())
            done.set()

        self.hub.call_soon(run)
        assert done.wait(10)
        return results[0]

    @contextmanager
    def held(self) -> Iterator[None]:
        """The hub's thread stands still, so that all that happens meanwhile is one turn of it."""
        reached, release = threading.Event(), threading.Event()

        def hold() -> None:
            reached.set()
            release.wait(10)

        self.hub.call_soon(hold)
        assert reached.wait(10)
        try:
            yield
        finally:
            release.set()

    def connection_of(self, client: Client) -> Connection:
        fd = self.descriptors[client.sock]
        return self.call(lambda: next(c for c in self.hub.loop.connections if c.fd == fd))

    def open(self, *channels: str, publish: tuple[str, ...] = (), **options: object) -> Client:
        """A client that listens to ``facility`` channels by their full names; the last part is the facility."""
        ours, theirs = socket.socketpair()
        client = Client(ours, window=options.get("window", 0))  # type: ignore[arg-type]
        self.clients.append(client)
        fd = self.descriptors[ours] = theirs.detach()
        subscribe = tuple((name.encode(), name.rpartition(":")[2]) for name in channels)
        self.hub.attach(
            Attachment(
                fd=fd,
                **{"identity": "test", **options},  # type: ignore[arg-type]
                subscribe=subscribe,
                publish=tuple(name.encode() for name in publish),
            )
        )
        return client

    def join(self, *channels: str, **options: object) -> Client:
        """The same, and it has joined."""
        client = self.open(*channels, **options)
        wait_until(lambda: self.call(lambda: self.joined(self.descriptors[client.sock])), "joined", pause=0.001)
        return client

    def joined(self, fd: int) -> bool:
        return any(c.fd == fd and c.attachment is None for c in self.hub.loop.connections)

    def close(self) -> None:
        for client in self.clients:
            client.sock.close()
        self.hub.stop(5)
        assert self.hub.stopped.is_set()
        self.thread.join(5)
