"""Start the servers, measure, print a table."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import redis

from bench.load import fanout, frame_of, open_websockets, receive_exactly
from tests.support.process import pss, worker_pid
from tests.support.servers import RedisServer
from tests.support.site import Site, manage, serve, site_env

FACILITY = "/ws/bench?subscribe-broadcast"

SESSIONS = """
import sys
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.test import RequestFactory
from django.contrib.auth import login
for i in range({count}):
    user = User.objects.create(username="user%05d" % i)
    request = RequestFactory().get("/")
    request.session = SessionStore()
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    request.session.save()
    print(request.session.session_key)
"""


def cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid: int, core: int) -> None:
    """Threads that a process has, and those that it makes later, run on one core."""
    if (os.cpu_count() or 1) > 1:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def idle(site: Site, count: int, sessions: list[str]) -> dict[str, Any]:
    """Memory for each idle websocket; after one that warms everything up."""
    pid = worker_pid(site)
    path = FACILITY + ("&subscribe-user&subscribe-session" if sessions else "")
    warm = open_websockets(site.address, [path] * 20, sessions[:20])
    before = pss(pid)
    sockets = open_websockets(site.address, [path] * count, sessions)
    after = pss(pid)
    links = len(site.redis.links())
    for client in warm + sockets:
        client.close()
    return {"clients": count, "KiB per client": round((after - before) / count, 2), "Redis connections": links}


def measure(site: Site, count: int, window: int, seconds: float, size: int = 128) -> dict[str, Any]:
    pid = worker_pid(site)
    publisher = redis.Redis(port=site.redis.port)
    publisher.set("broadcast:bench", "joined")  # what is kept comes first: who has it gets all that follows
    sockets = open_websockets(site.address, [FACILITY] * count)
    for client in sockets:
        receive_exactly(client, frame_of(b"joined"))
    publisher.delete("broadcast:bench")
    pin(pid, 0)
    os.sched_setaffinity(0, {1} if (os.cpu_count() or 1) > 1 else {0})
    before = cpu(pid)
    result = fanout(sockets, publisher, "broadcast:bench", size, window, seconds)
    used = cpu(pid) - before
    for client in sockets:
        client.close()
    publisher.close()
    return {
        "clients": count,
        "in flight": window,
        "bytes": size,
        "deliveries/s": round(result.deliveries / result.seconds),
        "p50 ms": round(result.percentile(0.5), 2),
        "p99 ms": round(result.percentile(0.99), 2),
        "worker µs per delivery": round(used / max(1, result.deliveries) * 1e6, 2),
        "wrong": result.wrong,
    }


def table(rows: list[dict[str, Any]]) -> str:
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
    lines = ["  ".join(name.rjust(width) for name, width in widths.items())]
    lines += ["  ".join(str(row[name]).rjust(width) for name, width in widths.items()) for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="./build.sh bench", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each fan-out run")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="uws4r-bench-") as name:
        directory = Path(name)
        server = RedisServer(directory)
        try:
            figures = run(directory, server, arguments)
        finally:
            server.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    if any(row["wrong"] for row in figures["fan-out"]):
        sys.exit("messages were lost, doubled, out of order or corrupt")


def run(directory: Path, server: RedisServer, arguments: argparse.Namespace) -> dict[str, Any]:
    database = directory / "bench.sqlite3"
    env = site_env(server.url, database)
    manage(env, "migrate", "-v0")
    sessions = manage(env, "shell", "-c", SESSIONS.format(count=arguments.clients)).split()[-arguments.clients :]
    figures: dict[str, Any] = {"idle": [], "fan-out": []}
    settings = {"LOGGING": {"version": 1, "disable_existing_loggers": False}}
    for keys in ([], sessions):
        site = serve(directory, server, database, settings, options=("--disable-logging",))
        try:
            figures["idle"].append({"channels": 3 if keys else 1, **idle(site, arguments.clients, keys)})
        finally:
            site.uwsgi.stop()
    print("\nidle websockets\n" + table(figures["idle"]), flush=True)
    for window in (1, 16):
        site = serve(directory, server, database, settings, options=("--disable-logging",))
        try:
            figures["fan-out"].append(measure(site, arguments.clients, window, arguments.seconds))
        finally:
            site.uwsgi.stop()
    print("\nfan-out\n" + table(figures["fan-out"]), flush=True)
    return figures


if __name__ == "__main__":
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    main()
