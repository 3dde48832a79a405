"""The one hub of a worker."""

import os

import pytest

from uws4r import engines


class FakeHub:
    crashed = False
    pid = os.getpid()


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_hub", None)


def test_a_hub_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(hub: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(engines, "run_in_thread", no_thread)
        with pytest.raises(RuntimeError):
            engines.worker_hub(FakeHub, lambda hub: None)  # type: ignore[arg-type]
    started: list[object] = []
    monkeypatch.setattr(engines, "run_in_thread", started.append)
    hub = engines.worker_hub(FakeHub, started.append)  # type: ignore[arg-type]
    assert started == [hub, hub]
    assert engines.worker_hub(FakeHub, started.append) is hub  # type: ignore[arg-type]


def test_after_a_crash_there_is_a_new_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "run_in_thread", lambda hub: None)
    first = engines.worker_hub(FakeHub, lambda hub: None)  # type: ignore[arg-type]
    first.crashed = True
    assert engines.worker_hub(FakeHub, lambda hub: None) is not first  # type: ignore[arg-type]
