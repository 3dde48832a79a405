"""Websockets on which nothing happens, behind each of the fronts: those whose time limits are shorter cut them."""

import selectors
import time
from typing import Any

from tests.support.fronts import Front
from tests.support.wire import PING, PONG, masked_frame


def idle_behind(sites: dict[str, Front], seconds: float) -> list[dict[str, Any]]:
    """Leave a websocket behind each front alone but for its pings, then publish once."""
    clients = {name: site.join("/ws/idle?subscribe-broadcast") for name, site in sites.items()}
    pings = dict.fromkeys(clients, 0)
    with selectors.DefaultSelector() as selector:
        for name, client in clients.items():
            selector.register(client.sock, selectors.EVENT_READ, name)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                client = clients[key.data]
                frame = client.frame()
                assert frame.opcode == PING, f"behind {key.data} after {seconds - left:.0f} s: {frame}"
                client.send_raw(masked_frame(PONG, frame.payload))
                pings[key.data] += 1
    redis = next(iter(sites.values())).redis.client
    redis.publish("broadcast:idle", "still there?")
    for name, client in clients.items():
        assert client.receive() == "still there?", name
    return [{"behind": name, "idle s": seconds, "pings": count} for name, count in pings.items()]
