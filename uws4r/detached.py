"""
How a websocket leaves the request that it was opened with: the 101 goes out, the hub gets the socket, and the request
is over.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from uws4r.attachment import Attachment
from uws4r.handshake import Accepted
from uws4r.hub import Hub
from uws4r.quoting import brief

logger = logging.getLogger("uws4r.application")


class Detached:
    """
    Args:
        detach: Returns a duplicate of the socket of a request, given its environ; the duplicate stays open when the
            server closes its own.
    """

    compresses = True

    def __init__(self, detach: Callable[[dict[str, Any]], int]) -> None:
        self._detach = detach

    def open(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Callable[[bytes], object]],
        hub: Hub,
        attachment: Attachment,
        accepted: Accepted,
    ) -> Iterable[bytes]:
        """Answer the handshake, and leave the client with the hub; return what is left of the request."""
        try:
            write = start_response("101 Switching Protocols", accepted.headers)
            write(b"")  # sends the head: nothing else may be written to the client before it
            attachment.fd = self._detach(environ)
        except OSError as error:
            logger.info("%s left during the handshake: %s", brief(attachment.identity), error)
            attachment.abandon()
            return []
        except BaseException:
            attachment.abandon()
            raise
        hub.attach(attachment)
        return []
