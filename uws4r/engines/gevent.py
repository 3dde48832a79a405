"""
The engine under uWSGI's gevent loop: a greenlet that waits for the hub's descriptor, in the thread of the requests.

Works with and without monkey-patching. What the hub leaves to threads (connecting, overridden methods of
subscribers) is run by greenlets where :mod:`threading` is patched, and by threads where it is not.
"""

import logging
import threading
import time
from functools import partial

import gevent
from gevent.monkey import get_original

from uws4r.hub import Hub

logger = logging.getLogger("uws4r.engines")

block = get_original("time", "sleep")  # the thread, patched or not
READABLE = 1  # an event of gevent's loop
PAUSE = 0.002  # seconds between two looks at something that another greenlet does


class Turns:
    """Runs a hub, one turn at a time: one that is interrupted by the end of the worker is not begun again inside."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._inside = False

    def once(self) -> bool:
        """Do one turn without waiting; return whether there will be a next one."""
        if self._inside:
            return False
        self._inside = True
        try:
            return self._hub.run_once(block=False)
        finally:
            self._inside = False


def run_in_greenlet(hub: Hub) -> gevent.Greenlet:
    """Start the greenlet that runs ``hub`` until it is stopped."""
    turns = Turns(hub)
    hub.wait_for = partial(_wait_for, hub, turns)
    return gevent.spawn(_run, hub, turns)


def _run(hub: Hub, turns: Turns) -> None:
    loop = gevent.get_hub()
    watcher = loop.loop.io(hub.fileno(), READABLE)
    try:
        while turns.once():
            if hub.has_more:
                gevent.sleep(0)  # the requests' turn
            else:
                loop.wait(watcher)
    except Exception:
        logger.exception("a bug in uws4r ends the hub: all its clients are sent away, the next one gets a new hub")
        hub.crash()


def _wait_for(hub: Hub, turns: Turns, event: threading.Event, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not event.is_set() and time.monotonic() < deadline:
        if event is not hub.stopped:
            gevent.sleep(PAUSE)
        else:  # uWSGI ends the worker: its loop may not run any more
            block(PAUSE)
            if not turns.once():
                break
    return event.is_set()
