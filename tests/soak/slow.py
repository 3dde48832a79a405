"""A client that reads nothing costs its queue, and nobody else anything."""

import select
import statistics
import time
from typing import Any

from tests.soak.clients import deaf_client
from tests.support.process import allocated, pss, worker_pid
from tests.support.servers import wait_until
from tests.support.site import Site
from tests.support.wire import CLOSE, TEXT, Client

PATH = "/ws/slow?subscribe-broadcast"
CHANNEL = "broadcast:slow"
LIMIT = 1 << 20  # UWS4R_MAX_QUEUE's default
SIZE = 1000  # bytes of a message
BATCH = 16  # messages that are under way at a time
GIVEN_UP, DROPPED = " is slow: ", " closed: 1013 'too slow'"  # in the log
# What the kernel of the server takes for a client before anything has to wait in the hub; by itself it would be
# some megabytes, and different ones each time.
OPTIONS = ("--socket-sndbuf", "65536")
NOISE = LIMIT // 4  # bytes: heads of frames and of malloc's blocks, and what pages add to them


def message(number: int, size: int = SIZE) -> bytes:
    return b"%08d " % number + b"x" * (size - 9)


def queue_limit(site: Site, messages: int) -> dict[str, Any]:
    """
    Two clients read nothing while so many messages are published; a third reads all of them.

    The worker's memory grows by no more than one queue (both wait for the same frames, which exist once), and is
    freed when they are given up. Of the two, one reads right then, the other when its connection has ended.
    All of it is done twice: the first time, a worker also grows by what it keeps for good.
    """
    queue_run(site, messages // 2, await_drop=False)
    grown, grown_pss, kept = queue_run(site, messages)
    assert LIMIT // 2 < grown < LIMIT + NOISE, f"malloc: {grown} bytes more"
    assert grown_pss < LIMIT + 2 * NOISE, f"PSS: {grown_pss} bytes more"
    assert kept < LIMIT // 8, f"{kept} bytes are kept when the clients are given up"
    site.uwsgi.assert_healthy()
    return {
        "messages": messages,
        "queue grows malloc KiB": grown // 1024,
        "and PSS KiB": grown_pss // 1024,
        "kept KiB": round(kept / 1024, 1),
        "close code": 1013,
    }


def queue_run(site: Site, messages: int, await_drop: bool = True) -> tuple[int, int, int]:
    """Return the bytes that malloc had given out more at most, those of PSS, and those right after the closing."""
    pid = worker_pid(site)
    given_up = site.uwsgi.log.count(GIVEN_UP)
    dropped = site.uwsgi.log.count(DROPPED)
    reader = site.join(PATH)
    publisher = site.redis.client.pipeline(transaction=False)
    published = 0

    def publish() -> None:
        nonlocal published
        for number in range(published, published + BATCH):
            publisher.publish(CHANNEL, message(number))
        publisher.execute()
        for number in range(published, published + BATCH):
            frame = reader.frame()
            assert (frame.opcode, frame.payload) == (TEXT, message(number))
        published += BATCH

    publish()
    soon, late = (deaf_client(site, PATH) for _ in range(2))
    for client in (soon, late):
        client.ping()
    peak = before = allocated(site), pss(pid) * 1024
    first = published
    kept = None
    while published < first + messages:
        publish()
        peak = max(peak[0], allocated(site)), max(peak[1], pss(pid) * 1024)
        if kept is None and site.uwsgi.log.count(GIVEN_UP) == given_up + 2:
            kept = allocated(site) - before[0]
            read_by_soon, code = read_out(soon, first)
            assert code == 1013, code
    assert kept is not None, "nobody was slow"
    if await_drop:
        wait_until(lambda: site.uwsgi.log.count(DROPPED) == dropped + 2, "both dropped")
        read_by_late, code = read_out(late, first)
        assert code in (None, 1013), code
        assert 0 < read_by_late <= read_by_soon + BATCH
    site.close_clients()
    return peak[0] - before[0], peak[1] - before[1], kept


def read_out(client: Client, first: int) -> tuple[int, int | None]:
    """Read what there is, whole messages in order; return their number, and the close code if there is one."""
    count = 0
    try:
        while (frame := client.frame()).opcode == TEXT:
            assert frame.payload == message(first + count), frame.payload[:20]
            count += 1
    except (EOFError, ConnectionResetError):
        return count, None
    assert frame.opcode == CLOSE, frame
    return count, frame.close_code


def latencies(site: Site, rounds: int, messages: int, listeners: int = 30, slow: int = 5) -> dict[str, Any]:
    """
    The listeners' p99 with slow clients beside them and without, in turn; the best rounds are compared.

    A round with slow clients is slow all through: those that are closed are replaced, so that at each message
    some have more than their kernel takes.
    """
    readers = [site.join(PATH) for _ in range(listeners)]
    measured: dict[bool, list[float]] = {False: [], True: []}
    closed = 0
    flow(site, readers, messages, 0)
    for number in range(2 * rounds):
        with_slow = number % 4 in (1, 2)  # off, on, on, off: a machine that gets slower or faster favours neither
        times, gone = flow(site, readers, messages, slow if with_slow else 0)
        measured[with_slow].append(statistics.quantiles(times, n=100)[98] * 1000)
        closed += gone
    without, beside = (statistics.median(measured[with_slow]) for with_slow in (False, True))
    # A hub that waits for a slow client does so for each message, so five would cost five waits, in the best round
    # too. What others take from a busy machine is in some rounds and not in all; 2 ms is what its scheduler takes.
    best = {with_slow: min(rounds) for with_slow, rounds in measured.items()}
    assert best[True] < 1.5 * best[False] + 2, f"p99 beside slow clients {measured[True]}, without {measured[False]} ms"
    assert closed >= rounds, "the slow clients were not slow"
    site.uwsgi.assert_healthy()
    return {
        "rounds": rounds,
        "p99 ms": round(without, 2),
        "beside slow clients ms": round(beside, 2),
        "slow clients closed": closed,
    }


def flow(site: Site, readers: list[Client], messages: int, slow: int) -> tuple[list[float], int]:
    """Publish one message after the other, each when all have the last: seconds per delivery, slow clients closed."""
    size = 8 * SIZE
    deaf = [deaf_client(site, PATH) for _ in range(slow)]
    was_slow = site.uwsgi.log.count(GIVEN_UP)
    closed = 0
    times = []
    with select.epoll() as poll:
        by_fd = {reader.sock.fileno(): reader for reader in readers}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        for number in range(messages):
            if slow and number % 50 == 49 and (gone := site.uwsgi.log.count(GIVEN_UP) - was_slow - closed):
                closed += gone
                deaf += [deaf_client(site, PATH) for _ in range(gone)]
            missing = set(by_fd)
            expected = message(number, size).decode()
            begin = time.monotonic()
            site.redis.client.publish(CHANNEL, message(number, size))
            while missing:
                ready = poll.poll(10)
                assert ready, f"{len(missing)} readers wait for 10 s"
                for fd, _ in ready:
                    received = by_fd[fd].receive()  # answers pings as well
                    times.append(time.monotonic() - begin)
                    assert received == expected, (number, received[:20])
                    missing.discard(fd)
    for client in deaf:
        client.sock.close()
    return times, closed
