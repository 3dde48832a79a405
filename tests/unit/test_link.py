"""The link where it is easily wrong: TLS that takes a part, a value larger than any buffer, doubt, forks."""

import itertools
import os
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_certificates
from tests.support.hubs import Bench
from tests.support.servers import RedisServer, wait_until
from uws4r.attachment import HubOptions
from uws4r.engines.turns import Turns
from uws4r.hub import Hub
from uws4r.link import Link


class Plug:
    """In the place of redis-py's connection."""

    def __init__(self, end: socket.socket) -> None:
        self._sock = end

    def disconnect(self) -> None:
        self._sock.close()


@pytest.fixture
def tls_pair(tmp_path: Path) -> Callable[[], tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Makes both ends of a TLS connection: the client's and the server's."""
    made = make_certificates(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    client = ssl.create_default_context(cafile=str(made.ca))

    def make() -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        ours, theirs = socket.socketpair()
        ends: list[ssl.SSLSocket] = []
        thread = threading.Thread(target=lambda: ends.append(server.wrap_socket(theirs, server_side=True)))
        thread.start()
        wrapped = client.wrap_socket(ours, server_hostname="localhost")
        thread.join()
        return wrapped, ends[0]

    return make


@pytest.mark.parametrize("rounds", [1, 4])
@pytest.mark.parametrize("size", [200, 900, 3000, 7000])
def test_over_tls_nothing_that_redis_has_counts_as_unsent(
    tls_pair: Callable[[], tuple[ssl.SSLSocket, ssl.SSLSocket]], size: int, rounds: int
) -> None:
    ours, theirs = tls_pair()
    unsent: list[int] = []
    got = b""
    with ours, theirs:
        theirs.setblocking(False)
        link = Link(Plug(ours), lambda name, data: None, lambda: None)  # type: ignore[arg-type]
        numbers = itertools.count()
        for _ in range(rounds):  # full; some room, and more to say; full again
            for number in itertools.islice(numbers, 1_000_000 // size):
                link.publish((b"c",), b"%06d" % number + bytes(size), 0, partial(note_unsent, unsent), number)
            link.write()
            assert link.has_output
            got += theirs.recv(20_000)
        link.close("gone")
        with suppress(ssl.SSLError, ConnectionError):
            while part := theirs.recv(1 << 16):
                got += part
    whole = [number for number in range(next(numbers)) if b"%06d" % number + bytes(size) + b"\r\n" in got]
    assert len(whole) > 10
    assert whole == list(range(len(whole)))
    assert not set(whole) & set(unsent)


def note_unsent(unsent: list[int], number: int, reply: Any) -> None:
    if reply.unsent:
        unsent.append(number)


def test_a_message_larger_than_what_may_wait(make: Callable[..., Bench], own_redis: RedisServer) -> None:
    own_redis.client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
    size = 34 << 20
    bench = make(own_redis, max_queue=1 << 30)
    client = bench.join("broadcast:f")
    own_redis.client.publish("broadcast:f", "x" * size)
    assert client.receive() == "x" * size
    assert bench.hub.keeper.links == 1


def test_doubt_ends_when_something_is_heard_and_not_before(bench: Bench) -> None:
    hub = Hub(bench.connection, HubOptions())
    hub.loop.lend()  # an engine that has each turn look at the link, whether there is something or not
    try:
        wait_until(lambda: hub.run_once(block=False) and hub.keeper.link is not None, "linked")
        wait_until(lambda: hub.run_once(block=False) and not hub.keeper.busy, "answered")
        assert hub.keeper.link is not None
        hub.keeper.link.heard = False
        hub.outbox.doubted = True
        hub.run_once(block=False)
        assert hub.outbox.doubted
        hub.keeper.link.greet(lambda context, reply: None)
        wait_until(lambda: hub.run_once(block=False) and not hub.outbox.doubted, "heard")
    finally:
        hub.retire()


def test_a_forked_child_takes_no_turn_of_its_parents_hub(bench: Bench) -> None:
    turns = Turns(bench.hub)
    pid = os.fork()
    if pid == 0:
        os._exit(turns.once())
    assert os.waitpid(pid, 0)[1] == 0
