"""A mailbox calls in order, one after the other, and counts what waits."""

import threading
from collections.abc import Callable

from tests.support.servers import wait_until
from uws4r.mailbox import COST, ENOUGH, Mailbox
from uws4r.threads import WorkerThreads

ROOM = 100_000


class Owner:
    def __init__(self, submit: Callable[[Callable[[], None]], None]) -> None:
        self.errors: list[Exception] = []
        self.drained = 0
        self.mailbox = Mailbox(submit, ROOM, self.errors.append, self.note)

    def note(self) -> None:
        self.drained += 1


def test_calls_come_in_order_and_never_two_at_a_time() -> None:
    threads = WorkerThreads(8)
    owner = Owner(threads.submit)
    seen: list[int] = []
    at_once: list[int] = []
    inside = 0

    def call(number: int) -> None:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        seen.append(number)
        inside -= 1

    for number in range(1000):
        owner.mailbox.put(lambda number=number: call(number))  # type: ignore[misc]
    assert threads.finish(10)
    assert seen == list(range(1000))
    assert set(at_once) == {1}


def test_an_error_is_told_and_the_next_call_follows() -> None:
    threads = WorkerThreads(1)
    owner = Owner(threads.submit)
    seen: list[str] = []
    owner.mailbox.put(lambda: seen[0].strip())
    owner.mailbox.put(lambda: seen.append("next"))
    assert threads.finish(10)
    assert seen == ["next"]
    assert [type(error) for error in owner.errors] == [IndexError]


def test_bytes_are_free_again_when_a_call_is_over_also_where_it_fails() -> None:
    tasks: list[Callable[[], None]] = []
    owner = Owner(tasks.append)
    size = ROOM // 2 - COST
    assert owner.mailbox.offer(lambda: None, size)
    assert owner.mailbox.offer(lambda: 1 // 0, size)  # type: ignore[arg-type, return-value]
    assert not owner.mailbox.offer(lambda: None, 1)
    tasks.pop()()
    assert owner.mailbox.offer(lambda: None, 10 * ROOM)  # alone, however long
    assert not owner.mailbox.offer(lambda: None, 0)


def test_who_was_told_that_it_is_full_is_told_when_it_is_empty() -> None:
    tasks: list[Callable[[], None]] = []
    owner = Owner(tasks.append)
    told = [owner.mailbox.receive(lambda: None, 1) for _ in range(ENOUGH)]
    assert told == [*[False] * (ENOUGH - 1), True]
    assert owner.drained == 0
    tasks.pop()()
    assert owner.drained == 1
    assert not owner.mailbox.receive(lambda: None, 1)
    tasks.pop()()
    assert owner.drained == 1  # nobody had to stop


def test_each_mailbox_has_a_thread_of_its_own_while_it_works() -> None:
    threads = WorkerThreads(2)
    slow, quick = Owner(threads.submit), Owner(threads.submit)
    done = threading.Event()
    seen: list[str] = []
    slow.mailbox.put(lambda: done.wait(10) and seen.append("slow"))  # type: ignore[func-returns-value]
    quick.mailbox.put(lambda: seen.append("quick"))
    wait_until(lambda: seen == ["quick"], "the other one")
    done.set()
    assert threads.finish(10)
    assert seen == ["quick", "slow"]
