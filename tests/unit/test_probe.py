"""What the doctor's websocket client sends, and how it reads what comes."""

import gzip
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT
from uws4r._decoder import FrameDecoder
from uws4r._frames import encode_frame
from uws4r.errors import ProtocolError
from uws4r.probe import Answer, Probe, Target, masked, parse_answer, parse_frame, parse_target
from uws4r.threads import within


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", Target(False, "example.com", 80, "/ws/")),
        ("https://example.com/", Target(True, "example.com", 443, "/ws/")),
        ("https://example.com:8443/app", Target(True, "example.com", 8443, "/app/ws/")),
        ("https://example.com/app/ws/", Target(True, "example.com", 443, "/app/ws/")),
        ("ws://example.com", Target(False, "example.com", 80, "/ws/")),
        ("wss://example.com/sockets", Target(True, "example.com", 443, "/sockets/")),
        ("http://[2001:db8::1]:8000/", Target(False, "2001:db8::1", 8000, "/ws/")),
        ("https://b\u00fccher.example/caf\u00e9/", Target(True, "xn--bcher-kva.example", 443, "/caf%C3%A9/ws/")),
    ],
)
def test_where_the_websockets_are(url: str, target: Target) -> None:
    assert parse_target(url, "/ws/") == target


@pytest.mark.parametrize(
    "url", ["", "example.com", "/ws/", "ftp://example.com/", "http://", "http://a:b@c/", "ws://a:b/"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"begin it with|a host has to follow|Port could not be"):
        parse_target(url, "/ws/")


def test_host_and_origin_are_written_as_browsers_do() -> None:
    assert parse_target("https://example.com:443/", "/ws/").origin == "https://example.com"
    assert parse_target("wss://example.com:8443/", "/ws/").origin == "https://example.com:8443"
    assert parse_target("http://[::1]:80/", "/ws/").authority == "[::1]"
    assert parse_target("http://[::1]:81/", "/ws/").url == "ws://[::1]:81/ws/"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_are_masked_as_a_server_wants_them(size: int) -> None:
    decoder = FrameDecoder(1 << 20)
    payload = bytes(range(256)) * (size // 256 + 1)
    decoder.feed(masked(BINARY, payload[:size]))
    assert decoder.next_event() == (BINARY, payload[:size])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_of_a_server_are_read_when_they_are_whole(size: int) -> None:
    frame = encode_frame(b"x" * size, TEXT)
    assert parse_frame(frame + b"rest") == (TEXT, b"x" * size, len(frame))
    for cut in (0, 1, 2, 3, len(frame) - 1):
        assert parse_frame(frame[: min(cut, len(frame) - 1)]) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xc1\x00", id="compressed, which nobody has offered"),
        pytest.param(b"\x81\x80\0\0\0\0", id="masked"),
        pytest.param(b"\x82\x7f" + b"\xff" * 8, id="endless"),
        pytest.param(b"<html>", id="a page"),
    ],
)
def test_what_is_no_frame_of_a_server(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_frame(data)


@given(st.binary(max_size=300))
def test_whatever_comes_is_read(data: bytes) -> None:
    for head in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n"):
        assert isinstance(parse_answer(head + data).text, str)
    gzipped = Answer(200, "OK", {"content-encoding": "gzip"}, data)
    assert isinstance(gzipped.text, str)
    try:
        parse_frame(data)
    except ProtocolError:
        pass


def test_a_body_is_made_readable() -> None:
    packed = gzip.compress(b"hello, " + b"x" * 100)
    chunks = b"%x;extension\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    answer = parse_answer(head + chunks)
    assert (answer.status, answer.reason, answer.text) == (200, "OK", "hello, " + "x" * 100)


def test_a_ping_is_answered_and_counted() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        probe = Probe(ours, 5)
        theirs.sendall(encode_frame(b"?", PING) + encode_frame(b"hello", TEXT) + encode_frame(b"", PONG))
        assert probe.receive(time.monotonic() + 5) == (TEXT, b"hello")
        assert probe.receive(time.monotonic() + 5) == (PONG, b"")
        assert probe.pings == 1
        with pytest.raises(TimeoutError):
            probe.receive(time.monotonic() + 0.01)
        probe.close()
        decoder = FrameDecoder(1 << 20)
        while data := theirs.recv(1000):
            decoder.feed(data)
        assert [decoder.next_event(), decoder.next_event()] == [(PONG, b"?"), (CLOSE, b"\x03\xe8")]


def test_an_end_without_a_close_frame() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    probe = Probe(ours, 5)
    with pytest.raises(EOFError):
        probe.receive(time.monotonic() + 5)
    probe.close()


def test_a_call_gets_so_much_time_and_no_more() -> None:
    event = threading.Event()
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s"):
        within(0.01, event.wait)
    event.set()
    assert within(5, event.wait) is True
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
