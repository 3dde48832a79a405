"""The default engine: a thread of its own, which blocks in the hub's epoll set."""

import logging
import signal
import threading

from uws4r.hub import Hub

logger = logging.getLogger("uws4r.engines")


def run_in_thread(hub: Hub) -> threading.Thread:
    """Start the thread that runs ``hub`` until it is stopped."""
    # Made with all signals blocked, so that they keep interrupting the threads that handle them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread = threading.Thread(target=_run, args=(hub,), name="uws4r-hub", daemon=True)
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread


def _run(hub: Hub) -> None:
    try:
        while hub.run_once():
            pass
    except Exception:
        logger.exception("a bug in uws4r ends the hub: all its clients are sent away, the next one gets a new hub")
        hub.crash()
