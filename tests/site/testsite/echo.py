"""
An app for the conformance tests: every websocket gets each of its messages back, at once.

The product has no such thing. What a client publishes takes the way through Redis, so that it comes back later than
the answer to a mistake in the next frame, which the tests want behind it; and empty messages are not published.
"""

from django.apps import AppConfig

from uws4r import worker
from uws4r._connection import Connection
from uws4r.hub import Hub
from uws4r.overrides import opcode_of


class EchoHub(Hub):
    def _message(self, connection: Connection, payload: bytes, text: bool) -> None:
        connection.count_message()
        self.send(connection, opcode_of(text), payload)


class Echo(AppConfig):
    name = "testsite.echo"

    def ready(self) -> None:
        worker.Hub = EchoHub  # type: ignore[misc]
