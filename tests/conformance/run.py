"""
One run: a real Redis, a real uWSGI with the shipped vassal and the app ``testsite.echo``, fuzzing clients.

What it leaves in its directory is Autobahn's report (``index.html``), and in ``logs`` what everybody has said.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.conformance import tool
from tests.conformance.verdict import Verdict, judge
from tests.support.servers import ROOT, SITE, Process, RedisServer, Uwsgi, free_port
from tests.support.site import site_env

SETTINGS = {
    "INSTALLED_APPS": [
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "uws4r",
        "testsite.echo.Echo",
    ],
    # Section 9 has messages of 16 MiB.
    "UWS4R_MAX_MESSAGE_SIZE": 32 << 20,
    "UWS4R_MAX_QUEUE": 64 << 20,
    "UWS4R_MAX_MESSAGE_RATE": 0,
    "UWS4R_MAX_BYTE_RATE": 0,
}
# Both sides compress and wait for each other, so there is work for as many clients as there are cores.
CLIENTS = min(os.cpu_count() or 1, 8)
NEWS = 15.0  # seconds between two lines about how far it is


VASSALS = {"detached": ROOT / "vassals" / "wsserver.ini", "native": ROOT / "vassals" / "native" / "wsserver.ini"}


@contextlib.contextmanager
def echo_server(logs: Path, mode: str) -> Iterator[Uwsgi]:
    """The shipped vassal, with one more socket, as the fuzzing client knows nothing but TCP."""
    redis = RedisServer(logs)
    port = free_port()
    try:
        with tempfile.TemporaryDirectory(prefix="uws4r-") as run:  # short: it is the path of Unix sockets
            settings = {**SETTINGS, "UWS4R_MODE": mode}
            env = {**site_env(redis.url, logs / "unused.sqlite3", settings), "UWS4R_RUN": run, "UWS4R_SITE": str(SITE)}
            options = ["--ini", VASSALS[mode], "--http-socket", f"127.0.0.1:{port}"]
            if mode == "native":
                options += ["--websocket-max-size", str(SETTINGS["UWS4R_MAX_MESSAGE_SIZE"] // 1024)]
            uwsgi = Uwsgi(logs, options, env, port)
            try:
                yield uwsgi
            finally:
                uwsgi.stop()
    finally:
        redis.close()


def fuzz(url: str, directory: Path, cases: Sequence[str], limit: float) -> None:
    """Run the cases; a client that is not through after ``limit`` seconds is ended."""
    deadline = time.monotonic() + limit
    with contextlib.ExitStack() as ended:
        clients = []
        for number in range(CLIENTS):
            command = tool.command("run", url, directory, *cases)
            client = Process(command, directory / "logs" / f"fuzzer-{number}.log", tool.environment())
            ended.callback(client.stop, signal.SIGKILL)
            clients.append(client.process)
        while (running := [one for one in clients if one.poll() is None]) and time.monotonic() < deadline:
            try:
                running[0].wait(min(NEWS, max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                print(f"{len(list(directory.glob('*.pickle')))} of {len(cases)} cases", file=sys.stderr, flush=True)


def conformance(
    directory: Path, patterns: Sequence[str] = ("*",), limit: float = 3600.0, mode: str = "detached"
) -> Verdict:
    """
    Run the cases that match Autobahn's patterns, such as ``1.*`` and ``7.1.6``.

    Args:
        directory: For the report; what is in it goes.
        limit: Seconds for all of it.
        mode: ``"native"`` has no compression, so the cases of sections 12 and 13 count as unimplemented there.
    Raises:
        RuntimeError: Autobahn cannot be installed, or does not know these cases.
    """
    tool.provide()
    cases = tool.cases(*patterns)
    shutil.rmtree(directory, ignore_errors=True)
    logs = directory / "logs"
    logs.mkdir(parents=True)
    with echo_server(logs, mode) as uwsgi:
        # The flag, as a websocket without any is warned of.
        fuzz(f"ws://127.0.0.1:{uwsgi.address[1]}/ws/echo?subscribe-broadcast", directory, cases, limit)
    tool.run(*tool.command("report", directory))
    index = json.loads((directory / "index.json").read_text())
    results = index.get("uws4r", {})
    for result in results.values():
        result["reportfile"] = os.path.relpath((directory / result["reportfile"]).with_suffix(".html"))
    return judge(results, cases, uwsgi.log)
