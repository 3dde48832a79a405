"""Start the servers, measure, print the tables: ``./build.sh bench``; see README.md beside this file."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench import picture
from bench.goals import PARTS, Line
from bench.lab import Lab
from bench.longterm import no_growth
from bench.modes import COLUMNS as modes_columns
from bench.modes import compare_modes
from bench.peers import COLUMNS, PEERS, compare


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./build.sh bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join([*PARTS, 'peers'])}; all unless given")
    parser.add_argument("--peers", help=f"which of {', '.join(PEERS)}, with commas; all unless given")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each case; their median counts")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each")
    parser.add_argument("--quick", action="store_true", help="one round of half a second: does it all run?")
    parser.add_argument("--longterm", type=float, metavar="MINUTES", help="instead: does memory grow under traffic?")
    parser.add_argument("--modes", action="store_true", help="instead: the modes of serving, side by side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="and draw them, as SVG")
    told = parser.parse_args(arguments)
    told.parts = told.parts or [*PARTS, "peers"]
    for part in told.parts:
        if part not in PARTS and part != "peers":
            parser.error(f"no such part: {part}")
    told.peers = told.peers.split(",") if told.peers else list(PEERS)
    for peer in told.peers:
        if peer not in PEERS:
            parser.error(f"no such peer: {peer}")
    if told.quick:
        told.rounds, told.seconds = 1, 0.5
    return told


def number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 1000 else f"{value:.2f}".rstrip("0").rstrip(".")


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines)


def goals_table(lines: list[Line]) -> str:
    rows = [
        (
            str(line.goal),
            line.what,
            f"{number(line.value)} {line.unit}".rstrip(),
            ("≥ " if line.at_least else "≤ ") + number(line.mark),
            "met" if line.met else "NOT MET",
            line.note,
        )
        for line in lines
    ]
    return table(("", "goal", "measured", "mark", "", ""), rows)


def peers_table(peers: list[dict[str, Any]]) -> str:
    rows = [
        (peer["name"], *(number(peer[key]) if key in peer else "–" for key in COLUMNS))
        for peer in peers
        if "reason" not in peer
    ]
    missing = [f"{peer['name']} is missing: {peer['reason']}" for peer in peers if "reason" in peer]
    return "\n".join([table(("", *COLUMNS.values()), rows), *missing])


def modes_table(modes: list[dict[str, Any]]) -> str:
    rows = [tuple(each[key] if key == "mode" else number(each[key]) for key in modes_columns) for each in modes]
    return table(tuple(modes_columns.values()), rows)


def main() -> None:
    told = parsed(sys.argv[1:])
    begin = time.monotonic()
    figures: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "rounds": told.rounds, "seconds": told.seconds, "load_average": os.getloadavg(),
    }  # fmt: skip
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uws4r-bench-")))
        directory.chmod(0o755)
        lab = Lab(directory, told.rounds, told.seconds)
        stack.callback(lab.close)
        lines: list[Line] = []
        if told.modes:
            figures["modes"] = compare_modes(lab)
        elif told.longterm:
            lines += no_growth(lab, told.longterm)
        else:
            for part in told.parts:
                lines += PARTS[part](lab) if part != "peers" else []
            if "peers" in told.parts and not told.no_peers:
                figures["peers"], ahead = compare(lab, told.peers)
                lines += ahead
        figures["goals"] = [line.as_dict() for line in sorted(lines, key=lambda line: line.goal)]
        figures["wrong"], figures["wrong_peers"] = lab.wrong, lab.wrong_peers
        figures["others"] = {"median": median(lab.others or [0]), "most": max(lab.others or [0])}
    lines.sort(key=lambda line: line.goal)
    print("\n\n" + (modes_table(figures["modes"]) if told.modes else goals_table(lines)))
    if "peers" in figures:
        print("\n".join(["", peers_table(figures["peers"]), *figures["wrong_peers"]]))
    unmet = [line for line in lines if not line.met]
    others = figures["others"]
    print(f"\nother processes meanwhile: {others['median']:.2f} of a core (median), at most {others['most']:.2f}")
    met = "" if told.modes else f"{len(lines) - len(unmet)} of {len(lines)} met, "
    print(f"{met}after {(time.monotonic() - begin) / 60:.1f} minutes")
    if told.json:
        told.json.write_text(json.dumps(figures, indent=2))
    if told.picture:
        told.picture.write_text(picture.drawn(figures))
    for text in figures["wrong"]:
        print(f"WRONG: {text}", file=sys.stderr)
    if figures["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    main()
