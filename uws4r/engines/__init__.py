"""
Engines: what waits for readiness on behalf of a hub, and the one hub of this worker.

An engine only has to call :meth:`uws4r.hub.Hub.run_once` whenever the hub's descriptor is readable.
"""

import os
import threading
from collections.abc import Callable

from uws4r.engines.thread import run_in_thread
from uws4r.hub import Hub

_lock = threading.Lock()
_hub: Hub | None = None


def worker_hub(
    make: Callable[[], Hub], started: Callable[[Hub], None], run: Callable[[Hub], object] = run_in_thread
) -> Hub:
    """
    Return this process's hub; make and start one where there is none, or the last one is over.

    A hub that was made before a fork stays with the parent: the child lets go of its copies.

    Args:
        make: Called under a lock, once for each hub.
        started: Called with a hub that has just been started.
        run: Starts the engine of a hub.
    """
    global _hub
    hub = _hub
    if hub is not None and hub.pid == os.getpid() and not hub.over:
        return hub
    with _lock:
        hub = _hub
        if hub is not None and hub.pid != os.getpid():
            hub.disown()
            hub = None
        if hub is None or hub.over:
            hub = make()
            run(hub)
            started(hub)
            _hub = hub
    return hub


def stop_worker_hub() -> None:
    """Stop this process's hub, if it has one: its clients are closed with 1012. The next client gets a new hub."""
    global _hub
    hub, _hub = _hub, None
    if hub is not None and hub.pid == os.getpid():
        hub.stop()
