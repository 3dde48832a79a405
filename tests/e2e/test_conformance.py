"""The cases of the Autobahn|Testsuite, those of compression left out (``./build.sh conformance`` runs them too)."""

from pathlib import Path

import pytest

from tests.conformance import tool
from tests.conformance.run import conformance

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECTIONS = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*")
# What Autobahn itself has, on data of all lengths, in pieces of all lengths.
COMPARE = """
import random
import fuzzer
from autobahn.websocket.utf8validator import Utf8Validator
from autobahn.websocket.xormasker import createXorMasker

dice = random.Random(6455)
for turn in range(3000):
    mask = dice.randbytes(4)
    maskers = fuzzer.Masker(mask), createXorMasker(mask, dice.choice((10, 1000)))
    validators = fuzzer.Utf8Validator(), Utf8Validator()
    text = "".join(chr(dice.choice((65, 0xE9, 0x20AC, 0x1F600))) for _ in range(20)).encode()
    data = bytearray(text)
    if turn % 2:
        data[dice.randrange(len(data))] = dice.randrange(256)
    while data:
        piece = bytes(data[: dice.randrange(1, 30)])
        del data[: len(piece)]
        ours, theirs = (masker.process(piece) for masker in maskers)
        assert ours == theirs
        assert maskers[0].pointer() == maskers[1].pointer()
        ours, theirs = (validator.validate(piece)[:2] for validator in validators)
        assert ours == theirs, (piece, ours, theirs)
        if not ours[0]:
            break
print("the same")
"""


@pytest.mark.parametrize("mode", ["detached", "native"])
def test_autobahn(tmp_path: Path, mode: str) -> None:
    verdict = conformance(tmp_path / "report", SECTIONS, limit=300, mode=mode)
    assert verdict.passed, str(verdict)
    ran = {section: sum(counts.values()) for section, counts in verdict.counts.items()}
    assert ran == {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}


def test_what_is_faster_than_autobahns_own_does_the_same() -> None:
    tool.provide()
    assert tool.run(tool.PYTHON, "-B", "-c", COMPARE, cwd=tool.HERE) == "the same\n"
