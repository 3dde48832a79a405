"""The corpus of the fuzz targets, findings among it, each file through its target's function."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, site_settings
from tests.support.servers import ROOT

CORPUS = ROOT / "tests" / "fuzz" / "corpus"


@pytest.fixture(scope="module", autouse=True)
def settings() -> Iterator[None]:
    with site_settings:
        yield


def test_every_target_has_a_corpus() -> None:
    assert sorted(TARGETS) == sorted(path.name for path in CORPUS.iterdir())


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_replay(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())
