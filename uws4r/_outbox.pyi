from collections import deque
from collections.abc import Callable
from typing import Any, final

from uws4r._connection import Connection
from uws4r._fanout import Fanout
from uws4r._hub import Loop
from uws4r._pipeline import Pipeline

@final
class Outgoing:
    def __init__(
        self,
        connection: Connection,
        payload: bytes,
        text: bool,
        names: tuple[bytes, ...],
        expire: int,
        own: bool = ...,
    ) -> None: ...
    @property
    def connection(self) -> Connection: ...

@final
class Outbox:
    def __init__(
        self,
        loop: Loop,
        fanout: Fanout,
        room: int,
        attempt: Callable[..., None],
        call_later: Callable[[float, Callable[[], None]], None],
    ) -> None: ...
    link: Pipeline | None
    on_readonly: Callable[[], None]
    doubted: bool
    @property
    def lost(self) -> int: ...
    @property
    def waiting(self) -> deque[Outgoing]: ...
    def __len__(self) -> int: ...
    def put(self, outgoing: Outgoing) -> bool: ...
    def send_waiting(self) -> None: ...
    def rest(self, seconds: float) -> None: ...
    def wake(self) -> None: ...
    def link_lost(self, close: Callable[[], None]) -> None: ...
    def release(self) -> None: ...
    def publish_for(self, connection: Connection, outgoing: Outgoing) -> None: ...
    def published(self, outgoing: Outgoing, reply: Any) -> None: ...
    def log_refusal(self, what: str, error: object) -> None: ...
