"""The one hub of a worker."""

import os

import pytest

from uws4r import engines


class FakeHub:
    over = False
    pid = os.getpid()


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_hub", None)


def test_a_hub_that_cannot_be_started_is_tried_again() -> None:
    def no_thread(hub: object) -> None:
        raise RuntimeError("can't start new thread")

    started: list[object] = []
    with pytest.raises(RuntimeError):
        engines.worker_hub(FakeHub, started.append, no_thread)  # type: ignore[arg-type]
    hub = engines.worker_hub(FakeHub, started.append, started.append)  # type: ignore[arg-type]
    assert started == [hub, hub]
    assert engines.worker_hub(FakeHub, started.append, started.append) is hub  # type: ignore[arg-type]


def test_after_a_crash_there_is_a_new_hub() -> None:
    def nothing(hub: object) -> None:
        pass

    first = engines.worker_hub(FakeHub, nothing, nothing)  # type: ignore[arg-type]
    first.over = True
    assert engines.worker_hub(FakeHub, nothing, nothing) is not first  # type: ignore[arg-type]
