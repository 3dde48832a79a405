"""uWebSockets by way of socketify: its own topics do the fan-out, one connection brings what Redis has."""

import asyncio
import os
import sys
from collections import Counter

import hiredis
from socketify import App, OpCode


class Redis(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.reader = hiredis.Reader()
        self.send("HELLO", "3")

    def send(self, *command):
        self.transport.write(hiredis.pack_command(command))

    def data_received(self, data):
        self.reader.feed(data)
        while (item := self.reader.gets()) is not False:
            if isinstance(item, hiredis.PushNotification) and item[0] == b"message":
                app.publish(item[1].decode(), item[2].decode(), OpCode.TEXT)


async def start():
    _, app.redis = await asyncio.get_running_loop().create_connection(Redis, "127.0.0.1", int(os.environ["REDIS_PORT"]))


def upgrade(response, request, context):
    name = "broadcast:" + request.get_parameter(0)
    key, protocol, extensions = (
        request.get_header(f"sec-websocket-{header}") for header in ("key", "protocol", "extensions")
    )
    response.upgrade(key, protocol, extensions, context, name)


def opened(websocket):
    name = websocket.get_user_data()
    websocket.subscribe(name)
    listening[name] += 1
    if listening[name] == 1:
        app.redis.send("SUBSCRIBE", name)


def closed(websocket, code, message):
    name = websocket.get_user_data()
    listening[name] -= 1
    if not listening[name]:
        app.redis.send("UNSUBSCRIBE", name)


listening = Counter()
app = App()
app.on_start(start)
app.ws(
    "/ws/:name",
    {
        "idle_timeout": 0,
        "max_backpressure": 64 << 20,
        "upgrade": upgrade,
        "open": opened,
        "message": lambda websocket, message, opcode: app.redis.send("PUBLISH", websocket.get_user_data(), message),
        "close": closed,
    },
)
app.listen(int(sys.argv[1]), lambda config: None)
app.run()
