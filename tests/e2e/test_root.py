"""The shipped files, started by root: they refuse, or become another user."""

import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.native import PLUGINS
from tests.support.servers import BIN, ROOT, SITE, Process, RedisServer, free_port, wait_until
from tests.support.site import site_env
from tests.support.wire import Client

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.getuid() != 0, reason="is about root"),
]

SENTENCE = "uws4r does not run as root: set UWS4R_USER to the user that it shall become"
USER = pwd.getpwnam("www-data")
# A Python below /root can be read by nobody else. In a mount namespace of its own it can.
VISIBLE = """
set -e
mkdir "$1/home" && mount --bind /root "$1/home" && mount -t tmpfs -o mode=755 none /root
cd "$1/home" && for name in .[!.]* *; do
    [ ! -d "$name" ] || { mkdir "/root/$name" && mount --bind "$1/home/$name" "/root/$name"; }
done
cd / && shift && exec "$@"
"""


def privileged_port() -> int:
    """A free port that only root may open, or any where the machine has none of these."""
    for port in range(1023, 900, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return free_port()


def environment(directory: Path, redis: RedisServer, database: Path, **more: str) -> dict[str, str]:
    port = privileged_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("UWS4R_")}
    return {
        **env,
        **site_env(redis.url, database),
        "UWS4R_RUN": str(directory / "run"),
        "UWS4R_SITE": str(SITE),
        "UWS4R_HOST": "127.0.0.1",
        "UWS4R_PORT": str(port),
        "UWS4R_PLUGINS": str(PLUGINS),
        **more,
    }


@pytest.mark.parametrize(
    "file",
    ["emperor/uwsgi.ini", "emperor/native.ini", "router/uwsgi.ini", "vassals/wsserver.ini", "vassals/runserver.ini",
     "vassals/native/wsserver.ini", "vassals/native/runserver.ini"],
)  # fmt: skip
@pytest.mark.parametrize("user", [None, "", "root", "0", "nobody-of-that-name"])
def test_root_is_refused(
    file: str, user: str | None, tmp_path: Path, redis_server: RedisServer, database: Path
) -> None:
    env = environment(tmp_path, redis_server, database, **({} if user is None else {"UWS4R_USER": user}))
    command = [BIN / "uwsgi", "--ini", ROOT / file]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert any(line.startswith(SENTENCE) for line in (done.stdout + done.stderr).splitlines()), done
    assert not (tmp_path / "run").exists()


def users(pid: int) -> list[tuple[int, int, str]]:
    """User, group and command line of a process and all that descend from it."""
    found = []
    for path in Path(f"/proc/{pid}/task").iterdir():
        for child in (path / "children").read_text().split():
            found += users(int(child))
    status = Path(f"/proc/{pid}/status").read_text()
    uid, gid = (int(status.partition(f"{name}:")[2].split()[1]) for name in ("Uid", "Gid"))
    return [*found, (uid, gid, Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))]


def answers(port: str) -> bool:
    try:
        with Client(("127.0.0.1", int(port))) as client:
            client.request("/forwarded/", {"Upgrade": None, "Connection": "close"})
            return client.response is not None and client.response.status == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    ("file", "number"),
    [("emperor/uwsgi.ini", signal.SIGTERM), ("emperor/uwsgi.ini", signal.SIGINT), ("router/uwsgi.ini", signal.SIGTERM)],
)
def test_root_becomes_another_user(
    file: str, number: int, tmp_path: Path, redis_server: RedisServer, database: Path
) -> None:
    for path in (tmp_path, *tmp_path.parents):  # that are below the one for everybody
        if path.is_relative_to(tempfile.gettempdir()) and path != Path(tempfile.gettempdir()):
            path.chmod(0o755)
    more = {"UWS4R_USER": "www-data", "VIRTUAL_ENV": sys.prefix}
    env = environment(tmp_path, redis_server, database, **more)
    (tmp_path / "visible.sh").write_text(VISIBLE)
    command: list[str | Path] = ["unshare", "--mount", "sh", tmp_path / "visible.sh", tmp_path]
    command += [BIN / "uwsgi", "--ini", ROOT / file]
    if file.startswith("router"):
        command += ["--module", "testsite.wsgi"]
    server = Process(command, tmp_path / "uwsgi.log", {**env, "UWS4R_ALLOW_ROOT": ""})
    try:
        server.wait_ready(lambda: answers(env["UWS4R_PORT"]))
        if file.startswith("router"):  # a worker that still loads the site does not hear that it shall stop
            loaded, started = "WSGI app 0", "spawned uWSGI worker"
            wait_until(lambda: server.log.count(loaded) == server.log.count(started), "all loaded", 30)
        processes = users(server.process.pid)
        assert {process[:2] for process in processes} == {(USER.pw_uid, USER.pw_gid)}, processes
        assert len(processes) >= 3
        if file.startswith("emperor"):
            run = tmp_path / "run"
            assert {path.stat().st_uid for path in (run, *run.iterdir())} == {USER.pw_uid}
        pids = children(server.process.pid)
        if file.startswith("emperor"):  # the plugin is at the door, which was opened in another way
            links = [os.readlink(path) for pid in pids for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert "anon_inode:[eventfd]" in links
        assert server.stop(number) == 0
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all have ended")
    finally:
        server.stop()


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (path / "children").read_text().split()):
            found += [child, *children(child)]
    return found
