"""
Loaded by the emperor's own worker, through which all websockets pass: when the emperor is told to
stop, that worker would end first, and the close frames (1012) of the websocket workers behind it
would have no way to the browsers. So it waits for them.
"""

import time

import uwsgi

SECONDS = 1.0  # a worker has sent its close frames within some hundredths


def linger() -> None:
    time.sleep(SECONDS)


uwsgi.atexit = linger
