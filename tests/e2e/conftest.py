"""What only the end-to-end tests share."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runserver import RunServer, Runserver
from tests.support.servers import ROOT, RedisServer


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, with uws4r installed by the README's command; its ``bin``."""
    directory = tmp_path_factory.mktemp("installed")
    source = directory / "source"
    left = shutil.ignore_patterns(".git", ".venv", "node_modules", "build", "*.so", "*.c", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=left)
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    command = re.findall(r"^pip (install '[^']+')", (ROOT / "README.md").read_text(), re.MULTILINE)[0]
    pip = directory / "venv" / "bin" / "pip"
    done = subprocess.run(f"{pip} {command}", shell=True, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory / "venv" / "bin"


@pytest.fixture
def runserver(tmp_path: Path, redis_server: RedisServer, database: Path) -> Iterator[Runserver]:
    """``runserver("--option", settings={…})``: a server of the test's own."""
    servers: list[RunServer] = []

    def start(*options: str, redis: RedisServer | None = None, **arguments: Any) -> RunServer:
        redis_server.client.flushall()
        servers.append(RunServer(tmp_path, redis or redis_server, database, *options, **arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
        assert "Traceback" not in server.log
