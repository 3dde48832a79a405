"""Fails what can fail under websockets, and prints what became of them: see README.md beside this file."""

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import django

from tests.faults.scenes import Scene
from tests.faults.table import ROWS, Row, broken
from tests.support.servers import SITE
from tests.support.site import manage, site_env

HEAD = ("fault", "kept", "again s", "published", "delivered", "lost", "doubled", "zombies", "refused", "perhaps")
WIDTHS = (46, 9, 8, 10, 10, 6, 8, 8, 8, 8)


def line(*cells: object) -> str:
    return "".join(str(cell).ljust(width) if index == 0 else str(cell).rjust(width)
                   for index, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True)))  # fmt: skip


def attempt(row: Row, database: Path, clients: int, seed: int) -> bool:
    """Run a row, print its line; return whether every promise was kept."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="uws4r-faults-") as name:
        scene = Scene(Path(name), database, clients, seed)
        try:
            figures = row.run(scene)
        except Exception as error:  # the other rows are of interest all the same
            print(f"{row.what:<46} FAILED after {time.monotonic() - begin:.0f} s: {error!r:.2000}", flush=True)
            return False
        finally:
            scene.close()
    print(
        line(row.what, f"{figures.kept}/{figures.clients}", f"{figures.resubscribed:.2f}", figures.published,
             figures.delivered, figures.lost, figures.duplicated, figures.zombies, figures.refused, figures.perhaps),
        flush=True,
    )  # fmt: skip
    if figures.more:
        print("  " + ", ".join(f"{key} {value}" for key, value in figures.more.items()), flush=True)
    for promise in (found := broken(figures, row.limit)):
        print(f"  BROKEN: {promise}", flush=True)
    return not found


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="./build.sh faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows to run, all unless given: {', '.join(names)}")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="repeat a run")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    sys.path.insert(0, str(SITE))  # the publisher in this process has the site's settings
    os.environ["DJANGO_SETTINGS_MODULE"] = "testsite.settings"
    django.setup()
    del os.environ["DJANGO_SETTINGS_MODULE"]  # the servers get theirs from the scenes
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="uws4r-faults-") as name:
        database = Path(name) / "faults.sqlite3"
        manage(site_env("redis://localhost:1/0", database), "migrate", "-v0")
        print(f"{arguments.clients} websockets, seed {arguments.seed}\n{line(*HEAD)}", flush=True)
        rows = [row for row in ROWS if not arguments.names or row.name in arguments.names]
        kept = [attempt(row, database, arguments.clients, arguments.seed) for row in rows]
    sys.exit(not all(kept))


if __name__ == "__main__":
    main()
