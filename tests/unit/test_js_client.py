"""The browser client: its own tests (``npm test`` in ``tests/js``), and the file made of it for old pages."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ROOT

JS = ROOT / "tests" / "js"
INSTALLED = JS / "node_modules" / ".package-lock.json"


def run(*command: str | Path, cwd: Path = JS, timeout: float = 120) -> None:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def mocha() -> Path:
    """The test runner, installed when it is missing or older than what the lock file says."""
    locked = JS / "package-lock.json"
    with locked.open() as only_one:
        fcntl.flock(only_one, fcntl.LOCK_EX)  # of the processes that run tests
        if not INSTALLED.exists() or INSTALLED.stat().st_mtime < locked.stat().st_mtime:
            run("npm", "ci", "--no-audit", "--no-fund", timeout=300)
    return JS / "node_modules" / ".bin" / "mocha"


@pytest.mark.parametrize("file", sorted(JS.glob("*.test.js")), ids=lambda file: file.name.removesuffix(".test.js"))
def test_behaviour(mocha: Path, file: Path) -> None:
    run(mocha, "--reporter", "dot", "--no-color", file.name)


def test_ws4redis_js_is_up_to_date() -> None:
    run(sys.executable, "js/build.py", "--check", cwd=ROOT)


def test_the_lock_file_names_no_registry() -> None:
    """Whoever installs asks the registry that he has configured."""
    assert '"resolved"' not in (JS / "package-lock.json").read_text()
