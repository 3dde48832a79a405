"""Clients who only listen, beside others who come and go in every bad way: they get all that is published, in order."""

import random
import socket
import threading
import time
from typing import Any

from tests.soak.clients import handshake, reset
from tests.support.process import worker_pid
from tests.support.site import Site
from tests.support.wire import TEXT, masked_frame

PATH = "/ws/churn?subscribe-broadcast&publish-broadcast"
AT_A_TIME = 20
CRASHING = b"\x80\x80\x01\x02\x03\x04"  # to uWSGI's own parser


def bytes_of(chance: random.Random) -> bytes:
    """What one of them sends in all its life."""
    head = handshake(PATH)
    unfinished = masked_frame(TEXT, b"secret-of-%d" % chance.randrange(1000), final=False)
    return chance.choice(
        [
            head[: chance.randrange(1, len(head))],
            b"\x16\x03\x01" + chance.randbytes(100),
            head + CRASHING,
            head + unfinished,
            head + unfinished + masked_frame(TEXT, b"again"),
            head + masked_frame(TEXT, b"x" * 1000)[: chance.randrange(1, 1000)],
            head + masked_frame(TEXT, b"whole") * chance.randrange(1, 20),
            head + masked_frame(0, b"continues nothing"),
            head,
        ]
    )


def come_and_go(site: Site, chance: random.Random) -> None:
    """Some clients at once; each sends its bytes in pieces, and goes without a word."""
    clients = []
    for _ in range(AT_A_TIME):
        clients.append((socket.create_connection(site.address, 10), bytes_of(chance)))
    rest = list(clients)
    while rest:
        sock, data = rest.pop(chance.randrange(len(rest)))
        size = chance.choice([len(data), chance.randrange(len(data)) + 1])
        try:
            sock.sendall(data[:size])
        except OSError:
            continue  # it has been refused meanwhile
        if data[size:] and chance.random() < 0.9:
            rest.append((sock, data[size:]))
    for sock, _ in clients:
        if chance.random() < 0.5:
            reset(sock)
        else:
            sock.close()


def churn_beside(site: Site, seconds: float, seed: int, quiet: int = 200) -> dict[str, Any]:
    """Have ``quiet`` clients listen for so long."""
    pid = worker_pid(site)
    listeners = [site.join("/ws/quiet?subscribe-broadcast") for _ in range(quiet)]
    chance = random.Random(seed)
    published = 0
    ended = threading.Event()

    def publish() -> None:
        nonlocal published
        while not ended.wait(0.01):
            site.redis.client.publish("broadcast:quiet", f"{published}")
            published += 1

    publisher = threading.Thread(target=publish)
    publisher.start()
    rounds, end = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            come_and_go(site, chance)
            rounds += 1
    finally:
        ended.set()
        publisher.join()
    for listener in listeners:
        for number in range(published):
            received = listener.receive()
            assert received == f"{number}", f"{received!r} instead of {number}; seed {seed}"
        assert listener.ping() == []
    assert worker_pid(site) == pid, f"another worker; seed {seed}"
    site.uwsgi.assert_healthy()
    return {"clients": rounds * AT_A_TIME, "quiet": quiet, "messages": published, "lost": 0, "seed": seed}
