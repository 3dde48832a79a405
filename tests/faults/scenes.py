"""The servers of a fault, and the faults: each a function that returns the figures of its row."""

import glob
import os
import random
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import redis

from tests.faults.crowd import Crowd, Figures, Listener
from tests.support.cable import Cable
from tests.support.sentinel import SentinelSetup
from tests.support.servers import RedisServer, wait_until
from tests.support.site import Site, serve
from uws4r.orders import ask
from uws4r.redis_clients import ROLE_PAUSE

QUIET = {"LOGGING": {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}}
FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"  # Debian's package faketime


class Scene:
    """
    What the faults need; everything of theirs has ended when :meth:`close` returns.

    Args:
        database: Of the site.
        clients: Websockets of each row.
    """

    def __init__(self, directory: Path, database: Path, clients: int = 200, seed: int = 1) -> None:
        self.directory = directory
        self.database = database
        self.clients = clients
        self.seed = seed
        self._stack = ExitStack()
        self._number = 0

    def close(self) -> None:
        self._stack.close()

    def place(self) -> Path:
        """A new directory."""
        self._number += 1
        made = self.directory / str(self._number)
        made.mkdir()
        return made

    def server(self, *options: str) -> RedisServer:
        server = RedisServer(self.place(), options=options)
        self._stack.callback(server.close)
        return server

    def cable(self, server: RedisServer) -> Cable:
        cable = Cable(server.address)
        self._stack.callback(cable.close)
        return cable

    def sentinels(self) -> SentinelSetup:
        setup = SentinelSetup(self.place())
        self._stack.callback(setup.close)
        return setup

    def replica_of(self, server: RedisServer) -> RedisServer:
        replica = self.server("--repl-diskless-sync-delay", "0")
        server.client.config_set("repl-diskless-sync-delay", 0)
        replica.client.replicaof("127.0.0.1", str(server.port))
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", "in sync")
        return replica

    @contextmanager
    def crowd(
        self,
        server: RedisServer,
        connection: Any = None,
        redis_now: Callable[[], Any] | None = None,
        workers: int = 2,
        env: dict[str, str] | None = None,
        **arguments: Any,
    ) -> Iterator[Crowd]:
        """A site on this Redis, and the crowd on it; ended with the block, and the site is healthy."""
        connection = {"host": "127.0.0.1", "port": server.port} if connection is None else connection
        settings = {**QUIET, "WS4REDIS_CONNECTION": connection}
        site = serve(self.place(), server, self.database, settings=settings, workers=workers, env=env or {})
        try:
            arguments = {"clients": self.clients, **arguments}
            with Crowd(site, redis_now or (lambda: server.client), connection, **arguments) as crowd:
                yield crowd
            self.healthy(site)
        finally:
            site.close_clients()
            site.uwsgi.stop()

    def healthy(self, site: Site) -> None:
        site.uwsgi.assert_healthy()


def at_cable(cable: Cable) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": cable.port}


def process_of(server: RedisServer) -> subprocess.Popen[bytes]:
    assert server.process is not None
    return server.process.process


def lasts(seconds: float) -> None:
    """The fault lasts so long: not to wait for anything, but as a part of it."""
    time.sleep(seconds)


# ---------------------------------------------------------------- Redis goes away


def killed(scene: Scene, seconds: float) -> Figures:
    """Redis killed with -9, and started again so many seconds later."""
    server = scene.server()
    with scene.crowd(server) as crowd:
        with crowd.fault():
            server.stop(signal.SIGKILL)
            lasts(seconds)
            server.start()
        lasts(1)
    return crowd.figures()


def killed_often(scene: Scene, times: int) -> Figures:
    """Redis killed with -9 so many times, after and for a random time."""
    chance = random.Random(scene.seed)
    server = scene.server()
    with scene.crowd(server) as crowd:
        for _ in range(times):
            lasts(chance.uniform(0, 1))
            with crowd.fault():
                server.stop(signal.SIGKILL)
                lasts(chance.choice([0, chance.uniform(0, 1)]))
                server.start()
        lasts(1)
        crowd.notes["resubscribed, median s"] = round(statistics.median(crowd.took), 2)
    return crowd.figures()


def stopped(scene: Scene, seconds: float) -> Figures:
    """Redis stands still (SIGSTOP) for so many seconds."""
    server = scene.server()
    with scene.crowd(server) as crowd:
        with crowd.fault():
            process_of(server).send_signal(signal.SIGSTOP)
            lasts(seconds)
            process_of(server).send_signal(signal.SIGCONT)
        lasts(1)
    return crowd.figures()


def cut(scene: Scene, seconds: float) -> Figures:
    """The network swallows packets for so many seconds, and connections of before never come back."""
    server = scene.server()
    cable = scene.cable(server)
    with scene.crowd(server, at_cable(cable)) as crowd:
        with crowd.fault():
            old = [link["id"] for link in server.links()]
            cable.cut()
            lasts(seconds)
            for link in old:  # or else they would count until Redis finds out, which takes minutes
                server.client.client_kill_filter(_id=link)
            cable.mend()
        lasts(1)
    return crowd.figures()


def client_kill(scene: Scene, times: int) -> Figures:
    """CLIENT KILL of all links."""
    server = scene.server()
    with scene.crowd(server) as crowd:
        for _ in range(times):
            lasts(1.2)
            with crowd.fault():
                server.client.client_kill_filter(_type="pubsub")
        lasts(1)
    return crowd.figures()


def busy(scene: Scene, seconds: float, says_so: int) -> Figures:
    """A script keeps Redis busy for so many seconds; after ``says_so`` milliseconds Redis answers BUSY."""
    server = scene.server()
    server.client.config_set("lua-time-limit", says_so)

    def run() -> None:
        with redis.Redis(port=server.port, socket_timeout=60, protocol=2) as client:
            try:
                client.eval("while true do end", 0)
            except redis.RedisError:
                pass  # killed, as was to be

    with scene.crowd(server) as crowd:
        script = threading.Thread(target=run)
        with crowd.fault():
            script.start()
            lasts(seconds)
            server.client.script_kill()
            script.join()
        lasts(1)
        crowd.notes["links made"] = sum(worker["links"] for worker in ask(do="status"))
    return crowd.figures()


def output_limit(scene: Scene) -> Figures:
    """Workers that do not read for a moment, and Redis cuts their links: client-output-buffer-limit."""
    server = scene.server()
    server.client.config_set("client-output-buffer-limit", "pubsub 1048576 0 0")
    with scene.crowd(server) as crowd:
        workers = [worker["pid"] for worker in ask(do="status")]
        with crowd.fault():
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            number = 0
            while server.links():
                server.client.publish(crowd.names[number % len(crowd.names)], f"flood {number} ".ljust(50_000, "x"))
                number += 1
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        lasts(1)
    return crowd.figures()


# ---------------------------------------------------------------- another master


def sentinel_kill(scene: Scene) -> Figures:
    """The master killed with -9; back is the moment of the promotion."""
    setup = scene.sentinels()
    now = [setup.master]
    with scene.crowd(setup.master, setup.connection, lambda: now[0].client) as crowd:
        with crowd.fault():
            setup.kill_master()
            begin = time.monotonic()
            wait_until(setup.promoted, "promoted", timeout=30)
            crowd.notes["promoted after s"] = round(time.monotonic() - begin, 1)
            now[0] = setup.replica
        lasts(1)
    return crowd.figures()


def sentinel_failover(scene: Scene) -> Figures:
    """SENTINEL FAILOVER: nobody dies; back is the moment when a sentinel names the new master."""
    setup = scene.sentinels()
    now = [setup.master]
    with scene.crowd(setup.master, setup.connection, lambda: now[0].client) as crowd:
        with crowd.fault(ROLE_PAUSE):
            setup.fail_over()
            wait_until(setup.known, "the sentinels know", timeout=60)
            now[0] = setup.replica
        lasts(1)
    return crowd.figures()


def swapped(scene: Scene) -> Figures:
    """REPLICAOF by hand, behind a balancer that leads to the master; nobody closes the old connections."""
    server = scene.server()
    replica = scene.replica_of(server)
    cable = scene.cable(server)
    now = [server]
    with scene.crowd(server, at_cable(cable), lambda: now[0].client) as crowd:
        with crowd.fault(ROLE_PAUSE):
            replica.client.replicaof("NO", "ONE")
            cable.target = replica.address
            server.client.replicaof("127.0.0.1", str(replica.port))
            now[0] = replica
        lasts(1)
    return crowd.figures()


# ---------------------------------------------------------------- Redis refuses


def readonly(scene: Scene, seconds: float) -> Figures:
    """READONLY: the only Redis is a replica for so many seconds."""
    server = scene.server()
    with scene.crowd(server) as crowd:
        with crowd.fault():
            server.client.replicaof("127.0.0.1", "1")
            lasts(seconds)
            server.client.replicaof("NO", "ONE")
        lasts(1)
    return crowd.figures()


def out_of_memory(scene: Scene, seconds: float) -> Figures:
    """OOM."""
    server = scene.server()
    with scene.crowd(server) as crowd:
        with crowd.fault():
            server.client.config_set("maxmemory", 1)
            lasts(seconds)
            server.client.config_set("maxmemory", 0)
        lasts(1)
    return crowd.figures()


def misconf(scene: Scene, seconds: float) -> Figures:
    """MISCONF: the disk is full."""
    server = scene.server()
    with scene.crowd(server) as crowd:
        target = server.directory / "dump.rdb"
        target.mkdir()  # no file can take its place
        with crowd.fault():
            server.client.config_set("save", "3600 1")
            server.client.bgsave()
            lasts(seconds)
            assert server.client.info("persistence")["rdb_last_bgsave_status"] == "err"
            server.client.config_set("save", "")
        lasts(1)
    return crowd.figures()


def no_permission(scene: Scene, seconds: float) -> Figures:
    """NOPERM: the right to publish is taken away for so many seconds."""
    server = scene.server()
    server.client.execute_command("ACL", "SETUSER", "site", "on", ">secret", "~*", "&*", "+@all")
    connection = {"host": "127.0.0.1", "port": server.port, "username": "site", "password": "secret"}
    with scene.crowd(server, connection) as crowd:
        with crowd.fault():
            server.client.execute_command("ACL", "SETUSER", "site", "-publish", "-eval")
            lasts(seconds)
            server.client.execute_command("ACL", "SETUSER", "site", "+publish", "+eval")
        lasts(1)
    return crowd.figures()


# ---------------------------------------------------------------- workers, clocks


def ends(listeners: list[Listener], expected: int) -> bool:
    return sum(not each.open for each in listeners) >= expected


def hear(listeners: list[Listener]) -> bool:
    return all(each.since for each in listeners)


def workers_killed(scene: Scene, times: int) -> Figures:
    """A worker killed with -9: its websockets end, no others, and come back to another worker."""
    server = scene.server()
    scene.healthy = lambda site: None  # type: ignore[method-assign]  # that workers die is the fault
    with scene.crowd(server, workers=4) as crowd:
        crowd.workers_die = True
        slowest = 0.0
        for _ in range(times):
            inhabited = [each for each in ask(do="status") if each["connections"]]
            worker = min(inhabited, key=lambda each: each["connections"])
            before = [each for each in crowd.listeners if each.open]
            begin = time.monotonic()
            os.kill(worker["pid"], signal.SIGKILL)
            wait_until(partial(ends, before, worker["connections"]), "its websockets have ended")
            ended = [each for each in before if not each.open]
            assert len(ended) == worker["connections"], (len(ended), worker["connections"])
            crowd.clients -= sum(each in crowd.listeners[: crowd.clients] for each in ended)
            back = crowd.open([each.facility for each in ended])
            crowd.listeners = [each for each in crowd.listeners if each not in ended] + back
            wait_until(partial(hear, back), "they are back")
            slowest = max(slowest, time.monotonic() - begin)
            lasts(2.5)  # uWSGI sleeps before it replaces many workers, and is deaf to signals then
            crowd.notes["ended with their worker"] = crowd.notes.get("ended with their worker", 0) + len(ended)
        crowd.notes["all back after s"] = round(slowest, 2)
    return crowd.figures()


def date_of(site: Site) -> float:
    """The time that the workers believe it is, in seconds of the epoch: what a page says about a cookie."""
    cookie = site.request("GET", "/visit/").headers["set-cookie"]
    ends = parsedate_to_datetime(cookie.split("expires=")[1].split(";")[0])
    return ends.timestamp() - int(cookie.split("Max-Age=")[1].split(";")[0])


def is_off(site: Site, seconds: int) -> bool:
    return abs(date_of(site) - time.time() - seconds) < 60


def clock_jumps(scene: Scene, seconds: float) -> Figures:
    """The date of the workers jumps by a day, back by two, and forward by ten years."""
    server = scene.server()
    place = scene.place()
    offset = place / "offset"
    offset.write_text("+0\n")
    env = {
        "LD_PRELOAD": glob.glob(FAKETIME)[0],
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # the date is set, not the time since the start
    }
    with scene.crowd(server, env=env) as crowd:
        for jump in ("+86400", "-86400", "+315360000", "+0"):
            with crowd.fault():
                (place / "next").write_text(f"{jump}\n")
                (place / "next").rename(offset)
                by = int(jump)
                wait_until(partial(is_off, crowd.site, by), f"jumped by {jump}")
                lasts(seconds)
        crowd.windows.clear()  # nothing may be lost
    return crowd.figures()
