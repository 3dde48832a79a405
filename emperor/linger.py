"""
Loaded by the emperor's own worker, through which all websockets pass: when the emperor is told to
stop, that worker would end first, and the close frames (1012) of the websocket workers behind it
would have no way to the browsers. So it waits for them.

Not by uwsgi.atexit: uWSGI leaves that out where a worker is busy, and half a request, of anybody, is
enough for that. The signal is kept from uWSGI instead, and a thread takes it.
"""

import os
import signal
import sys
import threading
import time

import uwsgi

SECONDS = 1.0  # a worker has sent its close frames within some hundredths
END = 30  # uWSGI's exit status of a worker that has been told to end


def linger() -> None:
    signal.sigwait({signal.SIGINT})
    time.sleep(SECONDS)
    os._exit(END)


def start() -> None:
    # In the worker's main thread, before uWSGI starts the others: they inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=linger, daemon=True).start()


# Unknown options are nothing to uWSGI: without PCRE it would answer every page with an error, and not say why.
if not hasattr(uwsgi, "route"):
    sys.stderr.write(
        "emperor/uwsgi.ini needs `route =`, and this uWSGI was compiled without PCRE: install libpcre2-dev, then\n"
        "pip install --force-reinstall --no-cache-dir --no-binary uwsgi uwsgi\n"
    )
    sys.stderr.flush()
    os._exit(1)
uwsgi.post_fork_hook = start
