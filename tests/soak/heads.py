"""Clients that send request heads or uploads as slowly as they can: who is served beside them, and when."""

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.soak.handshakes import SOON, served_after
from tests.support.site import Site
from tests.support.wire import Client

HEAD = b"GET /visit/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
TIMEOUT = 10  # seconds in which a head has to be whole, in all shipped files


def upload_head(size: int, path: str = "/digest/", more: str = "") -> bytes:
    """The head of an upload of so many bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n{more}\r\n"
    ).encode()


class Drips:
    """
    So many clients that send ``begin``, and some bytes more once a second, until the end.

    One that the server ends comes back at once: ``ended`` counts that.
    """

    def __init__(self, site: Site, count: int, begin: bytes, drop: bytes) -> None:
        self.site, self.begin, self.drop = site, begin, drop
        self.ended = 0
        self.clients = [self._connect() for _ in range(count)]
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _connect(self) -> socket.socket:
        client = socket.create_connection(self.site.address, 10)
        client.sendall(self.begin)
        client.setblocking(False)
        return client

    def _run(self) -> None:
        while not self.over.wait(1.0):
            for i, client in enumerate(self.clients):
                try:
                    client.send(self.drop)
                except BlockingIOError:
                    continue
                except OSError:
                    client.close()
                    self.ended += 1
                    self.clients[i] = self._connect()

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        for client in self.clients:
            client.close()


@contextmanager
def dripping(site: Site, count: int, begin: bytes = HEAD, drop: bytes = b"x") -> Iterator[Drips]:
    """See :class:`Drips`."""
    drips = Drips(site, count, begin, drop)
    try:
        yield drips
    finally:
        drips.close()


def page_after(site: Site) -> float:
    """Seconds until a new client has a page."""
    begin = time.monotonic()
    assert site.request("POST", "/visit/").status == 200
    return time.monotonic() - begin


def slowest_beside(site: Site, seconds: float) -> dict[str, Any]:
    """For so long new clients come, one after the other, for pages and websockets in turn; all are served soon."""
    pages, websockets = [], []
    since = time.monotonic()
    while not pages or time.monotonic() - since < seconds:
        pages.append(page_after(site))
        websockets.append(served_after(site))
        assert pages[-1] < SOON, f"a page after {pages[-1]:.2f} s"
        assert websockets[-1] < SOON, f"a websocket after {websockets[-1]:.2f} s"
    return {"slowest page ms": round(max(pages) * 1000), "slowest websocket ms": round(max(websockets) * 1000)}


def dripping_heads(site: Site, count: int, seconds: float) -> dict[str, Any]:
    """So many clients whose head never ends, and who come back; each is ended ``TIMEOUT`` seconds after it has come."""
    with dripping(site, count) as drips:
        figures = slowest_beside(site, seconds)
        assert seconds < TIMEOUT + 5 or drips.ended >= count, f"only {drips.ended} were ended in {seconds} s"
        ended = drips.ended
    site.uwsgi.assert_healthy()
    return {"dripping heads": count, "ended": ended, **figures}


def slow_uploads(site: Site, count: int, seconds: float, size: int = 300_000) -> dict[str, Any]:
    """So many uploads that go on at 1000 bytes a second; one more of them, whose rest comes at last, is whole."""
    body = random.randbytes(size)
    with dripping(site, count, upload_head(size) + body[:1000], b"x" * 1000), Client(site.address) as last:
        last.send_raw(upload_head(size) + body[: size // 2])
        figures = slowest_beside(site, seconds)
        last.send_raw(body[size // 2 :])
        assert last.read_response().body.decode() == f"{size} {hashlib.sha256(body).hexdigest()}"
    site.uwsgi.assert_healthy()
    return {"slow uploads": count, **figures}
