"""The modes of serving side by side: how many websockets a worker holds, what one costs, how fast messages are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.lab import QUIET, Failed, Lab, Target, cost, per_second, pin, progress, typical
from tests.support.modes import MODES, serve_in, stop
from tests.support.process import worker_pid

MANY = 5000  # websockets in one worker
WARM = 1000  # of them, before memory is looked at
COLUMNS = {
    "mode": "mode",
    "held": "websockets in one worker",
    "KiB": "KiB each, idle",
    "handshakes": "handshakes/s",
    "one": "deliveries/s, one message in flight",
    "sixteen": "sixteen",
    "cost": "µs of CPU each",
}


@contextmanager
def served(lab: Lab, mode: str) -> Iterator[Target]:
    site = serve_in(
        mode, lab.directory, lab.redis, lab.database, workers=1, settings=QUIET, options=("--disable-logging",),
        slots=MANY + 100,
    )  # fmt: skip
    try:
        pid = site.process.process.pid if mode == "runserver" else worker_pid(site)  # type: ignore[attr-defined]
        pin(pid, 0)
        yield Target(mode, site.address[1], [pid], lambda: None, query="?subscribe-broadcast")
    finally:
        stop(site)


def compare_modes(lab: Lab) -> list[dict[str, Any]]:
    """One row for each mode; a figure is the median of the rounds, in which the modes take turns."""
    cases: dict[str, dict[str, list[Any]]] = {}
    for _ in range(lab.rounds):
        for mode in [*MODES, "runserver"]:
            progress(f"\n{mode} ")
            measured = cases.setdefault(mode, {})
            with served(lab, mode) as target:
                for name, options in (
                    ("idle", ("--mode", "idle", "--clients", MANY - WARM, "--warm", WARM)),
                    ("handshakes", ("--mode", "handshake")),
                    ("fanout", ("--clients", 1000, "--window", "1,16")),
                ):
                    try:
                        found = lab.load(target, target.url("bench"), *options)["cases"]
                    except Failed as error:
                        raise Failed(f"{mode}, {name}: {error}") from None
                    for index, case in enumerate(found):
                        measured.setdefault(f"{name}{index}", []).append(case)
                    progress(".")
    return [
        {
            "mode": mode,
            "held": MANY,
            "KiB": typical(measured["idle0"], lambda case: case["kib_per_client"]["server"]),
            "handshakes": typical(measured["handshakes0"], lambda case: case["handshakes_per_s"]),
            "one": typical(measured["fanout0"], per_second),
            "sixteen": typical(measured["fanout1"], per_second),
            "cost": typical(measured["fanout0"], cost),
        }
        for mode, measured in cases.items()
    ]
