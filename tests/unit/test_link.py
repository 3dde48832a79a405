"""The link where it is easily wrong: TLS that takes a part, a value larger than any buffer, doubt, forks."""

import itertools
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
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


@pytest.fixture
def fast_sender(tls_pair: Callable[[], tuple[ssl.SSLSocket, ssl.SSLSocket]]) -> Iterator[tuple[ssl.SSLSocket, bytes]]:
    """Our end of a TLS connection, and the 40 MiB of messages that the other one sends, as fast as they are read."""
    ours, theirs = tls_pair()
    data = (b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$10000\r\n" + bytes(10_000) + b"\r\n") * 4194
    sender = threading.Thread(target=send_until_closed, args=(theirs, data))
    sender.start()
    with ours, theirs:
        yield ours, data
        ours.shutdown(socket.SHUT_RDWR)
        sender.join()


def send_until_closed(end: ssl.SSLSocket, data: bytes) -> None:
    with suppress(OSError):
        end.sendall(data)


def test_one_turn_reads_a_bounded_part_of_what_comes_over_tls(fast_sender: tuple[ssl.SSLSocket, bytes]) -> None:
    ours, data = fast_sender
    pushed: list[bytes] = []
    link = Link(Plug(ours), lambda name, data: pushed.append(data), lambda: None)  # type: ignore[arg-type]
    turns = 0
    while len(pushed) < 4194:
        select.select([ours], [], [], 0 if link.unread else 10)
        before = len(pushed)
        link.read()
        while link.dispatch(1000):
            pass
        assert (len(pushed) - before) * 10_000 < 2 << 20
        turns += 1
    assert turns > len(data) >> 21


def test_over_tls_nothing_more_is_read_while_too_much_waits(fast_sender: tuple[ssl.SSLSocket, bytes]) -> None:
    ours, _ = fast_sender
    pushed: list[bytes] = []
    link = Link(Plug(ours), lambda name, data: pushed.append(data), lambda: None)  # type: ignore[arg-type]
    while not link.full:
        select.select([ours], [], [], 0 if link.unread else 10)
        link.read()
    for _ in range(10):
        link.read()
    while link.dispatch(1000):
        pass
    assert 31 << 20 < len(pushed) * 10_000 < 34 << 20
    while len(pushed) < 4194:  # the rest is not lost
        select.select([ours], [], [], 0 if link.unread else 10)
        link.read()
        link.dispatch(1000)


def test_a_full_tls_socket_of_gevents_ends_a_write(tls_pair: Callable[[], tuple[ssl.SSLSocket, ssl.SSLSocket]]) -> None:
    """It returns 0, where Python's own raises an error."""
    ours, theirs = tls_pair()
    with ours, theirs:
        link = Link(Plug(ours), lambda name, data: None, lambda: None)  # type: ignore[arg-type]
        sent: list[bytes] = []

        class Full:
            def send(self, data: bytes) -> int:
                sent.append(data)
                assert len(sent) < 10, "it is asked again and again"
                return 0 if len(sent) < 3 else len(data)

        link._socket = Full()
        link.publish((b"c",), b"first", 0, lambda context, reply: None)
        link.write()
        link.publish((b"c",), b"second", 0, lambda context, reply: None)
        link.write()
        assert link.has_output
        link.write()
        assert sent[0] == sent[1] == sent[2]  # what OpenSSL has begun it wants to be given again just so
        assert b"second" in sent[3]
        assert not link.has_output
        link._socket = ours


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
