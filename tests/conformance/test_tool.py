"""Making Python 3 of the Autobahn|Testsuite: a change that does not fit is an error."""

from pathlib import Path

import pytest

from tests.conformance import octets, tool
from tests.conformance.tool import Change, convert


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(f'print "{name}"\n')
    (tmp_path / "three.py").write_text("pass\n")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(Change("one.py", "^echo", ""), id="no match"),
        pytest.param(Change("*.py", "^echo", "", every=False), id="no match in any file"),
        pytest.param(Change("*.py", "^print", ""), id="not in every file"),
        pytest.param(Change("four.py", "^print", "", every=False), id="no file"),
    ],
)
def test_a_change_that_matches_nothing_is_an_error(
    package: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    monkeypatch.setattr(tool, "CHANGES", (change,))
    with pytest.raises(RuntimeError, match="nothing to change in"):
        convert(package)


def test_changes_are_made_in_their_order(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Change("*.py", r"^print (.*)$", r"print(\1)", every=False)
    monkeypatch.setattr(tool, "CHANGES", (first, Change("two.py", r'^print\("two"\)$', "print(2)")))
    convert(package)
    assert [path.read_text() for path in sorted(package.glob("*.py"))] == ['print("one")\n', "pass\n", "print(2)\n"]


def test_a_string_of_python_2_holds_octets() -> None:
    assert octets.octets("\xce\xba") == b"\xce\xba"
    assert octets.string(b"\xce\xba") == "\xce\xba"
    assert octets.hexlify("\xce\xba") == octets.hexlify(b"\xce\xba") == "ceba"
