"""
What stands between a client and uWSGI's own parser of websocket frames, in native mode.

Six bytes of any client can end a worker in that parser, and its buffer for fragments is one for all clients. So it
never sees what a client has sent: a :class:`Shield` takes the socket away from uWSGI and leaves it one end of a pair of
its own. What :mod:`uws4r._decoder` has checked, unmasked and put together goes into the other end, one whole frame for
each message, and comes out of ``uwsgi.websocket_recv_nb()``.
"""

import os
import socket
from typing import Any

from uws4r._frames import encode_frame
from uws4r.rfc6455 import Opcode

PONG = b"\x8a\x00"
ROOM = 1 << 16  # of what uWSGI may say before it is asked


class Shield:
    """
    Args:
        server: The module ``uwsgi``; the request at hand has sent its 101.
    Raises:
        OSError: This process is out of descriptors.
    """

    __slots__ = ("_inner", "_server", "_told")

    def __init__(self, server: Any, fd: int) -> None:
        self._server = server
        self._told = False  # uWSGI may have said something
        inner, outer = socket.socketpair()
        with outer:
            outer.setblocking(False)
            os.dup2(outer.fileno(), fd, inheritable=False)
        inner.setblocking(False)
        self._inner = inner.detach()

    def through(self, payload: bytes, text: bool) -> bytes:
        """
        Return a message, not an empty one, as uWSGI gives it to an application.

        Only the request that the shield belongs to may call it: uWSGI reads for the request at hand.

        Raises:
            OSError: uWSGI does not take it; the websocket cannot go on.
        """
        frame = encode_frame(payload, Opcode.TEXT if text else Opcode.BINARY)
        rest = memoryview(self._pong() + frame)
        while True:
            if rest:
                try:
                    rest = rest[os.write(self._inner, rest) :]
                except BlockingIOError:
                    pass  # uWSGI makes room
            message: bytes = self._server.websocket_recv_nb()
            if message:
                return message
            # It has waited in vain, and then it also looks whether it is time for a ping of its own.
            self._told = True

    def _pong(self) -> bytes:
        """Read what uWSGI has said; return the answer to its pings, and leave out the rest."""
        if not self._told:
            return b""
        self._told = False
        try:
            return PONG if os.read(self._inner, ROOM) else b""
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close the end of the pair that is not uWSGI's."""
        os.close(self._inner)
