"""
Loaded by uWSGI's master, which holds the sockets on which its router listens: what is accepted there inherits
TCP_NODELAY. The router has no option for it; without, each message that a page sends and the next ones that it
gets wait for one another, 40 ms in the usual case.

It also refuses a uWSGI that knows no routes: what a client says of itself would be believed, and nobody told.
"""

import os
import socket
import sys

import uwsgi


def set_nodelay() -> None:
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as listener:
                if listener.family != socket.AF_UNIX and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # no socket, or not of TCP


# Unknown options are nothing to uWSGI.
if not hasattr(uwsgi, "route"):
    sys.stderr.write(
        "router/uwsgi.ini needs `route-run =`, and this uWSGI was compiled without PCRE: install libpcre2-dev, then\n"
        "pip install --force-reinstall --no-cache-dir --no-binary uwsgi uwsgi\n"
    )
    sys.stderr.flush()
    os._exit(1)
set_nodelay()
