"""The large form of tests/e2e/test_hostile.py: see README.md beside this file."""

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.soak import (
    churn,
    fragments,
    greedy,
    handshakes,
    heads,
    herd,
    idle,
    keep,
    marks,
    names,
    noise,
    slow,
    vanishing,
    volume,
    waiting,
    windows,
)
from tests.support.fronts import Fronts
from tests.support.servers import RedisServer
from tests.support.site import Site, manage, serve, site_env

QUIET = {"LOGGING": {"version": 1, "disable_existing_loggers": False, "root": {"level": "WARNING"}}}
Figures = dict[str, Any]


class Soak:
    """The servers of a run, and its parts: each method whose name is a part's returns figures, line by line."""

    def __init__(self, directory: Path, arguments: argparse.Namespace) -> None:
        self.directory = directory
        self.arguments = arguments
        self.seed: int = arguments.seed
        self.redis = RedisServer(directory)
        self.database = directory / "soak.sqlite3"
        manage(site_env(self.redis.url, self.database), "migrate", "-v0")

    @contextmanager
    def serving(self, **arguments: Any) -> Iterator[Callable[..., Site]]:
        """``served(settings={…}, …)``: sites that are stopped at the end, with these arguments unless told other."""
        sites: list[Site] = []

        def served(**others: Any) -> Site:
            self.redis.client.flushall()
            sites.append(serve(self.directory, self.redis, self.database, **{**arguments, **others}))
            return sites[-1]

        try:
            yield served
        finally:
            for site in sites:
                site.close_clients()
                site.uwsgi.stop()

    def slow(self) -> Iterator[Figures]:
        with self.serving(options=slow.OPTIONS) as served:
            yield slow.queue_limit(served(), self.arguments.slow_messages)
            yield slow.latencies(served(), rounds=20, messages=1500)

    def vanishing(self) -> Iterator[Figures]:
        with self.serving() as served:
            yield vanishing.ways_to_go(served)
            yield vanishing.ways_to_go(served, interval=3.0, timeout=2.0)

    def marks(self) -> Iterator[Figures]:
        with self.serving() as served:
            yield marks.marked_messages(served(), 200, self.arguments.marks, self.seed)

    def noise(self) -> Iterator[Figures]:
        with self.serving(options=("--disable-logging",)) as served:
            yield noise.random_frames(served(), self.arguments.minutes * 60, self.seed, self.arguments.first)

    def fragments(self) -> Iterator[Figures]:
        with self.serving() as served:
            yield fragments.endless(served(), 50)
            yield fragments.one_byte_fragments(served(), 2000)

    def unfinished(self) -> Iterator[Figures]:
        with self.serving(settings=QUIET) as served:
            yield fragments.compressed_without_end(served(settings={**QUIET, **fragments.DEADLINE}), 500)
            yield fragments.unfinished(served(), 200, 64 << 20)

    def greedy(self) -> Iterator[Figures]:
        for kind in greedy.kinds():
            with self.serving(settings={**QUIET, **greedy.PINGS}, options=("--disable-logging",)) as served:
                yield greedy.beside(served(), kind, 100, 20)

    def volume(self) -> Iterator[Figures]:
        with handshakes.fronts(self.redis, self.database) as fronts:
            yield volume.through(fronts["nginx"], 100, 20)

    def herd(self) -> Iterator[Figures]:
        with self.serving(settings={**QUIET, **herd.SETTINGS}) as served:
            yield herd.herd(served(), 100, 400, 5)

    def waiting(self) -> Iterator[Figures]:
        with self.serving() as served:
            yield waiting.redis_away(served(), 100)

    def churn(self) -> Iterator[Figures]:
        with self.serving(settings=QUIET, options=("--disable-logging",)) as served:
            yield churn.churn(served(), self.arguments.connections, self.seed, warm_up=10_000)

    def handshakes(self) -> Iterator[Figures]:
        with handshakes.fronts(self.redis, self.database) as fronts:
            for name, site in fronts.items():
                yield {"behind": name, **handshakes.half_sent_handshakes(site, 500, 500, clients=100)}
        with self.serving() as served:
            for seconds in (1, 4):
                yield handshakes.bare_http_socket(served, seconds)

    def keep(self) -> Iterator[Figures]:
        for forwarded in (False, True):
            for addresses, workers in ((1, 1), (8, 1), (8, 2)):
                with self.serving(options=("--disable-logging",)) as served:
                    site = served(settings=keep.PROXY if forwarded else {}, workers=workers)
                    figures = keep.flood(site, self.arguments.keep, self.seed, addresses, forwarded=forwarded)
                    yield {"forwarded": "yes" if forwarded else "no", "workers": workers, **figures}

    def heads(self) -> Iterator[Figures]:
        with handshakes.fronts(self.redis, self.database) as fronts:
            for name, site in fronts.items():
                for count in (1200, 3000):
                    yield {"behind": name, **heads.dripping_heads(site, count, 25)}
                for count in (2, 20, 200, 1100):
                    yield {"behind": name, **heads.slow_uploads(site, count, 10)}

    def idle(self) -> Iterator[Figures]:
        with tempfile.TemporaryDirectory(prefix="uws4r-") as name:  # short: it is the path of Unix sockets
            fronts = Fronts(Path(name), self.redis, self.database)
            try:
                yield from idle.idle_behind(fronts.sites, self.arguments.idle)
            finally:
                fronts.stop()

    def windows(self) -> Iterator[Figures]:
        with self.serving() as served:
            yield windows.every_window(served(), 300)

    def names(self) -> Iterator[Figures]:
        with self.serving(settings=names.SETTINGS, options=names.OPTIONS) as served:
            yield names.new_names(served(), 20_000)

    def run(self, name: str) -> bool:
        """Run a part, print its lines; return whether every promise was kept."""
        begin = time.monotonic()
        try:
            for figures in getattr(self, name)():
                print(f"{name:<10}", ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
        except (AssertionError, OSError, EOFError) as error:
            print(f"{name:<10} FAILED after {time.monotonic() - begin:.0f} s: {error!r:.3000}", flush=True)
            return False
        return True


PARTS = (
    "slow", "vanishing", "marks", "noise", "fragments", "unfinished", "greedy", "volume", "herd", "waiting", "keep",
    "churn", "handshakes", "heads", "idle", "windows", "names",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="./build.sh soak", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"parts to run, all unless given: {', '.join(PARTS)}")
    parser.add_argument("--slow-messages", type=int, default=10_000, help="published beside a slow client")
    parser.add_argument("--marks", type=int, default=100_000, help="messages in fragments")
    parser.add_argument("--minutes", type=float, default=10.0, help="of random frames")
    parser.add_argument("--connections", type=int, default=100_000, help="opened and closed")
    parser.add_argument("--keep", type=float, default=60.0, help="seconds for which strangers flood Redis")
    parser.add_argument("--idle", type=float, default=330.0, help="seconds of websockets on which nothing happens")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="repeat a run")
    parser.add_argument("--first", type=int, default=0, help="number of the first connection with random frames")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="uws4r-soak-") as name:
        soak = Soak(Path(name), arguments)
        try:
            kept = [soak.run(part) for part in PARTS if part in (arguments.names or PARTS)]
        finally:
            soak.redis.close()
    sys.exit(not all(kept))


if __name__ == "__main__":
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    main()
