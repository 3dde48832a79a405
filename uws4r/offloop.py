"""
Blocking calls on behalf of a coroutine: a few threads of this process do them, and the event loop goes on.

Threads, and not redis.asyncio: its connections belong to one event loop, and there may be many. uWSGI has a new one for
each request to an async view, whose connections would die with it. On a thread a call has the pool, the time limits and
the errors of everybody else. The threads are our own: those of the event loop also look up names, and all of them
would soon wait for a Redis that hangs.
"""

import asyncio
import os
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

from uws4r.threads import WorkerThreads

MOST_THREADS = 32  # of a process; so many connections to Redis, too

Result = TypeVar("Result")

_threads: dict[int, WorkerThreads] = {}  # by process: those of a parent are not there after a fork


def in_event_loop() -> bool:
    """Whether this thread runs an event loop, which must not be blocked."""
    return asyncio._get_running_loop() is not None


async def off_loop(call: Callable[[], Result], patience: float | None, late: Callable[[], Exception]) -> Result:
    """
    Return what ``call`` returns, which may block.

    Cancelled before a thread has begun with the call, nothing is called. Later the call goes on to its end, and nobody
    hears of it.

    Args:
        patience: Seconds for which it may wait for a thread; None for any time.
        late: Makes the exception to be raised when there is none for so long.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    context = copy_context()
    turns = [True]  # whoever takes it out decides what becomes of the call

    def claimed() -> bool:
        try:
            return turns.pop()
        except IndexError:
            return False

    def settle(result: Any, error: BaseException | None) -> None:
        if ended.done():
            return
        if error is not None:
            ended.set_exception(error)
        else:
            ended.set_result(result)

    def run() -> None:
        if not claimed():
            return
        result, error = None, None
        try:
            result = context.run(call)
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def give_up() -> None:
        if claimed():
            settle(None, late())

    _threads.setdefault(os.getpid(), WorkerThreads(MOST_THREADS)).submit(run)
    timer = None if patience is None else loop.call_later(patience, give_up)
    try:
        return await ended
    finally:
        claimed()
        if timer is not None:
            timer.cancel()
