"""Threads for what may block: what they have kept is given back at their end."""

import threading

import pytest

from tests.support.servers import wait_until
from uws4r import threads
from uws4r.threads import WorkerThreads


def of_the_pool() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "uws4r-worker"]


@pytest.mark.parametrize("idle_time", [0.01, 60], ids=["without work", "at the end"])
def test_a_thread_that_ends_gives_back_what_it_has_kept(monkeypatch: pytest.MonkeyPatch, idle_time: float) -> None:
    monkeypatch.setattr(threads, "IDLE_TIME", idle_time)
    worked: list[int] = []
    ended: list[int] = []
    pool = WorkerThreads(2, lambda: ended.append(threading.get_ident()))
    pool.submit(lambda: worked.append(threading.get_ident()))
    wait_until(lambda: worked, "worked")
    if idle_time == 60:
        assert not ended
        assert pool.finish(5)
    wait_until(lambda: ended == worked, "given back, by the thread itself")


def test_what_cannot_be_given_back_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "IDLE_TIME", 0.01)

    def fail() -> None:
        raise OSError("the database is away")

    pool = WorkerThreads(1, fail)
    pool.submit(lambda: None)
    wait_until(lambda: not of_the_pool(), "ended")
    assert "cannot be given back" in caplog.text
    assert "the database is away" in caplog.text
    assert "Traceback" not in caplog.text
