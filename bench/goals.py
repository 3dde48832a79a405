"""What uws4r is to reach: each goal measures, and returns lines of the table."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.lab import Lab, Target, cost, least, p99, per_second, progress, ratio, typical
from tests.support.site import site_env

WARM = 2000  # clients before memory is looked at: what a worker needs once is not what one of them costs


@dataclass
class Line:
    """One measurement and the mark that it is to reach."""

    goal: int
    what: str
    value: float
    mark: float
    at_least: bool = True
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.mark if self.at_least else self.value <= self.mark

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def thousands(number: float) -> str:
    return f"{number / 1e6:.2f}M" if number >= 1e6 else f"{number / 1e3:.0f}k" if number >= 1e4 else f"{number:.0f}"


def compared(measured: dict[str, list[Any]]) -> str:
    ours, theirs = measured["uws4r"], measured["ceiling"]
    return (
        f"{thousands(typical(ours, per_second))} of {thousands(typical(theirs, per_second))}/s, "
        f"{typical(ours, cost):.2f} of {typical(theirs, cost):.2f} µs, "
        f"load {typical(theirs, lambda case: case['cpu']['load']):.0%} busy"
    )


# ---------------------------------------------------------------- 1 to 3: in comparison with the ceiling


def fanout(lab: Lab) -> list[Line]:
    lines = []
    with lab.ceiling() as ceiling, lab.uws4r() as uws4r:
        for clients in (100, 1000, 5000):
            progress(f"\nfan-out to {clients} ")

            def run(target: Target, clients: int = clients) -> list[Any]:
                options = ("--clients", clients, "--window", "1,16", "--size", "128,16384")
                return lab.load(target, target.url("bench"), *options)["cases"]

            for measured in lab.interleaved([ceiling, uws4r], run):
                case = measured["uws4r"][0]
                what = f"fan-out, {clients} clients, {size_of(case)}, {case['window']} in flight"
                lines.append(Line(1, what, ratio(measured, per_second), 0.9, note=compared(measured)))
                note = f"{typical(measured['uws4r'], p99):.2f} of {typical(measured['ceiling'], p99):.2f} ms"
                lines.append(Line(1, f"{what}: p99", ratio(measured, p99), 1.3, False, note=note))
    return lines


def size_of(case: dict[str, Any]) -> str:
    return f"{case['size']} B" if case["size"] < 1024 else f"{case['size'] // 1024} KiB"


def spread(lab: Lab) -> list[Line]:
    progress("\nspread ")
    with lab.ceiling() as ceiling, lab.uws4r() as uws4r:

        def run(target: Target) -> list[Any]:
            options = ("--mode", "spread", "--clients", 1000, "--window", "1,16", "--channel", "broadcast:s{i}")
            return lab.load(target, target.url("s{i}"), *options)["cases"]

        return [
            Line(2, f"spread over 1000 channels, {measured['uws4r'][0]['window']} in flight on each",
                 ratio(measured, per_second), 0.8, note=compared(measured))
            for measured in lab.interleaved([ceiling, uws4r], run)
        ]  # fmt: skip


def echo(lab: Lab) -> list[Line]:
    lines = []
    for what, settings in (
        ("100 clients publish and wait", {"WS4REDIS_EXPIRE": 0}),  # the ceiling stores nothing, either
        ("100 clients publish, with storing, and wait", {}),
    ):
        progress("\necho ")
        with lab.ceiling() as ceiling, lab.uws4r(settings) as uws4r:

            def run(target: Target) -> list[Any]:
                url = target.url("e{i}", target.echo_query)
                return lab.load(target, url, "--mode", "echo", "--clients", 100)["cases"]

            [measured] = lab.interleaved([ceiling, uws4r], run)
            lines.append(Line(3, what, ratio(measured, per_second), 0.7, note=compared(measured)))
    return lines


# ---------------------------------------------------------------- 4 to 6: a worker's own


def memory(lab: Lab) -> list[Line]:
    lines = []
    cookies = lab.sessions(10_000 + WARM)
    settings = lab.cached_sessions()
    # What SQLite would keep of so many users, once for each thread, is the site's and not the clients'.
    settings["DATABASES"]["default"]["OPTIONS"] = {"init_command": "PRAGMA cache_size = 10"}
    for what, query, options in (
        ("one channel for all", "?subscribe-broadcast", ()),
        ("and two of its own", "?subscribe-broadcast&subscribe-user&subscribe-session", ("--cookies", cookies)),
    ):
        progress("\nidle clients ")
        with lab.uws4r(settings) as uws4r:
            figures = lab.load(
                uws4r, uws4r.url("bench", query), "--mode", "idle", "--clients", 10_000, "--warm", WARM, *options
            )
            note = f"{figures['connect']['per_s']:.0f} handshakes/s on the way there"
            each = figures["cases"][0]["kib_per_client"]["server"]
            lines.append(Line(4, f"idle client, 10000 of them, {what}", each, 1.0, False, "KiB", note))
    return lines


def handshakes(lab: Lab) -> list[Line]:
    progress("\nhandshakes ")
    nobodies, users = lab.sessions(1000, users=False), lab.sessions(1000)
    lines = []
    with lab.uws4r(lab.cached_sessions()) as uws4r:
        for what, mark, options in (
            ("handshakes with a session", 3000, ("--cookies", nobodies)),
            ("handshakes with a session and its user", 3000, ("--cookies", users)),
            ("handshakes without", 5000, ()),
        ):

            def run(target: Target, options: tuple[object, ...] = options) -> list[Any]:
                return lab.load(target, target.url("bench"), "--mode", "handshake", *options)["cases"]

            [measured] = lab.interleaved([uws4r], run)
            cases = measured["uws4r"]
            note = f"p99 {typical(cases, p99):.1f} ms"
            lines.append(
                Line(5, what, typical(cases, lambda case: case["handshakes_per_s"]), mark, unit="/s", note=note)
            )
    return lines


def growth(lab: Lab) -> list[Line]:
    lines = []
    with lab.ceiling() as ceiling, lab.uws4r() as uws4r:
        measured = {}
        for clients in (100, 10_000):
            progress(f"\nCPU at {clients} ")

            def run(target: Target, clients: int = clients) -> list[Any]:
                return lab.load(target, target.url("bench"), "--clients", clients, "--window", "1,16")["cases"]

            measured[clients] = lab.interleaved([ceiling, uws4r], run)
        for few, many in zip(measured[100], measured[10_000], strict=True):
            grown = {name: least(many[name], cost) / least(few[name], cost) for name in few}
            what = f"CPU of a delivery at 10000 clients, of that at 100, {few['uws4r'][0]['window']} in flight"
            costs = f"{least(many['uws4r'], cost):.2f} of {least(few['uws4r'], cost):.2f} µs"
            note = f"{costs}; the ceiling's: {grown['ceiling']:.2f}"
            lines.append(Line(6, what, grown["uws4r"], 1.2, False, note=note))
    return lines


def churn(lab: Lab) -> list[Line]:
    progress("\nchurn ")
    with lab.uws4r() as uws4r:

        def run(target: Target) -> list[Any]:
            options = ("--clients", 100, "--rate", 200)
            calm = lab.load(target, target.url("bench"), *options, seconds=5)
            path = "/ws/c{i}" + target.query
            busy = lab.load(target, target.url("bench"), *options, "--churn", 1000, "--churn-path", path, seconds=10)
            return [calm["cases"][0], busy["cases"][0]]

        calm, busy = lab.interleaved([uws4r], run)
        value = median(p99(after) / p99(before) for before, after in zip(calm["uws4r"], busy["uws4r"], strict=True))
        note = (
            f"{typical(busy['uws4r'], p99):.2f} of {typical(calm['uws4r'], p99):.2f} ms; "
            f"{typical(busy['uws4r'], lambda case: case['churned']):.0f} handshakes on channels of their own in 10 s"
        )
        return [Line(6, "p99 while channels come and go, of that without", value, 1.5, False, note=note)]


# ---------------------------------------------------------------- 7 and 8: in a process of our own


def in_process(lab: Lab, what: str, settings: dict[str, Any] | None = None) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.inprocess", what, str(lab.redis.port)],
        env={**os.environ, **site_env(lab.redis.url, lab.database, settings)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def publisher(lab: Lab) -> list[Line]:
    progress("\npublisher ")
    rounds = [in_process(lab, "publish") for _ in range(lab.rounds)]
    without = {"INSTALLED_APPS": ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]}
    imports = [in_process(lab, "import", without)["ms"] for _ in range(2 * lab.rounds + 1)]
    value = median(r["ours"] / r["bare"] for r in rounds)
    note = f"{median(r['ours'] for r in rounds):.1f} of {median(r['bare'] for r in rounds):.1f} µs"
    return [
        Line(7, "publish_message, of the bare pipeline", value, 1.2, False, note=note),
        Line(7, "import uws4r.publisher, Django being there", median(imports), 150, False, "ms"),
    ]  # fmt: skip


def compression(lab: Lab) -> list[Line]:
    progress("\ncompression ")
    count = in_process(lab, "deflate")["compressed"]
    return [Line(8, "deflates for a message to 1000 compressing clients", count, 1, False)]


PARTS: dict[str, Callable[[Lab], list[Line]]] = {
    "fanout": fanout,
    "spread": spread,
    "echo": echo,
    "memory": memory,
    "handshakes": handshakes,
    "growth": growth,
    "churn": churn,
    "publisher": publisher,
    "compression": compression,
}
