"""Pages and websockets in the same workers: a view that computes has the GIL whenever the hub wants it."""

import statistics
import sys
import time
from collections.abc import Callable

import pytest

from tests.support.site import Site

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]

MESSAGES = 300
PAUSE = 0.02  # seconds between two messages, so that each one finds the hub waiting
COMPUTES = 30  # seconds


def test_a_message_waits_for_one_who_computes_two_switch_intervals_at_most(
    served: Callable[..., Site], capsys: pytest.CaptureFixture[str]
) -> None:
    site = served()
    client = site.join("/ws/foo?subscribe-broadcast")
    end = time.monotonic() + COMPUTES
    site.request("GET", f"/compute/{COMPUTES}/")
    late = []
    for number in range(MESSAGES):
        begin = time.monotonic()
        site.redis.client.publish("broadcast:foo", f"{number}")
        assert client.receive() == f"{number}"
        late.append(time.monotonic() - begin)
        time.sleep(PAUSE)
    assert time.monotonic() < end, "it has not computed all the while"
    median, p99 = statistics.median(late), sorted(late)[int(0.99 * MESSAGES)]
    with capsys.disabled():
        print(f"  beside a thread that computes: {1e3 * median:.1f} ms, p99 {1e3 * p99:.1f} ms")
    assert median < 2 * sys.getswitchinterval()
