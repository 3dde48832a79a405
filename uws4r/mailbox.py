"""
A mailbox: the calls of the site's code for one connection, in order, on worker threads.

It does not know what the calls do, or for whom. It counts what is waiting, and tells its owner when to stop adding
calls and when to go on.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from django.db import close_old_connections, reset_queries

ENOUGH = 100  # calls that wait; then it is full
COST = 512  # bytes that a call takes besides those of its message

Call = Callable[[], None]


class _Waiting(NamedTuple):
    call: Call
    account: int  # which of the counts its bytes are in
    size: int


class Mailbox:
    """
    Any thread may put calls into it.

    Args:
        submit: Has a worker thread run a task.
        room: Bytes that may wait of what is offered; and of what is received, until the mailbox is full.
        failed: Is told what a call has raised, on its thread; the calls after it follow.
        drained: Is called, on a worker thread, when a mailbox that was full has become empty.
    """

    OFFERED, RECEIVED = range(2)

    def __init__(
        self, submit: Callable[[Call], None], room: int, failed: Callable[[Exception], None], drained: Call
    ) -> None:
        self._submit = submit
        self._room = room
        self._failed = failed
        self._drained = drained
        self._calls: deque[_Waiting] = deque()
        self._bytes = [0, 0]  # of messages that wait, or that a call is busy with
        self._lock = threading.Lock()
        self._running = False
        self._was_full = False

    def put(self, call: Call) -> None:
        """Add a call that has no message."""
        self._add(_Waiting(call, self.OFFERED, 0))

    def offer(self, call: Call, size: int) -> bool:
        """Add a call with a message of ``size`` bytes and return True; where there is no room for it, return False."""
        with self._lock:
            waiting = self._bytes[self.OFFERED]
            if waiting and waiting + size + COST > self._room:
                return False
            self._bytes[self.OFFERED] += size + COST
        self._add(_Waiting(call, self.OFFERED, size + COST))
        return True

    def receive(self, call: Call, size: int) -> bool:
        """Add a call with a message of ``size`` bytes; return whether the mailbox is full now, until ``drained``."""
        with self._lock:
            self._bytes[self.RECEIVED] += size + COST
        self._add(_Waiting(call, self.RECEIVED, size + COST))
        with self._lock:
            full = len(self._calls) >= ENOUGH or self._bytes[self.RECEIVED] >= self._room
            self._was_full |= full
        return full

    def _add(self, waiting: _Waiting) -> None:
        with self._lock:
            self._calls.append(waiting)
            if self._running:
                return
            self._running = True
        self._submit(self._run)

    def _run(self) -> None:
        # What Django does around a request, so that database connections are given back.
        reset_queries()
        close_old_connections()
        try:
            while (waiting := self._next()) is not None:
                try:
                    waiting.call()
                except Exception as error:
                    self._failed(error)
                finally:
                    with self._lock:
                        self._bytes[waiting.account] -= waiting.size
        finally:
            close_old_connections()

    def _next(self) -> _Waiting | None:
        with self._lock:
            if self._calls:
                return self._calls.popleft()
            self._running = False
            drained, self._was_full = self._was_full, False
        if drained:
            self._drained()
        return None
