"""Listeners that ask for every size of window there is: what the worker's work for one message grows to."""

import json
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

from tests.support.process import cpu, worker_pid
from tests.support.site import Site, manage
from tests.support.wire import Client

PATH = "/ws/windows?subscribe-broadcast"
OFFERS = range(8, 16)  # server_max_window_bits, as RFC 7692 allows them
SIZE = 200_000  # bytes of a message
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "what", "did", "it", "do")


def compressions(site: Site) -> int:
    """How often the worker has compressed a message, ever."""
    (worker,) = json.loads(manage(site.env, "uws4r", "status", "--json"))
    return int(worker["compressed"])


def listener(site: Site, bits: int) -> Client:
    client = site.connect(PATH, {"Sec-WebSocket-Extensions": f"permessage-deflate; server_max_window_bits={bits}"})
    assert client.window == (15 if bits == 15 else 9 if bits > 8 else 0), (bits, client.window)
    return client


@dataclass
class Cost:
    """What a message costs the worker, and who waits meanwhile."""

    compressions: float
    cpu: float  # seconds
    p99: float  # seconds that the sentinel waits for its own message


def rounds(site: Site, sentinel: Client, listeners: list[Client], messages: int, text: str) -> Cost:
    """Publish so many messages."""
    before = compressions(site)
    begun = cpu(worker_pid(site))
    times = []
    for number in range(messages):
        message = f"{number} {text}"
        site.redis.client.publish("broadcast:windows", message)
        begin = time.monotonic()
        sentinel.send("x")
        assert sentinel.receive() == "x"
        times.append(time.monotonic() - begin)
        for client in listeners:
            assert client.receive() == message
    used = cpu(worker_pid(site)) - begun
    return Cost((compressions(site) - before) / messages, used / messages, statistics.quantiles(times, n=100)[98])


def every_window(site: Site, messages: int, each: int = 3) -> dict[str, Any]:
    """
    Large compressible messages, first for listeners that ask for no window, then beside some of every offer.

    Each message is compressed at most twice, whatever is asked for; less often where that takes half of the time.
    """
    draw = random.Random(1)
    text = " ".join(draw.choices(WORDS, k=SIZE // 5))[:SIZE]
    sentinel = site.join("/ws/sentinel?subscribe-broadcast&publish-broadcast&echo")
    listeners = [listener(site, 15) for _ in OFFERS for _ in range(each)]
    usual = rounds(site, sentinel, listeners, messages, text)
    assert 0 < usual.compressions <= 1, usual
    for client in listeners:
        client.sock.close()
    listeners = [listener(site, bits) for bits in OFFERS for _ in range(each)]
    mixed = rounds(site, sentinel, listeners, messages, text)
    assert 0 < mixed.compressions <= 2, mixed
    assert mixed.cpu < 5 * usual.cpu, f"{mixed}, and with one window {usual}"
    site.uwsgi.assert_healthy()
    return {
        "listeners": len(listeners),
        "messages": messages,
        "bytes each": len(text),
        "compressions of each": round(mixed.compressions, 2),
        "CPU ms of each": round(mixed.cpu * 1000, 1),
        "with one window": round(usual.cpu * 1000, 1),
        "sentinel's p99 ms": round(mixed.p99 * 1000, 1),
        "and with one window": round(usual.p99 * 1000, 1),
    }
