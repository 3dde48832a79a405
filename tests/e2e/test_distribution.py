"""The shipped files in the distribution's own uWSGI, whose plugins are packages of their own."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import ROOT, SITE, RedisServer, Uwsgi, free_port, wait_until
from tests.support.site import Site, site_env

PROGRAM = Path("/usr/bin/uwsgi-core")
PYTHON = Path("/usr/bin/python3")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM.exists(), reason="needs uwsgi-core, which ./build.sh test installs on Debian"),
]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the front plugin, built for that uWSGI as run.md says."""
    directory = tmp_path_factory.mktemp("plugins")
    page = (ROOT / "docs" / "how-to" / "run.md").read_text()
    (line,) = (line for line in page.splitlines() if "plugin/build.py" in line and "--uwsgi" in line)
    command = line.partition("#")[0].replace("/usr/bin/uwsgi", str(PROGRAM)).split()
    assert command[0] == "python3"
    subprocess.run([PYTHON, *command[1:], directory], cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the distribution's Python, with uws4r installed as run.md says."""
    directory = tmp_path_factory.mktemp("distribution")
    left = shutil.ignore_patterns(".git", ".venv", "node_modules", "build", "*.so", "*.c", "*.egg-info")
    shutil.copytree(ROOT, directory / "checkout", ignore=left)
    subprocess.run([PYTHON, "-m", "venv", directory / "venv"], check=True)
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [directory / "venv" / "bin" / "pip", "install", "--quiet", directory / "checkout"]
    subprocess.run(command, check=True, env=environment)
    return directory / "venv"


@pytest.fixture
def environment(redis_server: RedisServer, database: Path, venv: Path, plugins: Path) -> Iterator[dict[str, str]]:
    redis_server.client.flushall()
    with tempfile.TemporaryDirectory(prefix="uws4r-") as run:  # short: it is the path of Unix sockets
        yield {
            **site_env(redis_server.url, database),
            "PYTHONPATH": str(SITE),
            "PYTHONDEVMODE": "",
            "VIRTUAL_ENV": str(venv),
            "UWS4R_HOST": "127.0.0.1",
            "UWS4R_PORT": str(free_port()),
            "UWS4R_RUN": run,
            "UWS4R_SITE": str(SITE),
            "UWS4R_PLUGINS": str(plugins),
        }


@pytest.mark.parametrize(
    ("command", "says_goodbye"),
    [
        (["--ini", ROOT / "emperor" / "uwsgi.ini"], True),
        # This uWSGI ends its router before the workers, whatever the file says.
        (["--ini", ROOT / "router" / "uwsgi.ini", "--module", "testsite.wsgi"], False),
        (
            ["--plugin", "python3", "--virtualenv", "{venv}", "--http-socket", "127.0.0.1:{port}", "--master",
             "--processes", "2", "--enable-threads", "--die-on-term", "--lazy-apps", "--module", "testsite.wsgi"],
            True,
        ),
    ],
    ids=["emperor", "router", "one uWSGI"],
)  # fmt: skip
def test_it_serves_and_ends(
    command: list[str | Path],
    says_goodbye: bool,
    environment: dict[str, str],
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    port = environment["UWS4R_PORT"]
    values = {"port": port, "venv": environment["VIRTUAL_ENV"]}
    options = [option.format(**values) if isinstance(option, str) else option for option in command]
    server = Uwsgi(tmp_path, options, environment, int(port), PROGRAM)
    site = Site(redis_server, environment, server.address, server, workers=2)
    try:
        # A worker that still loads the site does not hear that it shall stop.
        wait_until(lambda: server.log.count("WSGI app 0") >= 2, "both have loaded it")
        assert site.request("GET", "/visit/").status == 200
        clients = [site.connect("/ws/foo?subscribe-broadcast&publish-broadcast&echo") for _ in range(10)]
        clients[0].send("to all")
        assert [client.receive() for client in clients] == ["to all"] * 10
        server.process.process.send_signal(signal.SIGTERM)
        if says_goodbye:
            assert [client.receive_close().close_code for client in clients] == [1012] * 10
        assert server.process.process.wait(20) == 0
    finally:
        site.close_clients()
        server.stop()
    log = server.log
    assert "Traceback" not in log
    assert "UNABLE" not in log  # to load a plugin
