"""Clients that send long messages through a front as fast as it takes them, and what becomes of those beside them."""

import statistics
import subprocess
from contextlib import ExitStack
from typing import Any

from tests.soak.greedy import LATE, Newcomers, p99, round_trips
from tests.support.servers import ROOT
from tests.support.site import Site

SIZE = 100_000  # bytes of a message; each client sends the next one when the last is back


def through(site: Site, clients: int, seconds: float) -> dict[str, Any]:
    """Clients fill the front: other websockets, old and new, are served within :data:`LATE`."""
    url = f"ws://127.0.0.1:{site.address[1]}/ws/volume{{i}}?subscribe-broadcast&publish-broadcast&echo"
    load = f"{ROOT}/bench/load --mode echo --clients {clients} --size {SIZE} --seconds {seconds} --url"
    sentinel = site.join("/ws/sentinel?subscribe-broadcast&publish-broadcast&echo")
    with ExitStack() as stack:
        process = subprocess.Popen(["nice", *load.split(), url], stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        with Newcomers(site) as newcomers:
            took = round_trips(sentinel, seconds)
    site.close_clients()
    figures = {
        "clients": clients,
        "messages beside them": len(took),
        "median ms": round(statistics.median(took) * 1000, 1),
        "p99 ms": round(p99(took) * 1000, 1),
        "newcomers": len(newcomers.took),
        "their p99 ms": round(p99(newcomers.took) * 1000, 1),
    }
    assert p99(took) < LATE, figures
    assert p99(newcomers.took) < LATE, figures
    site.uwsgi.assert_healthy()
    return figures
