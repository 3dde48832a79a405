"""
Threads for what may block: the site's own code on behalf of an open websocket, and calls that have no time limit.

Not :mod:`concurrent.futures`: the interpreter waits for its threads to end, and a call that never returns
would keep a worker from stopping.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from uws4r.quoting import shown

logger = logging.getLogger("uws4r.threads")

IDLE_TIME = 10.0  # seconds after which a thread without work ends

Result = TypeVar("Result")


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """
    Return the result of a call that has no time limit of its own, such as one that looks up a name.

    Raises:
        TimeoutError: It takes longer, and goes on in a thread of its own.
        BaseException: What the call raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="uws4r-within", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"not within {seconds:g} s")
    return results[0]


class WorkerThreads:
    """
    Args:
        limit: Threads at most; what is submitted beyond it waits for one.
        ending: Called by each thread that ends for want of work, to give back what it has kept.
    """

    def __init__(self, limit: int, ending: Callable[[], None] = lambda: None) -> None:
        self._limit = limit
        self._ending = ending
        self._tasks: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._there_is_work = threading.Condition(self._lock)
        self._one_is_idle = threading.Condition(self._lock)
        self._count = 0
        self._idle = 0
        self._finished = False  # a thread without work ends at once

    def submit(self, task: Callable[[], None]) -> None:
        """Have a thread call ``task``, soon; from any thread."""
        with self._lock:
            self._tasks.append(task)
            if len(self._tasks) > self._idle and self._count < self._limit:
                self._count += 1
                threading.Thread(target=self._work, name="uws4r-worker", daemon=True).start()
            else:
                self._there_is_work.notify()

    def finish(self, timeout: float) -> bool:
        """Wait until nothing is left to do, at most ``timeout`` seconds; return whether that is so. The threads end."""
        with self._lock:
            self._finished = True
            self._there_is_work.notify_all()
            return self._one_is_idle.wait_for(lambda: not self._tasks and self._idle == self._count, timeout)

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            self._idle += 1
            self._one_is_idle.notify_all()
            self._there_is_work.wait_for(lambda: self._tasks or self._finished, IDLE_TIME)
            self._idle -= 1
            if self._tasks:
                return self._tasks.popleft()
            self._count -= 1
            self._one_is_idle.notify_all()
            return None

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception:
                logger.exception("a bug in uws4r: a worker thread goes on with the next task")
        try:
            self._ending()
        except Exception as error:
            logger.warning("what a thread has kept cannot be given back: %s", shown(repr(error)))
