"""Every error of uws4r, in one tree; each carries what its catcher needs to answer."""

from redis import exceptions

from uws4r.rfc6455 import CloseCode


class Uws4rError(Exception):
    """The root: catch this to catch anything that uws4r raises on its own."""


class ConfigurationError(Uws4rError):
    """The site, uWSGI or Redis is set up so that websockets cannot work; the text says what to change."""


class RedisUnfit(ConfigurationError):
    """
    This Redis cannot do what websockets need, and trying again will not cure that.

    Args:
        seen: What it has said.
        means: What that means.
        change: What to change.
    """

    def __init__(self, seen: str, means: str, change: str) -> None:
        super().__init__(f"{means} ({seen}). Change: {change}")
        self.seen = seen
        self.means = means
        self.change = change


class ProtocolError(Uws4rError):
    """The peer broke RFC 6455; answer with a close frame carrying ``close_code``."""

    def __init__(self, reason: str, close_code: int = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.close_code = close_code


class HandshakeError(Uws4rError):
    """The request does not become a websocket; answer with ``status``, the text and ``headers``."""

    def __init__(self, reason: str, status: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


class LinkError(Uws4rError):
    """Redis did not answer a command of the hub; ``unsent`` says that it cannot even have seen it."""

    def __init__(self, reason: str, unsent: bool = False) -> None:
        super().__init__(reason)
        self.unsent = unsent


class QueueError(Uws4rError, exceptions.RedisError):
    """Redis has not done what a publisher wanted of it; ``__cause__`` is redis-py's own error."""


class QueueUnreachable(QueueError, exceptions.ConnectionError):
    """Redis cannot be reached, or the connection broke; in the second case it may have done what it was told."""


class QueueTimeout(QueueError, exceptions.TimeoutError):
    """Redis does not answer within ``socket_timeout``; it may have done what it was told, or may do it yet."""


class QueueRefused(QueueError, exceptions.ResponseError):
    """Redis answers, and refuses: out of memory, no right to, a replica, … Nothing is published."""
