"""permessage-deflate (RFC 7692): what is agreed on, what comes in, what goes out."""

import os
import resource
import zlib
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage
from wsproto.extensions import PerMessageDeflate

from tests.support.wire import BINARY, CLOSE, PING, TEXT, deflated, inflated, masked_frame
from tests.unit import test_frames as frames
from uws4r._decoder import FrameDecoder
from uws4r._frames import encode_frame
from uws4r.errors import HandshakeError, ProtocolError
from uws4r.handshake import choose_compression

CONTINUATION = 0x0
RSV1 = 4
TEXT_OF_2000 = "many words of few letters, \u00e4nd some more of them. ".encode() * 40


events = partial(frames.events, deflate=True)


def packed_frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    return masked_frame(opcode, payload, reserved=0 if opcode == CONTINUATION else RSV1, final=final)


# ---------------------------------------------------------------- what is agreed on

BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
NARROW = f"{BOTH}; server_max_window_bits=9"


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("", None),
        ("permessage-deflate", BOTH),
        ("permessage-deflate; client_max_window_bits", BOTH),
        ("permessage-deflate; client_max_window_bits=10", BOTH),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", BOTH),
        ("permessage-deflate; server_max_window_bits=15", f"{BOTH}; server_max_window_bits=15"),
        *((f"permessage-deflate; server_max_window_bits={bits}", NARROW) for bits in range(9, 15)),
        ('permessage-deflate ; server_max_window_bits = "10"', NARROW),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=12", NARROW),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", BOTH),
        ("x-webkit-deflate-frame, permessage-deflate", BOTH),
        ("permessage-deflate; server_max_window_bits=7, permessage-deflate", BOTH),
        (", permessage-deflate ,", BOTH),
        ('other; a=b; c="d", permessage-deflate', BOTH),
        # Offers that have to be declined (§7.1).
        ("permessage-bzip2", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=08", None),
        ("permessage-deflate; server_max_window_bits=1e1", None),
        ("permessage-deflate; client_max_window_bits=16", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_no_context_takeover=true", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate; Server_max_window_bits=10", None),
    ],
)
def test_an_offer_has_its_answer(offer: str, answer: str | None) -> None:
    found = choose_compression({"HTTP_SEC_WEBSOCKET_EXTENSIONS": offer})
    assert (found and found.header) == answer
    assert found is None or found.window == int(found.header.partition("bits=")[2] or 15)


@pytest.mark.parametrize(
    "offer",
    ["permessage-deflate;", "permessage-deflate; a=", "a b", "a=b", '"a"', "a; b=c d", 'a; b="c', "\u00e4", "a; ;b"],
)
def test_an_offer_that_is_none_is_refused(offer: str) -> None:
    with pytest.raises(HandshakeError, match="list of extensions"):
        choose_compression({"HTTP_SEC_WEBSOCKET_EXTENSIONS": offer})


# ---------------------------------------------------------------- what comes in


@pytest.mark.parametrize("payload", [b"", b"x", TEXT_OF_2000, "\U0001f600".encode() * 5000])
@pytest.mark.parametrize("window", [9, 12, 15])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_compressed_message(payload: bytes, window: int, level: int) -> None:
    packed = deflated(payload, window, level)
    assert events(packed_frame(TEXT, packed) * 2 + masked_frame(TEXT, b"plain")) == [
        (TEXT, payload), (TEXT, payload), (TEXT, b"plain"),
    ]  # fmt: skip


def test_every_cut_gives_the_same_events() -> None:
    packed = deflated(TEXT_OF_2000)
    data = (
        packed_frame(TEXT, packed[:10], final=False)
        + masked_frame(PING, b"in between")
        + masked_frame(CONTINUATION, b"", final=False)
        + masked_frame(CONTINUATION, packed[10:])
        + packed_frame(BINARY, deflated(b"\0" * 1000))
        + masked_frame(TEXT, b"plain")
    )
    whole = [(PING, b"in between"), (TEXT, TEXT_OF_2000), (BINARY, b"\0" * 1000), (TEXT, b"plain")]
    for cut in range(len(data) + 1):
        assert events(data, (cut,)) == whole
    assert events(data, tuple(range(len(data)))) == whole


@pytest.mark.parametrize(
    ("packed", "payload"),
    [
        pytest.param(b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"Hello", id="§7.2.3.1"),
        pytest.param(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello", id="§7.2.3.3, not compressed"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello", id="§7.2.3.4, a final block"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00", b"Hello", id="a final block and nothing behind it"),
        pytest.param(b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello", id="§7.2.3.5, two blocks"),
        pytest.param(b"\x00", b"", id="§7.2.3.6, empty"),
        pytest.param(b"", b"", id="empty without a block"),
    ],
)
def test_the_examples_of_the_rfc(packed: bytes, payload: bytes) -> None:
    for cut in range(len(packed) + 7):
        assert events(packed_frame(TEXT, packed), (cut,)) == [(TEXT, payload)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(masked_frame(PING, b"", reserved=RSV1), 1002, id="a control frame"),
        pytest.param(masked_frame(CLOSE, b"", reserved=RSV1), 1002, id="a close frame"),
        pytest.param(
            masked_frame(TEXT, b"a", final=False) + masked_frame(CONTINUATION, b"a", reserved=RSV1), 1002,
            id="a continuation",
        ),
        pytest.param(masked_frame(TEXT, b"a", reserved=2), 1002, id="RSV2"),
        pytest.param(masked_frame(TEXT, b"a", reserved=RSV1 | 1), 1002, id="RSV1 and RSV3"),
        pytest.param(packed_frame(TEXT, b"\xff\xff\xff"), 1007, id="not deflate"),
        pytest.param(packed_frame(TEXT, b"\x05\x00\x00"), 1007, id="a dictionary that is too short"),
        pytest.param(packed_frame(TEXT, deflated(TEXT_OF_2000)[:-4]), 1007, id="ends inside a block"),
        pytest.param(packed_frame(TEXT, deflated(TEXT_OF_2000, level=0)[:-5]), 1007, id="ends inside a stored block"),
        pytest.param(packed_frame(TEXT, b"\x02\x0e\x00"), 1007, id="refers to the message before"),
        pytest.param(packed_frame(TEXT, deflated(b"a\xff")), 1007, id="no UTF-8"),
        pytest.param(packed_frame(TEXT, deflated("\u20ac".encode()[:2])), 1007, id="ends inside a character"),
    ],
)  # fmt: skip
def test_what_is_refused(data: bytes, code: int) -> None:
    good = packed_frame(TEXT, deflated(b"good"))
    for cut in range(len(data) + len(good)):
        assert events(good + data + good, (cut,)) == [(TEXT, b"good"), (-1, str(code).encode())]


def test_without_an_agreement_the_bit_is_reserved() -> None:
    decoder = FrameDecoder(1000)
    decoder.feed(packed_frame(TEXT, deflated(b"hello")))
    with pytest.raises(ProtocolError, match="reserved") as caught:
        decoder.next_event()
    assert caught.value.close_code == 1002


def test_nothing_is_inflated_before_the_message_is_whole() -> None:
    compressor = zlib.compressobj(wbits=-15)
    bad = compressor.compress(b"\xff" * 1000) + compressor.flush(zlib.Z_SYNC_FLUSH)
    decoder = FrameDecoder(1 << 20, deflate=True)
    decoder.feed(packed_frame(TEXT, bad, final=False))
    assert decoder.next_event() is None
    decoder.feed(masked_frame(CONTINUATION, b""))
    with pytest.raises(ProtocolError, match="UTF-8"):
        decoder.next_event()


@pytest.mark.parametrize("limit", [1, 63, 64, 65, 1000, 4096])
def test_the_limit_is_that_of_what_it_becomes(limit: int) -> None:
    for payload in (b"a" * limit, os.urandom(limit)):
        packed = packed_frame(BINARY, deflated(payload))
        assert events(packed, max_size=limit) == [(BINARY, payload)]
        if limit > 1:
            assert events(packed, max_size=limit - 1) == [(-1, b"1009")]


def test_what_is_compressed_without_end_is_refused() -> None:
    nothing = b"\0\0\0\xff\xff" * 100  # blocks that stand for no byte
    frame = masked_frame(TEXT, nothing, reserved=RSV1, final=False)
    more = masked_frame(CONTINUATION, nothing, final=False)
    assert events(frame + more * 10, max_size=1000) == [(-1, b"1009")]
    announced = b"\xc1\xff" + (1 << 40).to_bytes(8, "big") + b"mask"
    assert events(announced, max_size=1000) == [(-1, b"1009")]


def test_a_bomb_costs_no_more_than_the_limit() -> None:
    zeros = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(zeros.compress(bytes(1 << 20)) for _ in range(512)) + zeros.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 1 << 20
    data = packed_frame(BINARY, bomb[:-4])
    del zeros
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert events(data, max_size=1 << 20) == [(-1, b"1009")]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB


payloads = st.one_of(
    st.binary(max_size=3000), st.builds(lambda one, times: one * times, st.binary(max_size=20), st.integers(0, 1000))
)


@given(payloads, st.integers(0, 9), st.integers(9, 15), st.lists(st.integers(0, 200), max_size=5), st.data())
def test_any_message_in_any_pieces(
    payload: bytes, level: int, window: int, pieces: list[int], data: st.DataObject
) -> None:
    packed = deflated(payload, window, level)
    edges = sorted({0, len(packed), *(min(piece, len(packed)) for piece in pieces)})
    parts = [packed[start:end] for start, end in pairwise(edges)] or [b""]
    wire = b"".join(
        packed_frame(CONTINUATION if number else BINARY, part, final=number == len(parts) - 1)
        for number, part in enumerate(parts)
    )
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=5))
    assert events(wire, tuple(cuts)) == [(BINARY, payload)]


@given(st.binary(max_size=300))
def test_any_bytes_are_inflated_as_zlib_does(packed: bytes) -> None:
    ((kind, found),) = events(packed_frame(BINARY, packed), max_size=100_000)
    decompressor = zlib.decompressobj(-15)
    try:
        expected = decompressor.decompress(packed + b"\0\0\xff\xff", 100_001)
    except zlib.error:
        expected = None
    if kind == BINARY and expected is not None and not decompressor.eof:
        assert found == expected
    elif kind == BINARY:
        assert decompressor.eof or not packed  # what is behind a final block is another stream for zlib
    elif expected is not None and not decompressor.eof:
        assert found in (b"1007", b"1009")  # zlib does not tell that a message ends in the middle


# ---------------------------------------------------------------- what goes out


def payload_of(frame: bytes) -> bytes:
    return frame[2 if frame[1] < 126 else 4 if frame[1] == 126 else 10 :]


@pytest.mark.parametrize("window", [9, 15])
@pytest.mark.parametrize(
    "payload",
    [TEXT_OF_2000, os.urandom(400) * 2, (b"x" * 300 + b"y") * 300, bytes(100_000)],
    ids=["text", "far", "runs", "0"],
)
def test_it_is_inflated_within_the_window(window: int, payload: bytes) -> None:
    frame = encode_frame(payload, TEXT, window)
    if frame[0] == 0xC1:
        assert len(frame) < len(payload)
        assert inflated(payload_of(frame), window) == payload
    else:
        assert window == 9
        assert frame == encode_frame(payload)


def test_what_would_not_be_shorter_goes_out_as_it_is() -> None:
    for payload in (b"", b"a", b"abc", os.urandom(10_000)):
        assert encode_frame(payload, BINARY, 15) == encode_frame(payload, BINARY)


@given(st.lists(payloads, min_size=1, max_size=3), st.integers(9, 15))
def test_a_peer_understands_it_and_is_understood(messages: list[bytes], asked: int) -> None:
    extension = PerMessageDeflate(server_max_window_bits=asked)
    offer = f"permessage-deflate; {extension.offer()}"
    compression = choose_compression({"HTTP_SEC_WEBSOCKET_EXTENSIONS": offer})
    assert compression is not None
    assert compression.window == (15 if asked == 15 else 9)
    extension.finalize(compression.header)
    peer = Connection(ConnectionType.CLIENT, [extension])
    for message in messages:
        peer.receive_data(encode_frame(message, BINARY, compression.window))
    assert b"".join(bytes(event.data) for event in peer.events() if isinstance(event, BytesMessage)) == b"".join(
        messages
    )
    sent = b"".join(peer.send(BytesMessage(message)) for message in messages)
    assert events(sent) == [(BINARY, message) for message in messages]


def test_only_messages_are_compressed() -> None:
    with pytest.raises(ValueError, match="control frames"):
        encode_frame(b"", PING, 15)
    with pytest.raises(ValueError, match="9 or 15"):
        encode_frame(b"", TEXT, 12)
