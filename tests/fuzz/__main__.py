"""
``./build.sh fuzz``: all targets one after the other, or one target on files that it is to be run with.

Each target is a process of its own (:mod:`tests.fuzz.guided`): a finding ends it, and the others go on.
"""

import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = ROOT / "tests" / "fuzz" / "corpus"
WORK = ROOT / "build" / "fuzz"
TARGETS = sorted(path.name for path in SEEDS.iterdir())
# Asks for 64 MiB at once, or holds 2 GiB (mostly AddressSanitizer's): no input here may cost that much.
LIMITS = ("-timeout=20", "-malloc_limit_mb=64", "-rss_limit_mb=2048", "-max_len=2048")


@dataclass
class Result:
    target: str
    executions: int
    counters: int  # places in the compiled code that are counted
    coverage: int  # of those and of Python's, how many were reached
    findings: list[Path]


def environment() -> dict[str, str]:
    # The one library has both libFuzzer and AddressSanitizer; the extensions take what they need from it.
    runtime = Path(sysconfig.get_path("platlib")) / "asan_with_fuzzer.so"
    return {
        **os.environ,
        "LD_PRELOAD": str(runtime),
        # Leaks are looked for by ./build.sh sanitize; here Python's own would end the run.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # So that the ends of Python's bytes are guarded too.
        "PYTHONMALLOC": "malloc",
    }


def number(pattern: str, output: str) -> int:
    found = re.findall(pattern, output)
    return int(found[-1]) if found else 0


def fuzz(target: str, seconds: int) -> Result:
    corpus, findings = WORK / "corpus" / target, WORK / "findings" / target
    for directory in (corpus, findings):
        directory.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    log = WORK / f"{target}.log"
    with log.open("w") as output:
        status = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.guided", target, f"-max_total_time={seconds}", *LIMITS,
                "-print_final_stats=1", f"-artifact_prefix={findings}/", corpus, SEEDS / target,
            ],
            env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False,
        ).returncode  # fmt: skip
    said = log.read_text(errors="replace")
    found = sorted(set(findings.iterdir()) - before)
    if status:
        # Neither libFuzzer's progress, nor how Python came to call the target.
        noise = re.compile(r"#\d+\t|INFO: |\tNEW_FUNC|    #(1[6-9]|[2-9]\d|\d{3}) ")
        print("\n".join(line for line in said.splitlines() if not noise.match(line))[-10_000:])
        print(f"{target}: ended with {status}; all that it said is in {log.relative_to(ROOT)}")
    for path in found:
        print(f"{target}: a finding; see it again with: ./build.sh fuzz {target} {path.relative_to(ROOT)}")
    return Result(
        target,
        number(r"stat::number_of_executed_units: (\d+)", said),
        number(r"\((\d+) inline 8-bit counters\)", said),
        number(r" cov: (\d+)", said),
        found if found or not status else [log],
    )


def main() -> None:
    what, *files = sys.argv[1:] or ["60"]
    if what in TARGETS and files:
        command = [sys.executable, "-m", "tests.fuzz.guided", what, *files]
        sys.exit(subprocess.run(command, env=environment(), check=False).returncode)
    if not what.isdecimal() or files:
        sys.exit(f"usage: ./build.sh fuzz [SECONDS], or a target ({', '.join(TARGETS)}) and files")
    seconds = max(1, int(what) // len(TARGETS))
    results = []
    for target in TARGETS:
        print(f"{target}: {seconds} s", flush=True)
        results.append(fuzz(target, seconds))
    print(f"\n{'target':10}{'executions':>14}{'reached':>10}{'C counters':>12}{'findings':>10}")
    for result in results:
        print(
            f"{result.target:10}{result.executions:14,}{result.coverage:10,}{result.counters:12,}"
            f"{len(result.findings):10}"
        )
    sys.exit(any(result.findings for result in results))


if __name__ == "__main__":
    main()
