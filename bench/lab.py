"""The servers of a benchmark, each on its core, and the load generator on the other."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.support.process import worker_pid
from tests.support.servers import ROOT, Process, RedisServer, free_port
from tests.support.site import Site, manage, serve, site_env

BUILD = ROOT / "build" / "bench"
HERE = Path(__file__).parent
CORES = os.cpu_count() or 1
QUIET = {"LOGGING": {"version": 1, "disable_existing_loggers": False}}
BUSY = 0.2  # of a core, used by others: a measurement beside that is made again

# Sessions that the cache (Redis) keeps, of users who are logged in or of nobody. Prints their keys.
SESSIONS = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.cache import SessionStore
User.objects.all().delete()
User.objects.bulk_create(User(username="user%05d" % i, password="!") for i in range({count}))
for user in User.objects.order_by("username"):
    session = SessionStore()
    session["language"] = "en"
    if {users}:
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    print(session.session_key)
"""

Case = dict[str, Any]


class Failed(Exception):
    """A load run found something lost, doubled, out of order or corrupt, or could not be made."""


@dataclass
class Target:
    """A server to put load on."""

    name: str
    port: int
    pids: list[int]  # of those whose CPU and memory count
    stop: Callable[[], object]
    publish: list[str] = field(default_factory=list)  # how, where it is not PUBLISH
    channel: str = "broadcast:{name}"
    query: str = ""
    echo_query: str = ""  # with which a client publishes, too, and gets its own messages

    def url(self, name: str, query: str | None = None) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/{name}{self.query if query is None else query}"


def pin(pid: int, core: int) -> None:
    """Threads that a process has, and those that it makes later, run on one core."""
    if CORES > 1:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def compiled(name: str) -> Path:
    """A program of ours, built if its source is newer."""
    source, program = HERE / f"{name}.c", BUILD / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program, source], check=True)
    return program


class Lab:
    """
    Args:
        rounds: So often each measurement is made; what counts is the median.
        seconds: Of each.
    """

    def __init__(self, directory: Path, rounds: int, seconds: float) -> None:
        self.directory = directory
        self.rounds = rounds
        self.seconds = seconds
        self.again = 2 * rounds  # measurements that may be made again because others kept the machine busy
        self.redis = RedisServer(directory)
        self.database = directory / "bench.sqlite3"
        manage(site_env(self.redis.url, self.database), "migrate", "-v0")
        self.wrong: list[str] = []
        self.wrong_peers: list[str] = []  # theirs is no failure of the benchmark
        self.others: list[float] = []  # cores that other processes used meanwhile, for each measurement

    def close(self) -> None:
        self.redis.close()

    # ------------------------------------------------------------ servers

    @contextmanager
    def ceiling(self) -> Iterator[Target]:
        port = free_port()
        process = Process([compiled("ceiling"), str(port), str(self.redis.port)], self.directory / "ceiling.log")
        process.wait_ready(lambda: port in listening())
        pin(process.process.pid, 0)
        try:
            yield Target("ceiling", port, [process.process.pid], lambda: None)
        finally:
            process.stop(15)

    @contextmanager
    def uws4r(self, settings: dict[str, Any] | None = None) -> Iterator[Target]:
        """The site of the tests in a uWSGI with one worker, as a user would serve his."""
        site = self.site(settings)
        try:
            pid = worker_pid(site)
            pin(pid, 0)
            yield Target(
                "uws4r", site.address[1], [pid], lambda: None,
                query="?subscribe-broadcast", echo_query="?subscribe-broadcast&publish-broadcast&echo",
            )  # fmt: skip
        finally:
            site.uwsgi.stop()

    def site(self, settings: dict[str, Any] | None = None) -> Site:
        return serve(
            self.directory, self.redis, self.database, {**QUIET, **(settings or {})}, options=("--disable-logging",)
        )

    def cached_sessions(self) -> dict[str, Any]:
        """The settings of a site whose sessions are in its cache, which is Redis; its database stays connected."""
        return {
            "DATABASES": {
                "default": {
                    "ENGINE": "django.db.backends.sqlite3",
                    "NAME": str(self.database),
                    "CONN_MAX_AGE": None,
                }
            },
            "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
            "CACHES": {
                "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": self.redis.url}
            },
        }

    def sessions(self, count: int, users: bool = True) -> Path:
        """Make so many sessions, of users or of nobody; return a file with their cookies."""
        env = site_env(self.redis.url, self.database, {**QUIET, **self.cached_sessions()})
        keys = manage(env, "shell", "-c", SESSIONS.format(count=count, users=users)).split()[-count:]
        path = self.directory / f"cookies-{count}-{users}"
        path.write_text("".join(f"sessionid={key}\n" for key in keys))
        return path

    # ------------------------------------------------------------ load

    def load(self, target: Target, url: str, *options: object, seconds: float | None = None) -> dict[str, Any]:
        """Run the load generator; what it prints as JSON."""
        command: list[Any] = [HERE / "load", "--url", url, "--redis", self.redis.url.rpartition("/")[0], "--json", "-"]
        command += ["--seconds", seconds or self.seconds, *target.publish, *options]
        command += [part for pid in target.pids for part in ("--pid", f"server={pid}")]
        command += ["--pid", f"redis={self.redis.process.process.pid}"]  # type: ignore[union-attr]
        if CORES > 1:
            command = ["taskset", "-c", "1", *command]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise Failed(f"{target.name}: {done.stderr.strip()}")
        figures = json.loads(done.stdout)
        for case in figures["cases"]:
            self.others.append(case["cpu"]["others"])
            failures = {name: count for name, count in case["failures"].items() if count}
            if failures:
                wrong = self.wrong if target.name in ("uws4r", "ceiling") else self.wrong_peers
                wrong.append(f"{target.name}: {' '.join(map(str, options))}: {failures} {done.stderr.strip()}")
        return figures

    def interleaved(self, targets: list[Target], run: Callable[[Target], list[Case]]) -> list[dict[str, list[Case]]]:
        """
        Measure all targets, again and again.

        Returns:
            For each case that ``run`` returns, by target, what each round has measured.
        """
        results: list[dict[str, list[Case]]] = []
        done = 0
        while done < self.rounds:
            measured = {target.name: run(target) for target in targets}
            if self.again and any(case["cpu"]["others"] > BUSY for cases in measured.values() for case in cases):
                self.again -= 1
                continue
            done += 1
            for name, cases in measured.items():
                for index, case in enumerate(cases):
                    if index == len(results):
                        results.append({})
                    results[index].setdefault(name, []).append(case)
            progress(".")
        return results


def listening() -> set[int]:
    """Ports on which anybody on this machine listens."""
    lines = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    fields = [line.split() for line in lines]
    return {int(field[1].rpartition(":")[2], 16) for field in fields if field[3] == "0A"}


def ratio(
    measured: dict[str, list[Case]], value: Callable[[Case], float], of: str = "uws4r", to: str = "ceiling"
) -> float:
    """The median of the ratios of neighbours, which the same minute has seen."""
    return median(
        value(ours) / max(value(theirs), 1e-9) for ours, theirs in zip(measured[of], measured[to], strict=True)
    )


def typical(cases: list[Case], value: Callable[[Case], float]) -> float:
    return median(map(value, cases))


def least(cases: list[Case], value: Callable[[Case], float]) -> float:
    """For measurements that are far apart: what others do meanwhile only ever adds."""
    return min(map(value, cases))


def per_second(case: Case) -> float:
    return case["deliveries_per_s"]


def p99(case: Case) -> float:
    return case["latency_ms"]["p99"]


def cost(case: Case) -> float:
    return case["us_per_delivery"]


def progress(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
