"""Orders to a hub, and what becomes of channels that are taken away."""

import json
from typing import Any

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.support.wire import Client
from uws4r.control import Control

JOHN = {"identity": "203.0.113.7 john /ws/f"}


def order(bench: Bench, control: Control, **fields: Any) -> None:
    bench.call(lambda: control.receive(json.dumps(fields).encode()))
    wait_until(lambda: bench.call(lambda: not control._gathered), "carried out")


def publishes(bench: Bench, client: Client) -> tuple[bytes, ...]:
    return bench.connection_of(client).publishes


def test_a_channel_is_taken_away_from_a_user_and_from_nobody_else(bench: Bench) -> None:
    control = Control(bench.hub)
    channels = ("group:a:f", "group:ab:f", "broadcast:f")
    john = bench.join(*channels, publish=channels, **JOHN)
    other = bench.join(*channels)
    order(bench, control, do="leave", users=["john"], under=["group:a:"])
    for name in channels:
        bench.redis.publish(name, name)
    assert [john.receive() for _ in range(2)] == ["group:ab:f", "broadcast:f"]
    assert [other.receive() for _ in range(3)] == list(channels)
    assert publishes(bench, john) == (b"group:ab:f", b"broadcast:f")
    other.sock.close()
    # Nobody listens there any more.
    wait_until(lambda: not bench.server.subscriptions("group:a:f"), "unsubscribed")
    assert bench.server.subscriptions("group:ab:f") == 1


def test_a_channel_is_taken_away_from_one_who_waits_to_join_it(bench: Bench) -> None:
    control = Control(bench.hub)
    bench.redis.set("group:a:f", "secret")
    bench.redis.set("broadcast:f", "for all")
    bench.redis.client_pause(1500)
    client = bench.open("group:a:f", "broadcast:f", publish=("group:a:f", "broadcast:f"), **JOHN)
    wait_until(lambda: bench.call(lambda: len(bench.hub.loop.connections)) == 1, "attached")
    connection = bench.connection_of(client)
    order(bench, control, do="leave", users=["john"], under=["group:a:"])
    assert bench.call(lambda: connection.attachment is not None), "it has joined already"
    assert client.receive() == "for all"
    bench.redis.publish("group:a:f", "secret")
    bench.redis.publish("broadcast:f", "next")
    assert client.receive() == "next"
    assert publishes(bench, client) == (b"broadcast:f",)


def test_copies_are_still_found_when_a_channel_is_gone(bench: Bench) -> None:
    """The rules on duplicates count by places among a client's channels, which move."""
    control = Control(bench.hub)
    channels = ("group:a:f", "user:john:f", "broadcast:f")
    john = bench.join(*channels, publish=("broadcast:f",), changes=True, **JOHN)
    order(bench, control, do="leave", users=["john"], under=["group:a:"])
    pipeline = bench.redis.pipeline(transaction=True)
    for name in channels:
        pipeline.publish(name, "once")
    with bench.held():
        pipeline.execute()
    assert john.receive() == "once"
    bench.redis.publish("broadcast:f", "once")  # no change there
    john.send("own, which does not come back")
    assert john.ping() == []
    bench.redis.publish("user:john:f", "another")
    assert john.receive() == "another"


def test_orders_that_come_together_are_carried_out_in_one_go(bench: Bench) -> None:
    control = Control(bench.hub)
    clients = [bench.join("broadcast:f", identity=f"203.0.113.7 user{number} /ws/f") for number in range(5)]
    for number in range(3):
        data = json.dumps({"do": "close", "users": [f"user{number}"], "code": 4000 + number}).encode()
        bench.hub.call_soon(lambda data=data: control.receive(data))  # type: ignore[misc]
    assert [client.receive_close().close_code for client in clients[:3]] == [4000, 4001, 4002]
    assert [client.ping() for client in clients[3:]] == [[], []]
