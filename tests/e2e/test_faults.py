"""The faults of tests/faults in small: fewer websockets, shorter outages, the same account of every message."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults import scenes
from tests.faults.crowd import Figures
from tests.faults.scenes import Scene
from tests.faults.table import ROWS, broken


@pytest.fixture
def scene(tmp_path: Path, database: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, database, clients=40)
    yield made
    made.close()


SMALL: dict[str, Callable[[Scene], Figures]] = {
    "killed-1": partial(scenes.killed, seconds=0.3),
    "killed-often": partial(scenes.killed_often, times=2),
    "kicked": partial(scenes.client_kill, times=1),
    "busy-soon": partial(scenes.busy, seconds=1, says_so=50),
    "flooded": scenes.output_limit,
    "swapped": scenes.swapped,
    "readonly": partial(scenes.readonly, seconds=1),
    "oom": partial(scenes.out_of_memory, seconds=0.5),
    "misconf": partial(scenes.misconf, seconds=0.5),
    "noperm": partial(scenes.no_permission, seconds=0.5),
    "workers": partial(scenes.workers_killed, times=1),
    "clocks": partial(scenes.clock_jumps, seconds=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_fault(scene: Scene, name: str) -> None:
    limit = next(row.limit for row in ROWS if row.name == name)
    figures = SMALL[name](scene)
    assert figures.published > 50
    assert broken(figures, limit + 1) == [], figures  # a machine that is busy with other tests, too


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kept": 39}, "1 websockets ended"),
        ({"resubscribed": 1.5}, "subscribed again only after 1.50 s"),
        ({"zombies": 2}, "2 zombies"),
        ({"duplicated": 3}, "3 duplicates"),
        ({"disordered": 4}, "4 out of order"),
        ({"unexcused": 5}, "5 lost that had to arrive"),
    ],
)
def test_each_promise_can_be_broken(change: dict[str, int], said: str) -> None:
    right = Figures(40, 40, 0.5, 100, 90, 10, 0, 0, 0, 0, 0, 0, {})
    assert broken(right, 1.0) == []
    assert broken(right._replace(**change), 1.0) == [said]
