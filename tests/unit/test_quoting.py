"""What of a client's reaches the log, and how."""

import logging
import traceback
from collections.abc import Callable

import pytest

from uws4r.attachment import Identity
from uws4r.quoting import SHOWN, brief, harmless, shown

EVIL = "\x1b[31m\r\nERROR forged \u202e\ud800"
LONG = "x" * 30_000


@pytest.mark.parametrize("text", [EVIL, LONG, EVIL * 1000, "", "plain", "\u00e4" * 100])
def test_what_is_shown_is_one_short_line_of_ascii(text: str) -> None:
    line = shown(text)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= 10 * SHOWN + 5
    assert (line == ascii(text)) == (len(text) <= SHOWN)


def test_who_a_client_is_is_shortened_part_by_part() -> None:
    who = str(Identity.of("203.0.113.7", "john", "/ws/f"))
    assert brief(who) == who
    assert brief(str(Identity.of("203.0.113.7", LONG, "/ws/f"))) == f"203.0.113.7 {'x' * SHOWN}... /ws/f"
    assert len(brief(str(Identity.of(LONG, LONG, LONG)))) == 3 * (SHOWN + 3) + 2


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def failing(text: str) -> None:
    raise ValueError(text)


def wrapped(text: str) -> None:
    try:
        failing(text)
    except ValueError:
        raise KeyError("plain") from None


def caused(text: str) -> None:
    try:
        failing(text)
    except ValueError as error:
        raise RuntimeError("plain") from error


def in_a_circle(text: str) -> None:
    error = ValueError(text)
    raise error from error


def without_text(text: str) -> None:
    raise Unspeakable(text)


@pytest.mark.parametrize("raises", [failing, caused, wrapped, in_a_circle, without_text])
@pytest.mark.parametrize("text", [EVIL, LONG])
def test_a_traceback_repeats_nothing_as_it_came(raises: Callable[[str], None], text: str) -> None:
    try:
        raises(text)
    except Exception as error:
        logged = "".join(traceback.format_exception(harmless(error)))
        name = type(error).__name__
    assert "\x1b" not in logged
    assert "\nERROR" not in logged
    assert "x" * (SHOWN + 1) not in logged
    assert name in logged
    assert f", in {raises.__name__}\n" in logged


def test_what_is_harmless_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError) as caught:
        caused("also plain")
    assert harmless(caught.value) is caught.value
    logging.getLogger("uws4r.test").error("it failed", exc_info=harmless(caught.value))
    assert caplog.records[-1].exc_info is not None
    assert caplog.records[-1].exc_info[1] is caught.value
