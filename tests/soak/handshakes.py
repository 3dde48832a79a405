"""Requests that stop in the middle: who is served beside them, and when."""

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.soak.clients import handshake
from tests.support.deployed import Emperor, Nginx
from tests.support.servers import SITE, RedisServer
from tests.support.site import Site, site_env

HALF = handshake("/ws/half?subscribe-broadcast")[:-20]
SOON = 1.0  # seconds within which a new client is served


@contextmanager
def fronts(redis: RedisServer, database: Path) -> Iterator[dict[str, Site]]:
    """The test site behind the shipped emperor, and behind NGiNX with the shipped file."""
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:  # short: it is the path of Unix sockets
        directory = Path(name)
        env = {**site_env(redis.url, database), "UWS4R_SITE": str(SITE)}
        emperor = Emperor(directory, env)
        try:
            nginx = Nginx(directory, emperor)
            try:
                yield {
                    front: Site(redis, env, ("127.0.0.1", port), emperor.uwsgi, workers=2)
                    for front, port in (("emperor", emperor.port), ("nginx", nginx.port))
                }
            finally:
                nginx.stop()
        finally:
            emperor.stop()


@contextmanager
def half_requests(site: Site, count: int) -> Iterator[None]:
    """So many connections with a request that stops in the middle."""
    halves = []
    try:
        for _ in range(count):
            halves.append(socket.create_connection(site.address, 10))
            halves[-1].sendall(HALF)
        yield
    finally:
        for half in halves:
            half.close()


def served_after(site: Site) -> float:
    """Seconds until a new client's websocket is open."""
    begin = time.monotonic()
    with site.connect("/ws/new?subscribe-broadcast") as client:
        seconds = time.monotonic() - begin
        client.ping()
    return seconds


def half_sent_handshakes(site: Site, halves: int, idle: int, clients: int = 10) -> dict[str, Any]:
    """So many half-sent handshakes beside so many idle websockets; new clients, one after the other, are served."""
    open_ones = [site.connect("/ws/idle?subscribe-broadcast") for _ in range(idle)]
    with half_requests(site, halves):
        slowest = max(served_after(site) for _ in range(clients))
        assert slowest < SOON, f"served after {slowest:.2f} s"
        for client in open_ones:
            client.ping()
    site.close_clients()
    site.uwsgi.assert_healthy()
    return {"half-sent": halves, "idle": idle, "slowest new client ms": round(slowest * 1000)}


def bare_http_socket(served: Callable[..., Site], seconds: int) -> dict[str, Any]:
    """
    Every worker of a bare ``http-socket`` holds half a request, with a ``socket-timeout`` of so many seconds.

    A new client waits for it, and no longer; a websocket that is open already does not know about it.
    """
    workers = 2
    site = served(workers=workers, options=("--socket-timeout", str(seconds)))
    idle = [site.connect("/ws/idle?subscribe-broadcast") for _ in range(10)]
    begin = time.monotonic()
    with half_requests(site, workers):
        waited = served_after(site)
        # The clock that ends it begins with the half request's last byte, a little before ours.
        assert seconds - 0.5 < waited < seconds + 1, f"served after {waited:.1f} s, not {seconds}"
        assert time.monotonic() - begin > seconds - 0.5
        for client in idle:
            assert client.ping() == []
    site.uwsgi.assert_healthy()
    return {"workers": workers, "socket-timeout s": seconds, "new client after s": round(waited, 1)}
