"""Every command of the README, run."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.support.servers import ROOT, Process, RedisServer, Uwsgi, free_port, wait_until
from tests.support.wire import connect

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_two_commands_are_those_of_build_sh() -> None:
    assert "./build.sh run" in blocks("sh")[0]
    assert "./build.sh test" in blocks("sh")[0]
    usage = subprocess.run(["./build.sh"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for verb in re.findall(r"\./build\.sh (\w+)", README):
        assert re.search(rf"^  {verb}\b", usage, re.MULTILINE), verb
    assert "./build.sh test" in (ROOT / ".ci" / "run").read_text()


def test_an_unknown_verb_is_an_error() -> None:
    done = subprocess.run(["./build.sh", "tset"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unknown verb: tset" in done.stderr


def processes_of(directory: str) -> list[str]:
    """Command lines of the processes whose environment names ``directory``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if directory.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                pass  # it has just ended, or is not ours
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", [[], ["native"]], ids=["detached", "native"])
def test_build_sh_run_serves_the_chat_and_ends_what_it_started(tmp_path: Path, mode: list[str]) -> None:
    port = free_port()
    mark = f"UWS4R_TEST_MARK={tmp_path}"
    env = {
        "UWS4R_PORT": str(port),
        "CHAT_DATABASE": str(tmp_path / "chat.sqlite3"),
        "UWS4R_TEST_MARK": str(tmp_path),
        "PYTHONDEVMODE": "",
        "PYTHONPATH": "",
    }
    process = Process([ROOT / "build.sh", "run", *mode], tmp_path / "run.log", env)
    try:
        process.wait_ready(lambda: f"http://localhost:{port}/" in process.log, timeout=60)
        said = process.log.splitlines()
        assert "Ctrl-C" in said[-1]  # and above it what root, and what a fresh checkout, is told
        assert len([line for line in said if "==" not in line]) <= 3, process.log
        log = Path(re.findall(r"^uWSGI's log is (\S+) ", process.log, re.MULTILINE)[0])
        assert "spawned uWSGI worker" in log.read_text()
        page = urllib.request.urlopen(f"http://localhost:{port}/").read().decode()
        flags = re.findall(r'data-facility="lobby" data-flags="([^"]+)"', page)[0].replace("&amp;", "&")
        path = f"/ws/lobby?{flags}"
        origin: dict[str, str | None] = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
        with connect(("127.0.0.1", port), path, origin) as one, connect(("127.0.0.1", port), path, origin) as two:
            assert one.response is not None
            assert ("sec-websocket-origin" in one.response.headers) == bool(mode)  # a header of uWSGI's own
            message = json.dumps({"from": "one", "text": "hello"})
            one.send(message)
            assert one.receive() == message
            assert two.receive() == message
        assert len(processes_of(mark)) > 4
    finally:
        status = process.stop(signal.SIGINT)
    assert status == 0, process.log
    wait_until(lambda: processes_of(mark) == [], "everything has ended")
    assert "Traceback" not in process.log


def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path, redis_server: RedisServer) -> None:
    process = Process(
        [ROOT / "build.sh", "run"], tmp_path / "run.log", {"UWS4R_PORT": str(redis_server.port), "PYTHONDEVMODE": ""}
    )
    assert process.process.wait(60) == 1
    assert f"port {redis_server.port} is not free" in process.log


@pytest.mark.slow
def test_the_installed_package_is_complete(installed: Path, redis_server: RedisServer) -> None:
    """Outside the tree: modules, stubs, the mark of typed packages; publishing needs no uWSGI."""
    script = (
        "import sys, pathlib, uws4r; from django.conf import settings\n"
        f"settings.configure(WS4REDIS_CONNECTION={redis_server.url!r})\n"
        "from uws4r.publisher import RedisPublisher\n"
        "RedisPublisher(facility='f', broadcast=True).publish_message('m')\n"
        "assert not {'uwsgi', 'gevent', 'uws4r.hub'} & set(sys.modules)\n"
        "print(*sorted(p.name for p in pathlib.Path(uws4r.__file__).parent.iterdir()))"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [installed / "python", "-c", script], cwd=installed, env=environment, capture_output=True, text=True, check=True
    )
    files = done.stdout.split()
    assert {"py.typed", "_frames.pyi", "_hub.pyi", "publisher.py"} <= set(files)
    assert not [name for name in files if name.endswith(".c")]


@pytest.mark.slow
def test_adding_it_to_a_site_as_the_readme_says(tmp_path: Path, redis_server: RedisServer, installed: Path) -> None:
    """A newcomer's way: startproject, then what the README's blocks say, then the command it prints."""
    redis_server.client.flushall()
    subprocess.run([installed / "django-admin", "startproject", "mysite", str(tmp_path)], check=True)
    settings, wsgi, view = blocks("python")
    settings = settings.replace("redis://localhost:6379/0", redis_server.url)
    with (tmp_path / "mysite" / "settings.py").open("a") as file:
        file.write(settings)
    (tmp_path / "mysite" / "wsgi.py").write_text(wsgi)
    with (tmp_path / "mysite" / "urls.py").open("a") as file:
        file.write(view)
    command = re.findall(r"^uwsgi (.*)$", "\n".join(blocks("sh")), re.MULTILINE)[0]
    port = free_port()
    assert ":8000" in command
    options = command.replace(":8000", f"127.0.0.1:{port}").split()
    uwsgi = Uwsgi(
        tmp_path,
        ["--chdir", tmp_path, "--virtualenv", installed.parent, *options],
        {"PYTHONDEVMODE": "", "PYTHONPATH": ""},
        port,
        program=installed / "uwsgi",
    )
    try:
        page = urllib.request.urlopen(f"http://localhost:{port}/").read().decode()
        (path,) = re.findall(r"/ws/[\w?&=-]+", page)
        with connect(uwsgi.address, path) as client:
            wait_until(lambda: redis_server.subscriptions("broadcast:news"), "subscribed")
            urllib.request.urlopen(f"http://localhost:{port}/hello/").read()
            assert client.receive() == "hello, everybody"
        uwsgi.assert_healthy()
    finally:
        uwsgi.stop()


def test_the_map_of_the_tree_is_true() -> None:
    for path in re.findall(r"^\| `([^`]+)`", README, re.MULTILINE):
        assert (ROOT / path).exists(), path


def test_the_shell_files_are_well_formed() -> None:
    assert shutil.which("bash")
    for name in ("build.sh", ".ci/run"):
        subprocess.run(["bash", "-n", name], cwd=ROOT, check=True)
        assert os.access(ROOT / name, os.X_OK)
