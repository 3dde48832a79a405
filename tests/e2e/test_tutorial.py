"""The first tutorial, walked: every command and every file of the page, then what it promises, in a browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.support.browser import browsers
from tests.support.servers import ROOT, Process, free_port, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = ROOT / "docs" / "tutorial" / "first-message.md"
SERVE = "python manage.py runserver\n"
SHELL = "python manage.py shell\n"

# This machine may have a Redis at localhost:6379; the newcomer's has none.
NO_REDIS = "\nfrom uws4r import embedded_redis\nembedded_redis.DEFAULT = 'localhost', {port}\n"


class Block(NamedTuple):
    """A code block, and the words directly before it."""

    before: str
    language: str
    text: str


def blocks() -> list[Block]:
    found = re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*groups) for groups in found]


class Terminal:
    """Runs blocks of commands one after the other, as one shell would: directory and variables stay."""

    def __init__(self, home: Path, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # python3 is that of the tests
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
        }

    def run(self, commands: str, stdin: str = "") -> None:
        state = Path(self.environ["HOME"]) / "state"
        done = subprocess.run(
            ["sh", "-ec", f'{commands}\npwd > "{state}"\nenv -0 >> "{state}"'],
            cwd=self.directory,
            env=self.environ,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        directory, _, variables = state.read_text().partition("\n")
        self.directory = Path(directory)
        self.environ = dict(line.split("=", 1) for line in variables.split("\0") if line)

    def write(self, block: Block) -> None:
        """Do what the words before a file say."""
        (name,) = re.findall("`([^`]+)`", block.before)
        path = self.directory / name
        if block.before.startswith("Add to the end of"):
            path.write_text(path.read_text() + block.text)
        else:
            assert re.search(rf"\b[Ll]et `{re.escape(name)}` be:", block.before)
            path.write_text(block.text)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """In a checkout without anything built, with an empty home."""
    (tmp_path / "tmp").mkdir()
    left = shutil.ignore_patterns(".git", ".venv", "node_modules", "build", "*.so", "*.c", "*.egg-info")
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=left)
    return Terminal(tmp_path, tmp_path / "checkout")


@pytest.fixture
def windows() -> Iterator[tuple[Chrome, Chrome]]:
    with browsers() as start:
        yield start(), start()


def shows(window: Chrome, *messages: str) -> None:
    def items() -> list[str]:
        return [item.text for item in window.find_elements(By.CSS_SELECTOR, "body > ul > li")]

    wait_until(lambda: items() == list(messages), f"{messages}, not {items()}")


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.URLError:
        return False
    return True


def test_the_first_message(terminal: Terminal, windows: tuple[Chrome, Chrome], tmp_path: Path) -> None:
    steps = blocks()
    served = [block.text for block in steps].index(SERVE)
    for block in steps[:served]:
        if block.language == "sh":
            terminal.run(block.text)
        else:
            terminal.write(block)
    settings = terminal.directory / "mysite" / "settings.py"
    settings.write_text(settings.read_text() + NO_REDIS.format(port=free_port()))

    port = free_port()
    command = SERVE.replace("runserver", f"runserver {port}")
    environ = {**terminal.environ, "PYTHONUNBUFFERED": "1", "PYTHONDEVMODE": "", "PYTHONPATH": ""}
    server = Process(["sh", "-ec", f"cd {terminal.directory}\nexec {command}"], tmp_path / "runserver.log", environ)
    try:
        url = f"http://localhost:{port}/"
        server.wait_ready(lambda: answers(url))
        assert "unapplied migration" not in server.log
        for window in windows:
            window.get(url)
        one, two = windows
        one.find_element(By.NAME, "text").send_keys("it works")
        one.find_element(By.TAG_NAME, "button").click()
        for window in windows:
            shows(window, "it works")

        commands, code = steps[served + 1 :]
        said = re.findall(r"^export UWS4R_EMBEDDED_REDIS=(.*)$", commands.text, re.MULTILINE)
        (printed,) = re.findall(r"^Other processes of the site .*UWS4R_EMBEDDED_REDIS=(\S+)$", server.log, re.MULTILINE)
        assert commands.text.endswith(SHELL)
        terminal.run(commands.text.replace(said[0], printed), stdin=code.text)
        for window in windows:
            shows(window, "hello from the shell", "it works")

        two.refresh()
        shows(two, "hello from the shell")
    finally:
        server.stop(signal.SIGTERM)
    assert "Traceback" not in server.log
