"""The rows of the table, and what is promised of each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tests.faults import scenes
from tests.faults.crowd import Figures


class Row(NamedTuple):
    name: str
    what: str
    run: Callable[[scenes.Scene], Figures]
    limit: float = 1.0  # seconds from Redis being back until everything is subscribed again


ROWS = (
    Row("killed-1", "Redis killed with -9, back after 1 s", partial(scenes.killed, seconds=1)),
    Row("killed-5", "… after 5 s", partial(scenes.killed, seconds=5)),
    Row("killed-15", "… after 15 s", partial(scenes.killed, seconds=15)),
    Row("killed-often", "… 100 times, at random", partial(scenes.killed_often, times=100)),
    Row("stopped", "Redis stands still for 10 s", partial(scenes.stopped, seconds=10)),
    Row("stalled", "Redis stands still for 3 s", partial(scenes.stopped, seconds=3)),
    Row("cut", "the network swallows packets for 10 s", partial(scenes.cut, seconds=10)),
    Row("kicked", "CLIENT KILL of all links, 10 times", partial(scenes.client_kill, times=10)),
    Row("busy", "a script for 8 s, BUSY after 5 s", partial(scenes.busy, seconds=8, says_so=5000)),
    Row("busy-soon", "a script for 8 s, BUSY after 0.1 s", partial(scenes.busy, seconds=8, says_so=100)),
    Row("flooded", "output limit of the links", scenes.output_limit),
    Row("sentinel", "master killed with -9, promoted by sentinels", scenes.sentinel_kill, limit=5.0),
    Row("failover", "SENTINEL FAILOVER", scenes.sentinel_failover, limit=5.0),
    Row("swapped", "REPLICAOF by hand, behind a balancer", scenes.swapped),
    Row("readonly", "READONLY for 3 s", partial(scenes.readonly, seconds=3)),
    Row("oom", "OOM for 3 s", partial(scenes.out_of_memory, seconds=3)),
    Row("misconf", "MISCONF for 3 s", partial(scenes.misconf, seconds=3)),
    Row("noperm", "NOPERM to publish for 3 s", partial(scenes.no_permission, seconds=3)),
    Row("workers", "workers killed with -9, 10 times", partial(scenes.workers_killed, times=10)),
    Row("clocks", "the date jumps: a day, minus two, ten years", partial(scenes.clock_jumps, seconds=2)),
)


def broken(figures: Figures, limit: float) -> list[str]:
    """Return which promises were broken."""
    found = []
    if figures.kept < figures.clients:
        found.append(f"{figures.clients - figures.kept} websockets ended")
    if figures.resubscribed > limit:
        found.append(f"subscribed again only after {figures.resubscribed:.2f} s")
    if figures.zombies:
        found.append(f"{figures.zombies} zombies")
    if figures.duplicated:
        found.append(f"{figures.duplicated} duplicates")
    if figures.disordered:
        found.append(f"{figures.disordered} out of order")
    if figures.unexcused:
        found.append(f"{figures.unexcused} lost that had to arrive")
    return found
