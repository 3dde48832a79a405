"""Handshakes in which everything that a client may name is new: nothing of it is kept when the client is gone."""

import json
import time
from itertools import count, islice, pairwise
from typing import Any

from tests.soak.churn import MAY_GROW, all_gone
from tests.support.process import idle_descriptors, pss, worker_pid
from tests.support.site import Site
from tests.support.wire import Client

# The engine asks a cache for any key that a client claims.
SETTINGS = {
    "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
    "ALLOWED_HOSTS": ["*"],
    "CSRF_TRUSTED_ORIGINS": ["https://trusted.example", "https://*.wild.example"],
    "UWS4R_MAX_CONNECTIONS_PER_IP": 1000,
    "LOGGING": {"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR"}},
}
OPTIONS = ("--disable-logging", "--buffer-size", "32768")
WARM_UP = 1000


def blocks(site: Site) -> tuple[int, int]:
    """Objects that Python has, and bytes that it has from malloc."""
    found = json.loads(site.request("GET", "/blocks/").body)
    return found["blocks"], found["malloc"]


def hello(site: Site, number: int) -> int:
    """One handshake, of nothing but new names; return its status."""
    name = f"{number:x}-{time.monotonic_ns():x}"
    headers = {
        "Cookie": f"sessionid={name}{'k' * (300 * (number % 2))}; theme-{name}={name}",
        "Content-Type": f"text/plain; charset={name}",
        "Host": f"{name}.example",
        "Origin": f"http://{name}.example" if number % 3 else f"https://{name}.wild.example",
        "Sec-WebSocket-Protocol": f"p-{name}",
        "Sec-WebSocket-Extensions": f"x-{name}; y={name}, permessage-deflate; client_max_window_bits=11",
        "User-Agent": name,
        f"X-{name}": name,
        "X-Forwarded-For": f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1",
    }
    if number % 5 == 0:
        headers["Origin"] = f"https://{name}.evil.example"
    path = f"/ws/{name}?subscribe-broadcast&subscribe-user&subscribe-session&publish-broadcast&{name}=1"
    with Client(site.address) as client:
        response = client.request(path, dict(headers))
        assert response is not None
        return response.status


def new_names(site: Site, handshakes: int) -> dict[str, Any]:
    """
    So many handshakes, and some before them, by which the worker grows to what it is.

    A name that is kept is an object at least, so there would be one more for each handshake. They come in two halves:
    what the worker needs once, whenever that is, it takes in one of them and not in both.
    """
    pid = worker_pid(site)
    idle = idle_descriptors(site)
    numbers = count(1)
    states = []
    for some in (WARM_UP, handshakes // 2, handshakes // 2):
        for number in islice(numbers, some):
            assert hello(site, number) == (403 if number % 5 == 0 else 101)
        all_gone(site, pid, idle)
        states.append((*blocks(site), pss(pid)))
    objects, malloc, grown = (
        min(after - before for before, after in pairwise(each)) for each in zip(*states, strict=True)
    )
    assert objects < handshakes // 20, f"{objects} objects more after {handshakes // 2} handshakes"
    assert malloc < 1 << 16, f"{malloc} bytes of malloc's more"
    assert grown < MAY_GROW, f"{grown} KiB more"  # pages that the worker no longer shares with its parent, too
    site.uwsgi.assert_healthy()
    return {
        "handshakes": handshakes,
        "objects": f"{states[0][0]} {states[-1][0] - states[0][0]:+d}",
        "malloc KiB": f"{states[0][1] // 1024} {(states[-1][1] - states[0][1]) // 1024:+d}",
        "PSS KiB": f"{states[0][2]} {states[-1][2] - states[0][2]:+d}",
    }
