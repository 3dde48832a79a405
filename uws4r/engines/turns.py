"""One turn of a hub at a time, for engines that share their thread with requests."""

import os
import time
from collections.abc import Callable

from uws4r.hub import Hub

PAUSE = 0.002  # seconds between two looks at something that the hub's turns bring about


class Turns:
    """Runs a hub, one turn at a time: one that is interrupted by the end of the worker is not begun again inside."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._inside = False

    def once(self) -> bool:
        """Do one turn without waiting; return whether there will be a next one. In a forked child there is none."""
        if self._inside or self._hub.pid != os.getpid():
            return False
        self._inside = True
        try:
            return self._hub.run_once(block=False)
        finally:
            self._inside = False

    def until_stopped(self, seconds: float, sleep: Callable[[float], object] = time.sleep) -> bool:
        """Run the hub of a worker that ends, whose own loop may not run any more; return whether it has stopped."""
        deadline = time.monotonic() + seconds
        while not self._hub.stopped.is_set() and time.monotonic() < deadline:
            sleep(PAUSE)
            if not self.once():
                break
        return self._hub.stopped.is_set()
