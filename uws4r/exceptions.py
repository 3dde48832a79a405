"""
The exceptions under the names of ws4redis, for ``except`` clauses and for subclasses of the server.

New code finds them in :mod:`uws4r.errors`.
"""

from uws4r.errors import HandshakeError

__all__ = ["FrameTooLargeException", "HandshakeError", "UpgradeRequiredError", "WebSocketError"]


class WebSocketError(OSError):
    """An open websocket has a problem. The hub deals with those itself, so nothing here raises it."""


class FrameTooLargeException(WebSocketError):
    """A frame is too large; uws4r closes such a websocket with 1009 and raises nothing."""


class UpgradeRequiredError(HandshakeError):
    """The client speaks another version of the protocol: 426."""

    def __init__(self, reason: str, status: int = 426, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason, status, headers or (("Sec-WebSocket-Version", "13"),))
