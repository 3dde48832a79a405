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

from uws4r.engines.turns import PAUSE, Turns
from uws4r.hub import Hub

logger = logging.getLogger("uws4r.engines")

block = get_original("time", "sleep")  # the thread, patched or not
READABLE = 1  # an event of gevent's loop


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
    if event is hub.stopped:
        return turns.until_stopped(seconds, block)
    deadline = time.monotonic() + seconds
    while not event.is_set() and time.monotonic() < deadline:
        gevent.sleep(PAUSE)
    return event.is_set()
