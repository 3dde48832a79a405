"""
The peers that uws4r is measured with: each a few lines beside this file, and how it is started here.

Python's peers live in an environment of their own, nchan in a directory: nothing is installed into the system.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers import ROOT, Process

HERE = Path(__file__).parent
BUILD = ROOT / "build" / "bench"
VENV = BUILD / "venv"


class Unavailable(Exception):
    """A peer does not install here; says why."""


@dataclass
class Running:
    """A server to put load on."""

    name: str
    port: int
    processes: list[Process]
    pids: list[int]  # of those whose CPU and memory count
    load: list[str] = field(default_factory=list)  # how it is published to, where that is not PUBLISH broadcast:NAME
    path: str = "/ws/{name}"
    echo: str = ""  # what a URL needs besides, so that the client publishes, too
    channel: str = "broadcast:{name}"

    def url(self, name: str, echo: bool = False) -> str:
        return f"ws://127.0.0.1:{self.port}{self.path.format(name=name)}{self.echo if echo else ''}"

    def stop(self) -> None:
        for process in self.processes:
            process.stop(15)


def pip(*packages: str) -> None:
    """Install packages into the peers' environment, once."""
    stamp = VENV / f"{'-'.join(packages)}.stamp".replace("/", "")
    if stamp.exists():
        return
    if not (VENV / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True, capture_output=True)
    print(f"installing {', '.join(packages)} for the peers", file=sys.stderr, flush=True)
    done = subprocess.run(
        [VENV / "bin" / "pip", "install", "--quiet", *packages], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip install failed"]
        raise Unavailable(lines[-1].removeprefix("ERROR: "))
    stamp.touch()


def server(directory: Path, name: str, command: list[str | Path], port: int, redis_port: int) -> Process:
    env = {"REDIS_PORT": str(redis_port), "PYTHONPATH": str(HERE), "VIRTUAL_ENV": str(VENV)}
    process = Process(command, directory / f"{name}.log", env)
    process.wait_ready(lambda: is_listening(port))
    return process


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---------------------------------------------------------------- the peers


def greenlets(directory: Path, port: int, redis_port: int) -> Running:
    pip("uwsgi==2.0.31", "gevent", "redis")
    process = server(
        directory, "greenlets",
        [VENV / "bin" / "uwsgi", "--http-socket", f"127.0.0.1:{port}", "--gevent", "6000", "--module", "greenlets",
         "--virtualenv", VENV, "--listen", "512", "--die-on-term", "--disable-logging", "--need-app"],
        port, redis_port,
    )  # fmt: skip
    return Running("uWSGI, gevent, a greenlet per client", port, [process], [process.process.pid])


def uwebsockets(directory: Path, port: int, redis_port: int) -> Running:
    pip("socketify", "hiredis")
    process = server(
        directory, "uwebsockets", [VENV / "bin" / "python", HERE / "uwebsockets.py", str(port)], port, redis_port
    )
    return Running("socketify (uWebSockets)", port, [process], [process.process.pid])


def channels(directory: Path, port: int, redis_port: int) -> Running:
    pip("channels", "channels_redis", "uvicorn[standard]", "django<6")
    process = server(
        directory, "channels",
        [VENV / "bin" / "uvicorn", "channels_app:application", "--port", str(port), "--log-level", "warning",
         "--backlog", "4096"],
        port, redis_port,
    )  # fmt: skip
    return Running(
        "Channels, pub/sub layer, uvicorn", port, [process], [process.process.pid], channel="bench__group__{name}"
    )


def nchan_module() -> Path:
    """Debian's module, unpacked from its package; it has to be built for the NGiNX that is here."""
    found = [*Path("/usr/lib/nginx/modules").glob("ngx_nchan_module.so"), *(BUILD / "nchan").rglob("ngx_nchan_module.so")]
    if found:
        return found[0]
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Unavailable("nchan comes from Debian's libnginx-mod-nchan, and this is no Debian")
    directory = BUILD / "nchan"
    directory.mkdir(parents=True, exist_ok=True)
    for command in (["apt-get", "download", "-qq", "libnginx-mod-nchan"], ["sh", "-c", "dpkg -x *.deb ."]):
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable((done.stderr.strip() or "apt-get download failed").splitlines()[-1])
    return next(directory.rglob("ngx_nchan_module.so"))


def nchan(storage: str) -> Callable[[Path, int, int], Running]:
    def start(directory: Path, port: int, redis_port: int) -> Running:
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if nginx is None:
            raise Unavailable("nginx is not installed")
        home = directory / f"nchan-{port}"
        home.mkdir()
        home.chmod(0o777)
        text = (HERE / "nchan.conf").read_text().format(
            module=nchan_module(), directory=home, port=port, redis_port=redis_port,
            storage="nchan_redis_pass redis;" if storage == "Redis" else "",
        )  # fmt: skip
        (home / "nginx.conf").write_text(text)
        try:
            process = server(
                directory, f"nchan-{port}", [nginx, "-c", home / "nginx.conf", "-e", home / "error.log"], port, redis_port
            )
        except AssertionError as error:
            raise Unavailable(str(error).splitlines()[-1]) from None
        return Running(
            f"nchan, {storage}", port, [process], children(process.process.pid),
            load=["--post", f"http://127.0.0.1:{port}/pub/{{channel}}"], channel="{name}",
        )  # fmt: skip

    return start


PEERS: dict[str, Callable[[Path, int, int], Running]] = {
    "socketify": uwebsockets,
    "nchan": nchan("memory"),
    "nchan-redis": nchan("Redis"),
    "greenlets": greenlets,
    "channels": channels,
}
