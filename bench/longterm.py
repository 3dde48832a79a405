"""Whether a worker's memory grows under traffic: longer than the rest of the benchmark, and on its own."""

import subprocess
import time
from statistics import median

from bench.goals import Line
from bench.lab import HERE, Lab, progress
from tests.support.process import pss

EVERY = 5.0  # seconds between two looks
ALLOWED = 256.0  # KiB: what malloc gives back late


def no_growth(lab: Lab, minutes: float) -> list[Line]:
    """Fan-out, and clients who come and go; memory in the second quarter of the time and in the last."""
    with lab.uws4r() as uws4r:
        [pid] = uws4r.pids
        seconds = minutes * 60
        command = [
            HERE / "load", "--url", uws4r.url("bench"), "--redis", lab.redis.url.rpartition("/")[0], "--clients", 500,
            "--rate", 100, "--churn", 100, "--churn-path", "/ws/c{i}" + uws4r.query, "--seconds", seconds,
        ]  # fmt: skip
        load = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        begin, looks = time.monotonic(), []
        while load.poll() is None:
            time.sleep(min(EVERY, seconds / 40))
            looks.append(((time.monotonic() - begin) / seconds, pss(pid)))
            progress(".")
        said = load.communicate()[0]
        if load.returncode:
            lab.wrong.append(f"long run: {said}")
    second = median(size for at, size in looks if 0.25 <= at < 0.5)
    last = median(size for at, size in looks if 0.75 <= at < 1)
    note = f"{second:.0f} KiB in the second quarter, {last:.0f} in the last, {looks[0][1]} at first"
    return [Line(4, f"growth of the worker in {minutes:g} minutes", last - second, ALLOWED, False, "KiB", note)]
