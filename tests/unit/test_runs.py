"""Copies of one publish are recognised by their place on the link."""

import pytest

from uws4r._frames import Runs


@pytest.fixture
def runs() -> Runs:
    return Runs()


def test_neighbours_with_equal_bytes_are_copies(runs: Runs) -> None:
    first = runs.push(b"user:john:f", "f", b"m", True, 1.0)
    assert runs.push(b"broadcast:f", "f", b"m", True, 1.001) == first


@pytest.mark.parametrize(
    "second",
    [
        pytest.param((b"user:john:f", "f", b"m", True, 1.0), id="the same channel again"),
        pytest.param((b"broadcast:g", "g", b"m", True, 1.0), id="another facility"),
        pytest.param((b"broadcast:f", "f", b"n", True, 1.0), id="other bytes"),
        pytest.param((b"broadcast:f", "f", b"m", False, 1.0), id="another type"),
        pytest.param((b"broadcast:f", "f", b"m", True, 1.021), id="more than 20 ms later"),
    ],
)
def test_anything_else_is_another_message(runs: Runs, second: tuple[bytes, str, bytes, bool, float]) -> None:
    first = runs.push(b"user:john:f", "f", b"m", True, 1.0)
    assert runs.push(*second) != first


def test_a_reply_ends_a_run(runs: Runs) -> None:
    first = runs.push(b"user:john:f", "f", b"m", True, 1.0)
    runs.end()
    assert runs.push(b"broadcast:f", "f", b"m", True, 1.0) != first


def test_a_channel_that_comes_back_ends_a_run_of_three(runs: Runs) -> None:
    numbers = [runs.push(name, "f", b"m", True, 1.0) for name in (b"a", b"b", b"c", b"a", b"b")]
    assert numbers == [numbers[0]] * 3 + [numbers[3]] * 2
    assert numbers[0] != numbers[3]
