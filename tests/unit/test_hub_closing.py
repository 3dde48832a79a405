"""Every way in which a connection ends."""

import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT, close_frame, masked_frame


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(close_frame(1000, "bye"), 1000, id="1000 is echoed"),
        pytest.param(close_frame(4321), 4321, id="4321 is echoed"),
        pytest.param(masked_frame(CLOSE), 1000, id="an empty one is answered 1000"),
        pytest.param(b"\x81\x02hi", 1002, id="unmasked"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 1002, id="garbage"),
        pytest.param(masked_frame(TEXT, b"\xff"), 1007, id="no UTF-8"),
        pytest.param(masked_frame(BINARY, b"x" * 70_000)[:20], 1009, id="too big"),
    ],
)
def test_every_end_has_its_close_code(make: Callable[..., Bench], sent: bytes, code: int) -> None:
    bench = make(max_message_size=65_536)
    client, other = bench.join("broadcast:f"), bench.join("broadcast:f")
    client.send_raw(sent)
    assert client.receive_close().close_code == code
    assert client.ended()
    client.sock.close()
    bench.redis.publish("broadcast:f", "still here")
    assert other.receive() == "still here"
    wait_until(lambda: bench.call(lambda: len(bench.hub.loop.connections)) == 1, "closed")


@pytest.mark.parametrize("sent", [close_frame(1000), b"\x81\x02hi"])
def test_a_client_that_half_closes_at_once_still_gets_its_close_frame(bench: Bench, sent: bytes) -> None:
    client = bench.join("broadcast:f")
    client.send_raw(sent)
    client.sock.shutdown(socket.SHUT_WR)
    assert client.receive_close().close_code in (1000, 1002)
    assert client.ended()


def test_a_stop_reaches_a_client_behind_a_full_queue(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=1_000_000)
    client = bench.join("broadcast:f")

    # Each frame in the queue counts 64 bytes besides its own.
    def queued_after(size: int) -> int:
        before = bench.hub.fanout.sent
        bench.redis.publish("broadcast:f", "x" * size)
        wait_until(lambda: bench.hub.fanout.sent > before, "queued")
        sent.append(size)
        return bench.call(lambda: sum(c.queued for c in bench.hub.loop.connections)) + 64 * len(sent)

    sent: list[int] = []
    while (queued := queued_after(50_000)) < 900_000:
        pass
    assert queued_after(1_000_000 - queued - 15 - 64) > 1_000_000 - 23  # no room for a close frame
    stopper = threading.Thread(target=bench.hub.stop)
    stopper.start()
    while (frame := client.frame()).opcode == TEXT:
        pass
    assert frame.close_code == 1012
    assert client.ended()
    stopper.join()


def test_what_is_attached_too_late_is_told_to_come_back(bench: Bench) -> None:
    bench.hub.stop()
    client = bench.open("broadcast:f")
    assert client.receive_close().close_code == 1012
    assert client.ended()


def test_what_came_before_the_mistake_is_published(bench: Bench) -> None:
    sender = bench.join("broadcast:f", publish=("broadcast:f",))
    reader = bench.join("broadcast:f")
    sender.send_raw(masked_frame(TEXT, b"good") + b"\x81\x02hi" + masked_frame(TEXT, b"too late"))
    assert reader.receive() == "good"
    assert sender.receive_close().close_code == 1002
    assert reader.ping() == []


def test_close_frames_that_cross(bench: Bench) -> None:
    client = bench.join("broadcast:f")
    connection = bench.connection_of(client)
    with bench.held():
        bench.hub.call_soon(lambda: bench.hub.close(connection, 4000, "bye"))
        client.send_raw(close_frame(1000))
    assert client.receive_close().close_code == 4000
    assert client.ended()


def test_a_stop_in_the_turn_that_hears_from_a_lingering_client(bench: Bench) -> None:
    clients = [bench.join("broadcast:f") for _ in range(20)]
    for client in clients:
        client.send_raw(b"\x81\x02hi")
        client.receive_close()
    with bench.held():
        for client in clients:
            client.send_raw(b"more bytes")
        stopper = threading.Thread(target=bench.hub.stop)
        stopper.start()
        wait_until(lambda: bench.hub.draining, "stopping")
    stopper.join()
    assert bench.hub.stopped.is_set()


def test_an_abrupt_end_leaves_nothing(bench: Bench) -> None:
    clients = [bench.join("broadcast:f") for _ in range(5)]
    clients[0].send_raw(masked_frame(TEXT, b"half a frame")[:9])
    for client in clients:
        client.sock.close()
    wait_until(lambda: not bench.hub.loop.connections and not bench.hub.fanout.channels, "gone")
    wait_until(lambda: bench.redis.pubsub_numsub("broadcast:f")[0][1] == 0, "unsubscribed")


def test_a_slow_client_is_closed_with_1013_and_the_others_get_everything(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=100_000)
    slow, fast = bench.join("broadcast:f"), bench.join("broadcast:f")
    message = "x" * 10_000
    for i in range(200):
        bench.redis.publish("broadcast:f", message)
        assert fast.receive() == message, i
    received = 0
    while (frame := slow.frame()).opcode == TEXT:
        assert frame.payload == message.encode()  # the frame that was out in part is whole
        received += 1
    assert frame.close_code == 1013
    assert 0 < received < 200


def test_one_large_message_onto_an_empty_queue_is_accepted(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=1000)
    client = bench.join("broadcast:f")
    bench.redis.publish("broadcast:f", "x" * 5_000_000)
    assert client.receive() == "x" * 5_000_000


def test_a_silent_client_is_pinged_and_then_closed(make: Callable[..., Bench]) -> None:
    bench = make(ping_interval=0.3, ping_timeout=0.3)
    client = bench.join("broadcast:f")
    assert client.frame().opcode == PING
    client.send_raw(masked_frame(PONG))
    assert client.frame().opcode == PING
    assert client.receive_close().close_code == 1011


def test_pings_come_in_their_interval_even_if_an_answer_may_take_longer(make: Callable[..., Bench]) -> None:
    """A proxy in front ends a websocket that is silent for longer; it was 20.3 s with these numbers."""
    bench = make(ping_interval=0.3, ping_timeout=20)
    client = bench.join("broadcast:f")
    for _ in range(3):
        assert client.frame().opcode == PING
        client.send_raw(masked_frame(PONG))


def test_an_answer_may_take_longer_than_the_time_between_two_pings(make: Callable[..., Bench]) -> None:
    bench = make(ping_interval=0.2, ping_timeout=1.0)
    client = bench.join("broadcast:f")
    assert client.frame().opcode == PING
    pinged = time.monotonic()
    assert client.receive_close().close_code == 1011
    assert 0.8 < time.monotonic() - pinged < 3.0  # ticks of the timer wheel


def test_a_client_that_talks_is_not_pinged(make: Callable[..., Bench]) -> None:
    bench = make(ping_interval=0.5, ping_timeout=0.1)
    client = bench.join("broadcast:f")
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert client.ping() == []


def test_a_ping_comes_back_with_its_payload(bench: Bench) -> None:
    """BUG-P3."""
    client = bench.join("broadcast:f")
    client.send_raw(masked_frame(PING, b"payload"))
    frame = client.frame()
    assert (frame.opcode, frame.payload) == (PONG, b"payload")


def test_a_stop_closes_everybody_with_1012(bench: Bench) -> None:
    clients = [bench.join("broadcast:f") for _ in range(20)]
    stopper = threading.Thread(target=bench.hub.stop)
    begin = time.monotonic()
    stopper.start()
    for client in clients:
        assert client.receive_close().close_code == 1012
        assert client.ended()
        client.sock.close()
    stopper.join()
    assert bench.hub.stopped.is_set()
    assert time.monotonic() - begin < 1


def test_a_stop_does_not_wait_for_clients_that_do_not_answer(bench: Bench) -> None:
    bench.join("broadcast:f")
    begin = time.monotonic()
    bench.hub.stop()
    assert bench.hub.stopped.is_set()
    assert time.monotonic() - begin < 2


def test_opening_and_closing_are_one_line_each(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uws4r.hub")
    client = bench.join("broadcast:f", publish=("broadcast:f",))
    client.send("hello")
    client.send_raw(close_frame(1001, "leaving\nfor good"))
    client.receive_close()
    wait_until(lambda: "closed" in caplog.text, "logged")
    lines = [record.getMessage() for record in caplog.records if "test" in record.getMessage()]
    assert re.fullmatch(r"#\d+ test open", lines[0])
    assert re.fullmatch(
        r"#\d+ test closed: 1001 'leaving\\nfor good' after \d\.\d s, in 1 messages 35 bytes, out 0 messages 4 bytes",
        lines[1],
    )
    assert len(lines) == 2


END = """
import resource, socket
from uws4r.attachment import Attachment, HubOptions
from uws4r.hub import Hub

def unreachable():
    raise OSError("no Redis here")

hub = Hub(unreachable, HubOptions())
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
for _ in range(4000):  # so much memory that the system gets some of it back
    ours, theirs = (end.detach() for end in socket.socketpair())
    hub.take(Attachment(fd=theirs, identity="test"))
"""


def test_a_process_may_end_with_whatever_is_left_of_a_hub() -> None:
    """What says goodbye at the very end, in C, knows only of clients that are still there."""
    done = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
