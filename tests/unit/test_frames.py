"""The codec: bytes in, events out; bytes out."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection as Peer
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from tests.fuzz.model import verdict
from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT, close_frame, masked_frame
from uws4r._decoder import FrameDecoder, is_text, unmask
from uws4r._frames import encode_close, encode_frame, parse_close
from uws4r.errors import ProtocolError

CONTINUATION = 0x0


def events(
    data: bytes, cuts: Sequence[int] = (), max_size: int = 1 << 20, deflate: bool = False
) -> list[tuple[int, bytes]]:
    """
    What comes out when ``data`` is fed in pieces; a refusal is the last event: ``(-1, code)``.

    Of what is compressed it is the same for a decoder that pauses all the time.
    """
    out = _events(FrameDecoder(max_size, deflate), data, cuts)
    if deflate:
        assert _events(FrameDecoder(max_size, deflate, hurried=True), data, cuts) == out
    return out


def _events(decoder: FrameDecoder, data: bytes, cuts: Sequence[int]) -> list[tuple[int, bytes]]:
    out: list[tuple[int, bytes]] = []
    edges = [0, *sorted(cuts), len(data)]
    try:
        for start, end in pairwise(edges):
            decoder.feed(data[start:end])
            while (event := decoder.next_event()) is not None:
                out.append(event)
    except ProtocolError as error:
        out.append((-1, str(error.close_code).encode()))
    return out


def refusal(data: bytes, max_size: int = 1 << 20) -> int:
    *_, (kind, code) = events(data, max_size=max_size)
    assert kind == -1
    return int(code)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 65535, 65536, 100_001])
def test_every_length_form_is_decoded(size: int) -> None:
    payload = bytes(i & 0x7F for i in range(size))
    assert events(masked_frame(TEXT, payload)) == [(TEXT, payload)]
    assert events(masked_frame(BINARY, payload)) == [(BINARY, payload)]


def test_fragments_become_one_message_with_control_frames_between() -> None:
    data = (
        masked_frame(TEXT, "h\u00e9".encode()[:2], final=False)
        + masked_frame(PING, b"are you there")
        + masked_frame(CONTINUATION, b"", final=False)
        + masked_frame(PONG, b"")
        + masked_frame(CONTINUATION, "h\u00e9".encode()[2:] + b"!")
    )
    assert events(data) == [(PING, b"are you there"), (PONG, b""), (TEXT, "h\u00e9!".encode())]


def test_every_cut_gives_the_same_events() -> None:
    data = (
        masked_frame(TEXT, "a \u20ac".encode(), final=False)
        + masked_frame(PING, b"x" * 125)
        + masked_frame(CONTINUATION, "\U0001f600".encode())
        + masked_frame(BINARY, bytes(range(256)))
        + close_frame(1000, "bye")
    )
    whole = events(data)
    assert [opcode for opcode, _ in whole] == [PING, TEXT, BINARY, CLOSE]
    for cut in range(len(data) + 1):
        assert events(data, [cut]) == whole
    assert events(data, list(range(len(data)))) == whole


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x81\x02hi", 1002, id="unmasked frame (§5.1)"),
        pytest.param(masked_frame(TEXT, b"x", reserved=4), 1002, id="RSV1 without an extension (§5.2)"),
        pytest.param(masked_frame(TEXT, b"x", reserved=2), 1002, id="RSV2"),
        pytest.param(masked_frame(TEXT, b"x", reserved=1), 1002, id="RSV3"),
        *(pytest.param(masked_frame(op, b""), 1002, id=f"opcode {op} (§5.2)") for op in (3, 4, 5, 6, 7, 11, 12, 15)),
        pytest.param(masked_frame(PING, b"x" * 126), 1002, id="control frame of 126 bytes (§5.5)"),
        pytest.param(masked_frame(PING, b"", final=False), 1002, id="fragmented ping (§5.5)"),
        pytest.param(masked_frame(CLOSE, b"", final=False), 1002, id="fragmented close"),
        pytest.param(masked_frame(CONTINUATION, b"x"), 1002, id="continuation of nothing (§5.4)"),
        pytest.param(
            masked_frame(TEXT, b"x", final=False) + masked_frame(TEXT, b"y"), 1002, id="message inside a message"
        ),
        pytest.param(b"\x82\xff" + (1 << 63 | 5).to_bytes(8, "big") + b"mask", 1002, id="top bit of the length"),
        pytest.param(b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"mask", 1009, id="length of 2^62"),
        pytest.param(b"\x82\xfe\x00\x7d" + b"mask", 1002, id="16-bit length for 125"),
        pytest.param(b"\x82\xff" + (65535).to_bytes(8, "big") + b"mask", 1002, id="64-bit length for 65535"),
        pytest.param(masked_frame(TEXT, b"\xff"), 1007, id="no UTF-8"),
        pytest.param(masked_frame(TEXT, b"\xed\xa0\x80"), 1007, id="a surrogate"),
        pytest.param(masked_frame(TEXT, b"\xc0\xaf"), 1007, id="overlong"),
        pytest.param(masked_frame(TEXT, b"\xf4\x90\x80\x80"), 1007, id="above U+10FFFF"),
        pytest.param(masked_frame(TEXT, "\u20ac".encode()[:2]), 1007, id="text that ends inside a character"),
        pytest.param(masked_frame(CLOSE, b"\x03"), 1002, id="half a close code"),
        *(
            pytest.param(close_frame(code), 1002, id=f"close code {code} (§7.4)")
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
        ),
        pytest.param(masked_frame(CLOSE, b"\x03\xe8\xff"), 1007, id="close reason is no UTF-8"),
    ],
)
def test_what_the_rfc_forbids_is_refused(data: bytes, code: int) -> None:
    assert refusal(data) == code
    assert events(data, list(range(len(data))))[-1] == (-1, str(code).encode())


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999])
def test_close_codes_of_the_registry_and_of_applications_pass(code: int) -> None:
    assert events(close_frame(code, "why")) == [(CLOSE, code.to_bytes(2, "big") + b"why")]


def test_bad_text_is_refused_at_the_byte_that_makes_it_bad() -> None:
    """Fail fast: neither the rest of the frame nor the rest of the message is awaited."""
    decoder = FrameDecoder(1 << 20)
    decoder.feed(masked_frame(TEXT, b"good so far \xe2\x82", final=False))
    assert decoder.next_event() is None
    decoder.feed(masked_frame(CONTINUATION, b"\x28" + b"x" * 100)[:7])
    with pytest.raises(ProtocolError) as caught:
        decoder.next_event()
    assert caught.value.close_code == 1007


def test_a_length_is_judged_before_its_bytes_are_here() -> None:
    assert refusal(masked_frame(BINARY, b"x" * 200)[:8], max_size=199) == 1009
    assert events(masked_frame(BINARY, b"x" * 199), max_size=199) == [(BINARY, b"x" * 199)]


def test_fragments_count_together_against_the_limit() -> None:
    data = masked_frame(BINARY, b"x" * 100, final=False) + masked_frame(CONTINUATION, b"y" * 100)
    assert refusal(data, max_size=199) == 1009
    assert events(data, max_size=200) == [(BINARY, b"x" * 100 + b"y" * 100)]


def test_nothing_comes_after_a_refusal() -> None:
    decoder = FrameDecoder(100)
    decoder.feed(b"\x81\x02hi" + masked_frame(TEXT, b"later"))
    for _ in range(2):
        with pytest.raises(ProtocolError):
            decoder.next_event()


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmasking_is_the_xor_of_the_rfc(payload: bytes, key: bytes) -> None:
    data = bytearray(payload)
    unmask(data, key)
    assert bytes(data) == bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def test_a_masking_key_has_four_bytes() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        unmask(bytearray(b"x"), b"abc")


@given(st.binary(max_size=40))
def test_is_text_agrees_with_python(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        assert not is_text(data)
    else:
        assert is_text(data)


@given(st.text(max_size=40), st.integers(0, 100), st.binary(max_size=2))
def test_is_text_agrees_with_python_near_to_text(text: str, at: int, dirt: bytes) -> None:
    data = text.encode("utf-8", "surrogatepass")
    test_is_text_agrees_with_python.hypothesis.inner_test(data[:at] + dirt + data[at:])  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_encoded_frames_are_understood_by_another_implementation(size: int) -> None:
    peer = Peer(ConnectionType.CLIENT)
    payload = b"\xfe" * size
    peer.receive_data(encode_frame(payload, BINARY))
    received = b"".join(event.data for event in peer.events() if isinstance(event, BytesMessage))
    assert received == payload


def test_control_payloads_have_at_most_125_bytes() -> None:
    assert encode_frame(b"x" * 125, PING) == b"\x89\x7d" + b"x" * 125
    with pytest.raises(ValueError, match="126 bytes"):
        encode_frame(b"x" * 126, PING)


def test_close_payloads() -> None:
    assert encode_close(1000, "bye") == b"\x03\xe8bye"
    assert parse_close(b"\x03\xe8bye") == (1000, "bye")
    assert parse_close(b"") == (1005, "")
    for code in (0, 1005, 1006, 1015, 5000, 70_000, -1):
        with pytest.raises(ValueError, match="not allowed"):
            encode_close(code)
    with pytest.raises(ValueError, match="at most 123"):
        encode_close(1000, "\u20ac" * 42)


frames = st.builds(
    masked_frame,
    st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]),
    st.one_of(st.binary(max_size=140), st.text(max_size=40).map(str.encode)),
    final=st.booleans(),
    reserved=st.sampled_from([0] * 12 + [1, 4]),
)


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 400), max_size=4))
def test_random_frames_get_the_verdict_of_another_implementation(sequence: list[bytes], cuts: list[int]) -> None:
    data = b"".join(sequence)
    ours = events(data, [cut for cut in cuts if cut <= len(data)])
    peer = FrameProtocol(client=False, extensions=[])
    theirs: list[tuple[int, bytes]] = []
    message: list[bytes] = []
    first = 0
    try:
        peer.receive_bytes(data)
        for frame in peer.received_frames():
            payload = frame.payload
            if frame.opcode == CLOSE:
                theirs.append((CLOSE, b""))
                break
            if frame.opcode >= CLOSE:
                theirs.append((int(frame.opcode), bytes(payload)))
                continue
            first = first or int(frame.opcode)
            message.append(payload.encode() if isinstance(payload, str) else bytes(payload))
            if frame.message_finished:
                theirs.append((first, b"".join(message)))
                message, first = [], 0
    except ParseFailed as error:
        theirs.append((-1, str(int(error.code)).encode()))
    mine = [(kind, b"" if kind == CLOSE else payload) for kind, payload in ours]
    if (CLOSE, b"") in mine:
        mine = mine[: mine.index((CLOSE, b"")) + 1]
    assert mine == theirs


@given(st.lists(frames, max_size=4))
def test_every_cut_of_random_frames_gives_the_same_events(sequence: list[bytes]) -> None:
    data = b"".join(sequence)
    whole = events(data)
    for cut in range(len(data) + 1):
        assert events(data, [cut]) == whole
    assert events(data, list(range(len(data)))) == whole


@given(st.lists(frames, max_size=6), st.integers(0, 200), st.binary(max_size=12))
def test_random_frames_are_refused_at_the_byte_that_the_model_names(
    sequence: list[bytes], max_size: int, rest: bytes
) -> None:
    """Everything in front of that byte is still good; wsproto, which judges whole frames, cannot say so."""
    data = b"".join(sequence) + rest
    good, code, taken = verdict(data, max_size)
    assert events(data, max_size=max_size) == good + ([(-1, str(code).encode())] if code else [])
    assert (-1, str(code).encode()) not in events(data[: taken - 1], max_size=max_size)
