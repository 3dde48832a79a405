"""The envelope: only where raw bytes cannot say it, and never forged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uws4r._decoder import is_text
from uws4r._frames import unwrap, wrap

MAGIC = b"\x00u4\x01"
ids = st.none() | st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


def test_plain_messages_are_raw() -> None:
    assert wrap(b"hello") == b"hello"
    assert wrap(b"\xff\xfe") == b"\xff\xfe"
    assert wrap(b"\xff\xfe", True) == b"\xff\xfe"
    assert unwrap(b"hello") == (b"hello", True, None)
    assert unwrap(b"\xff\xfe") == (b"\xff\xfe", False, None)


def test_binary_that_is_valid_text_is_wrapped() -> None:
    assert wrap(b"hello", True) == MAGIC + b"\x01hello"
    assert unwrap(MAGIC + b"\x01hello") == (b"hello", False, None)


@given(st.binary(max_size=40) | st.binary(max_size=20).map(MAGIC.__add__), st.booleans(), ids)
def test_what_is_wrapped_comes_back(payload: bytes, binary: bool, id: tuple[int, int] | None) -> None:
    text = is_text(payload) and not binary
    assert unwrap(wrap(payload, binary, id)) == (payload, text, id)


@given(st.binary(max_size=30))
def test_nobody_can_forge_an_envelope(rest: bytes) -> None:
    """A payload that itself begins with the magic bytes is wrapped, and comes back as it is."""
    payload, _, id = unwrap(wrap(MAGIC + rest))
    assert payload == MAGIC + rest
    assert id is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(MAGIC, id="nothing behind the magic"),
        pytest.param(MAGIC + b"\x04x", id="unknown flag"),
        pytest.param(MAGIC + b"\xff", id="all flags"),
        pytest.param(MAGIC + b"\x02" + b"\x00" * 15, id="half an id"),
        pytest.param(MAGIC + b"\x00\xff", id="text that is none"),
    ],
)
def test_what_is_not_exactly_an_envelope_is_plain_binary(data: bytes) -> None:
    assert unwrap(data) == (data, False, None)


@given(st.binary(max_size=60))
def test_anything_can_be_unwrapped(data: bytes) -> None:
    payload, text, _ = unwrap(data)
    assert data.endswith(payload)
    assert not text or is_text(payload)
