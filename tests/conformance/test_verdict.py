"""The verdict on made-up reports: each thing that may not be fails a run by itself."""

import pytest

from tests.conformance.verdict import Verdict, judge

LOG = "spawned uWSGI worker 1 (pid: 7, cores: 1)\nINFO uws4r.hub #1 127.0.0.1 - /ws/echo closed: 1000 ''\n"
CASES = ["1.1.1", "1.1.2", "6.4.1", "7.1.6", "7.13.1", "7.13.2", "9.1.1", "10.1.1", "12.1.1", "13.7.18"]


def entry(behavior: str = "OK", closing: str = "OK") -> dict[str, str]:
    return {"behavior": behavior, "behaviorClose": closing, "reportfile": "report.html"}


def report() -> dict[str, dict[str, str]]:
    """Of a run that passes."""
    informational = entry("INFORMATIONAL", "INFORMATIONAL")
    return {case: informational if case in ("7.1.6", "7.13.1", "7.13.2") else entry() for case in CASES}


def verdict_with(case: str, behavior: str = "OK", closing: str = "OK") -> Verdict:
    return judge({**report(), case: entry(behavior, closing)}, CASES, LOG)


def test_a_run_without_a_fault_passes() -> None:
    verdict = judge(report(), CASES, LOG)
    assert verdict.passed
    assert verdict.problems == ()
    assert verdict.counts["7"] == {"INFORMATIONAL": 3}
    assert verdict.counts["12"] == {"OK": 1}


@pytest.mark.parametrize("behavior", ["FAILED", "NON-STRICT", "UNIMPLEMENTED", "INFORMATIONAL", "NO_CLOSE"])
@pytest.mark.parametrize("case", ["1.1.1", "6.4.1", "12.1.1", "13.7.18"])
def test_a_case_that_is_not_ok_fails_the_run_and_is_named(case: str, behavior: str) -> None:
    verdict = verdict_with(case, behavior)
    assert not verdict.passed
    assert verdict.problems == (f"{case} {behavior}: report.html",)


@pytest.mark.parametrize("closing", ["FAILED", "UNCLEAN", "WRONG CODE", "FAILED BY CLIENT", "INFORMATIONAL"])
def test_a_case_that_is_ok_and_closes_badly_fails_the_run(closing: str) -> None:
    verdict = verdict_with("1.1.2", "OK", closing)
    assert verdict.unclean == 1
    assert verdict.problems == (f"1.1.2 OK, closed: {closing}: report.html",)


@pytest.mark.parametrize("case", ["7.1.6", "7.13.1", "7.13.2"])
def test_the_informational_cases_fail_the_run_by_anything_else(case: str) -> None:
    assert verdict_with(case).passed
    assert not verdict_with(case, "FAILED", "INFORMATIONAL").passed
    assert not verdict_with(case, "INFORMATIONAL", "UNCLEAN").passed


@pytest.mark.parametrize("case", CASES)
def test_a_missing_case_fails_the_run(case: str) -> None:
    results = report()
    del results[case]
    verdict = judge(results, CASES, LOG)
    assert verdict.problems == (f"{case} MISSING",)
    assert verdict.counts[case.split(".")[0]]["MISSING"] == 1


def test_a_run_of_nothing_fails() -> None:
    assert not judge({}, [], LOG).passed


@pytest.mark.parametrize(
    "line",
    [
        "!!! uWSGI process 7 got Segmentation Fault !!!",
        "DAMN ! worker 1 (pid: 7) died, killed by signal 11 :( trying respawn ...",
        "DAMN ! worker 1 (pid: 7) died :( trying respawn ...",
        "Respawned uWSGI worker 1 (new pid: 8)",
    ],
)
def test_a_worker_that_dies_fails_the_run(line: str) -> None:
    verdict = judge(report(), CASES, f"{LOG}{line}\n")
    assert verdict.deaths == 1
    assert verdict.problems == ("worker deaths: 1",)


def test_a_death_and_the_worker_in_its_place_are_one() -> None:
    lines = "DAMN ! worker 1 (pid: 7) died :( trying respawn ...\nRespawned uWSGI worker 1 (new pid: 8)\n"
    assert judge(report(), CASES, LOG + lines * 3).deaths == 3


def test_a_traceback_fails_the_run() -> None:
    verdict = judge(report(), CASES, f"{LOG}Traceback (most recent call last):\n")
    assert verdict.problems == ("tracebacks: 1",)


def test_what_it_prints() -> None:
    lines = str(judge({**report(), "12.1.1": entry("UNIMPLEMENTED")}, ["1.1.1", "7.1.6", "12.1.1"], LOG)).splitlines()
    assert lines[0].split() == ["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED", "MISSING"]
    assert [line.split()[-6:] for line in lines[1:5]] == [
        ["1", "0", "0", "0", "0", "0"],
        ["0", "0", "1", "0", "0", "0"],
        ["0", "0", "0", "1", "0", "0"],
        ["1", "0", "1", "1", "0", "0"],
    ]
    assert lines[5:] == [
        "unclean closes: 0, worker deaths: 0, tracebacks: 0",
        "12.1.1 UNIMPLEMENTED: report.html",
        "FAILED",
    ]
