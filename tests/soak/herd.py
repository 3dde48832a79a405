"""Many clients that come at once, to last messages that together are more than Redis keeps for a subscriber."""

import time
from typing import Any

from tests.soak.clients import handshake
from tests.support.site import Site
from tests.support.wire import Client

LONG = 1 << 20  # bytes of a last message
SETTINGS = {"UWS4R_MAX_QUEUE": 4 << 20}  # so that a client that is slow to read is none of this part's business


def herd(site: Site, facilities: int, clients: int, rounds: int) -> dict[str, Any]:
    """
    So many clients come at once to so many facilities, each with a last message of 1 MiB, and again.

    Each of them gets it. The link to Redis stays, and a client beside them gets every message that is published.
    """
    long = {f"herd{number}": f"{number} ".encode().ljust(LONG, b"x") for number in range(facilities)}
    for facility, message in long.items():
        site.redis.client.set(f"broadcast:{facility}", message)
    bystander = site.join("/ws/bystander?subscribe-broadcast")
    links = {link["id"] for link in site.redis.links()}
    published = 0
    begin = time.monotonic()
    for _ in range(rounds):
        opened = []
        for number in range(clients):
            opened.append((f"herd{number % facilities}", Client(site.address)))
            opened[-1][1].send_raw(handshake(f"/ws/{opened[-1][0]}?subscribe-broadcast"))
            if number % 10 == 0:
                site.redis.client.publish("broadcast:bystander", f"{published}")
                published += 1
        for facility, client in opened:
            assert client.read_response().status == 101
            assert client.frame().payload == long[facility]
            client.sock.close()
    heard = [bystander.receive() for _ in range(published)]
    assert heard == [f"{number}" for number in range(published)], "the client beside them has missed something"
    assert {link["id"] for link in site.redis.links()} == links, "the link was cut"
    site.uwsgi.assert_healthy()
    return {
        "clients": clients * rounds,
        "facilities": facilities,
        "each finds MiB": LONG >> 20,
        "seconds": round(time.monotonic() - begin, 1),
        "beside them heard": f"{published} of {published}",
        "links": len(links),
    }
