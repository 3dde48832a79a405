"""
Whether a run has passed: nothing but OK counts, every case has to be there, and no worker has died.

Autobahn itself is milder: to it an UNIMPLEMENTED case is no failure, and what a worker took with it that died in the
middle of a case can look like a connection that was closed as it should be.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.servers import SIGNS_OF_DEATH

OK, INFORMATIONAL = "OK", "INFORMATIONAL"
COLUMNS = (OK, "NON-STRICT", INFORMATIONAL, "UNIMPLEMENTED", "FAILED", "MISSING")
# Autobahn calls these so whatever the server does: RFC 6455 does not say what is right.
ONLY_INFORMATIONAL = frozenset({"7.1.6", "7.13.1", "7.13.2"})
SECTIONS = {
    "1": "Framing",
    "2": "Pings and pongs",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragmentation",
    "6": "UTF-8",
    "7": "Closing",
    "9": "Limits and speed",
    "10": "Auto-fragmentation",
    "12": "Compression: payloads",
    "13": "Compression: parameters",
}


@dataclass(frozen=True)
class Verdict:
    """What a run came to."""

    counts: Mapping[str, Counter[str]]  # section -> how many cases of each behavior
    unclean: int  # cases whose connection was not closed as RFC 6455 has it
    deaths: int  # of workers
    tracebacks: int  # in uWSGI's log
    problems: tuple[str, ...]  # one line for each

    @property
    def passed(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        width = max(len(f"{number} {title}") for number, title in SECTIONS.items())
        lines = [" " * width + "".join(f"  {column}" for column in COLUMNS)]
        for number, count in [*self.counts.items(), ("all", sum(self.counts.values(), Counter()))]:
            cells = "".join(f"{count[column]:>{len(column) + 2}}" for column in COLUMNS)
            lines.append(f"{number} {SECTIONS.get(number, '')}".ljust(width) + cells)
        lines.append(f"unclean closes: {self.unclean}, worker deaths: {self.deaths}, tracebacks: {self.tracebacks}")
        return "\n".join([*lines, *self.problems, "passed" if self.passed else "FAILED"])


def judge(results: Mapping[str, Mapping[str, Any]], expected: Iterable[str], log: str) -> Verdict:
    """
    Judge a run.

    Args:
        results: Case -> its entry in Autobahn's ``index.json``.
        expected: The cases that were to be run.
        log: What uWSGI has said.
    """
    counts: dict[str, Counter[str]] = {}
    problems = []
    unclean = 0
    for case in expected:
        result = results.get(case, {"behavior": "MISSING", "behaviorClose": OK})
        behavior, closing = result["behavior"], result["behaviorClose"]
        counts.setdefault(case.split(".")[0], Counter())[behavior if behavior in COLUMNS else "FAILED"] += 1
        good = {OK, INFORMATIONAL} if case in ONLY_INFORMATIONAL else {OK}
        if closing not in good:
            unclean += 1
        if behavior not in good or closing not in good:
            said = behavior if closing in good else f"{behavior}, closed: {closing}"
            where = f": {result['reportfile']}" if "reportfile" in result else ""
            problems.append(f"{case} {said}{where}")
    if not counts:
        problems.append("no cases")
    deaths = max(log.count(sign) for sign in SIGNS_OF_DEATH)
    if deaths:
        problems.append(f"worker deaths: {deaths}")
    tracebacks = log.count("Traceback (most recent call last)")
    if tracebacks:
        problems.append(f"tracebacks: {tracebacks}")
    return Verdict(counts, unclean, deaths, tracebacks, tuple(problems))
