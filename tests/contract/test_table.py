"""The table of the contract in the documentation: every row is there, no cell is empty, each test exists."""

import ast
import re
from functools import cache

from tests.support.servers import ROOT
from uws4r.checks import RULES
from uws4r.conf import SETTINGS, conf
from uws4r.publisher import RedisPublisher
from uws4r.redis_store import RedisStore
from uws4r.subscriber import RedisSubscriber
from uws4r.testing import Published, WebsocketLiveServerTestCase

PAGE = ROOT / "docs" / "reference" / "ws4redis.md"

COUNTS = {"A": 14, "B": 5, "C": 4, "D": 7, "E": 3, "F": 2, "G": 8, "H": 4, "I": 3, "J": 7, "K": 5, "L": 6}
BUGS = {"S": 7, "D": 7, "E": 3, "P": 8, "R": 5, "B": 10, "J": 4}

# Tests of several rows, or of one that has no number, are named after what they show.
NAMED_OTHERWISE = re.compile(r"BUG-|F$|H\d|J\d")


def rows() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text().splitlines():
        if re.match(r"\| (?!row|---)", line):
            row, *cells = (cell.strip() for cell in line.strip().strip("|").split(" | "))
            assert row not in found, row
            found[row] = cells
    return found


@cache
def names_in(path: str) -> str:
    source = (ROOT / "tests" / path).read_text()
    if path.endswith(".js"):
        return source
    return "\n".join(node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))


def test_every_row_is_there() -> None:
    numbered = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
    bugs = [f"BUG-{letter}{number}" for letter, count in BUGS.items() for number in range(1, count + 1)]
    assert sorted(rows()) == sorted([*numbered, "F", *bugs])


def test_no_cell_is_empty() -> None:
    for row, cells in rows().items():
        assert len(cells) == 3, row
        assert all(cells), row


def test_each_row_names_a_test_that_exists() -> None:
    for row, (_, _, test) in rows().items():
        path, _, name = test.strip("`").partition("::")
        if path.endswith(".js"):
            assert f'it("{name}' in names_in(path), row
        else:
            assert name in names_in(path).splitlines(), row
        if not NAMED_OTHERWISE.match(row):
            assert re.match(rf"(test_)?{row}[_:]", name, re.IGNORECASE), f"{row}: {name}"


def test_each_tests_runs_in_the_whole_suite() -> None:
    """Nothing named in the table is left out by a mark that `./build.sh test` does not run."""
    for row, (_, _, test) in rows().items():
        path, _, name = test.strip("`").partition("::")
        source = (ROOT / "tests" / path).read_text()
        assert not re.search(rf"@pytest\.mark\.(skip|xfail)[^\n]*\n(@[^\n]*\n)*def {re.escape(name)}\(", source), row


# ---------------------------------------------------------------- the other references


def test_every_setting_is_in_its_reference_with_its_default_and_its_check() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)`(?: \*)? \| .* \| ([^|]*) \|$", page, re.M)
    documented = {(name, check) for name, cell in rows for check in re.findall(r"uws4r\.E\d+", cell)}
    assert documented == {(rule.name, rule.id) for rule in RULES}
    for name in SETTINGS:
        (default,) = re.findall(rf"^\| `{name}`(?: \*)? \| `(.*?)` \|", page, re.M)
        found = getattr(conf, name)
        assert (ast.literal_eval(default) or None) == (found or None) or name == "WS4REDIS_CONNECTION", name


def test_every_check_is_in_the_reference() -> None:
    source = "".join(path.read_text() for path in (ROOT / "uws4r").rglob("checks.py"))
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert set(re.findall(r'"(uws4r\.[EW]\d+)"', source)) == set(re.findall(r"`(uws4r\.[EW]\d+)`", page))


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    for owner in (RedisPublisher, RedisStore, RedisSubscriber, Published, WebsocketLiveServerTestCase):
        assert owner.__name__ in page
        for name in vars(owner):
            if not name.startswith(("_", "wants_", "server_thread")) and name not in ("setUp", "setUpClass"):
                assert name in page, f"{owner.__name__}.{name}"
