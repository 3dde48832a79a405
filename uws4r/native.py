"""
How a websocket stays the request that it was opened with, in uWSGI's async engine: native mode.

uWSGI sends the 101, the client's socket goes to the hub, and the request waits until the websocket ends.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from uws4r._descriptors import duplicate
from uws4r.attachment import Attachment
from uws4r.engines.native import Requests
from uws4r.handshake import Accepted, choose_protocol
from uws4r.hub import Hub
from uws4r.quoting import brief
from uws4r.shield import Shield

logger = logging.getLogger("uws4r.application")


class Native:
    """
    Args:
        server: The module ``uwsgi``.
    """

    compresses = False  # uwsgi.websocket_handshake() cannot say so

    def __init__(self, server: Any) -> None:
        self._server = server

    def open(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., object],
        hub: Hub,
        attachment: Attachment,
        accepted: Accepted,
    ) -> Iterator[bytes]:
        """Return what is a request as long as its websocket is open."""
        requests: Requests = hub.engine
        requests.expect()
        # Without a choice, uWSGI would repeat all that the client has offered, and browsers refuse that.
        protocol = accepted.protocol or choose_protocol(environ) or ""
        return self._request(requests, attachment, accepted.key, protocol)

    def _request(self, requests: Requests, attachment: Attachment, key: str, protocol: str) -> Iterator[bytes]:
        server = self._server
        try:
            server.websocket_handshake(key, "", protocol)
            early = server.uws4r.early()
            fd = server.connection_fd()
            attachment.fd = duplicate(fd)
            shield = Shield(server, fd)
        except OSError as error:
            logger.info("%s left during the handshake: %s", brief(attachment.identity), error)
            attachment.abandon()
            requests.give_up()
            return
        except BaseException:
            attachment.abandon()
            requests.give_up()
            raise
        try:
            requests.serve(attachment, shield, early)
        finally:
            shield.close()
        yield from ()
