"""Clients that go without a word: each is found out in its time, and its descriptor is closed."""

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.process import descriptors, idle_descriptors, worker_pid
from tests.support.servers import free_port, wait_until
from tests.support.site import Site
from tests.support.wire import Client

CLONE_NEWNET = 0x40000000
CLOSE_TIME = 5.0  # seconds that a client has to answer a close frame
TICK = 0.3  # seconds: the wheel's tick, and what a busy machine needs to notice it
HURRY = 0.7  # seconds more than promised that are still forgiven: two cores may be busy with other things


class Away:
    """
    Another machine, as far as the kernel is concerned: a network namespace, and a cable to it that can be cut.

    Only root may make one; see :func:`another_machine`.
    """

    def __init__(self) -> None:
        number = os.getpid() % 0x3FFF
        self.name = f"uws4r-{os.getpid()}"
        self.here, self.there = f"uws4r{number}a", f"uws4r{number}b"
        # 198.18.0.0/15 is for tests of network devices (RFC 2544): no real network uses it.
        net = f"198.18.{number >> 6}.{(number & 0x3F) << 2}".rpartition(".")
        self.address, self.peer = (f"{net[0]}.{int(net[2]) + host}" for host in (1, 2))

    def make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.name)
        _ip("addr", "add", f"{self.address}/30", "dev", self.here)
        _ip("link", "set", self.here, "up")
        _ip("-n", self.name, "addr", "add", f"{self.peer}/30", "dev", self.there)
        _ip("-n", self.name, "link", "set", self.there, "up")

    def socket(self) -> socket.socket:
        """A socket of that machine: it belongs to the namespace of the thread that has made it."""
        made: list[socket.socket] = []

        def make() -> None:
            namespace = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) == 0:
                    made.append(socket.socket())
            finally:
                os.close(namespace)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert made, "setns"
        return made[0]

    def cut(self) -> None:
        """Nothing gets there any more, and nothing comes back: no FIN, no RST, no acknowledgement."""
        _ip("-n", self.name, "link", "set", self.there, "down")

    def remove(self) -> None:
        # The cable first: it would go with the namespace, but some time later, and its name be taken until then.
        subprocess.run(["ip", "link", "del", self.here], check=False, capture_output=True)
        _ip("netns", "del", self.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def another_machine() -> Iterator[Away | None]:
    """Such a machine, or None where this one does not allow it."""
    away = Away()
    try:
        away.make()
    except (OSError, subprocess.CalledProcessError):
        away_or_none = None
    else:
        away_or_none = away
    try:
        yield away_or_none
    finally:
        if os.path.exists(f"/run/netns/{away.name}"):
            away.remove()


def ways_to_go(served: Callable[..., Site], interval: float = 1.0, timeout: float = 1.0) -> dict[str, Any]:
    """
    Three clients at once: one whose machine vanishes, one that is there and silent, one that ignores a close frame.

    To the hub the first two are the same, to the kernel they are not: what it sends to the first is never
    acknowledged.
    """
    with another_machine() as away:
        settings = {"UWS4R_PING_INTERVAL": interval, "UWS4R_PING_TIMEOUT": timeout}
        port = free_port()
        options = ("--http-socket", f"{away.address}:{port}") if away else ()
        site = served(settings=settings, options=options)
        pid = worker_pid(site)
        before = idle_descriptors(site)
        begins = {}
        if away:
            sock = away.socket()
            sock.connect((away.address, port))
            vanishing = Client(sock)
            site.opened.append(vanishing)
            vanishing.request("/ws/vanishing?subscribe-broadcast")
            vanishing.ping()
            away.cut()
            begins["vanishing"] = time.monotonic()
        silent = site.connect("/ws/silent?subscribe-broadcast")
        silent.ping()
        begins["silent"] = time.monotonic()
        rude = site.connect("/ws/rude?subscribe-broadcast")
        rude.send_raw(b"\x81\x02hi")  # not masked
        assert rude.receive_close().close_code == 1002
        begins["rude"] = time.monotonic()
        wait_until(lambda: descriptors(pid) == before + len(begins), "their descriptors are open", 1)
        found, dropped = {}, {}

        def all_gone() -> bool:
            log, now = site.uwsgi.log, time.monotonic()
            for name, begin in begins.items():
                if name not in found and not site.redis.subscriptions(f"broadcast:{name}"):
                    found[name] = now - begin
                if name not in dropped and f"/ws/{name} closed" in log:
                    dropped[name] = now - begin
            return len(dropped) == len(begins)

        wait_until(all_gone, "all are gone", interval + timeout + CLOSE_TIME + 5, pause=0.02)
        wait_until(lambda: descriptors(pid) == before, "their descriptors are closed", 1)
        for name in begins:
            code, due = (1002, 0.0) if name == "rude" else (1011, interval + timeout)
            assert f"/ws/{name} closed: {code}" in site.uwsgi.log
            assert due - TICK < found[name] < due + TICK + HURRY, (name, found)
            wait = dropped[name] - due
            assert CLOSE_TIME - TICK < wait < CLOSE_TIME + 2 * TICK + HURRY, (name, dropped)
        site.uwsgi.assert_healthy()
        return {
            **{f"{name} found after s": round(seconds, 1) for name, seconds in found.items() if name != "rude"},
            "dropped s after the close frame": round(dropped["rude"], 1),
            **({} if away else {"vanishing": "not tried: no network namespaces here"}),
        }
