"""
The peers that uws4r is measured with: each a few lines beside this file, and how it is started here.

Python's peers live in an environment of their own, nchan in a directory: nothing is installed into the system.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.goals import Line
from bench.lab import BUILD, Case, Failed, Lab, Target, cost, listening, p99, per_second, pin, progress, ratio, typical
from tests.support.servers import Process, free_port

HERE = Path(__file__).parent
VENV = BUILD / "venv"


class Unavailable(Exception):
    """A peer does not install here; says why."""


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
    process = Process(command, directory / f"{name}-{port}.log", env)
    try:
        process.wait_ready(lambda: port in listening())
    except AssertionError as error:
        raise Unavailable(f"does not start: {str(error).splitlines()[-1]}") from None
    return process


def target(name: str, port: int, process: Process, pids: list[int] | None = None, **options: Any) -> Target:
    return Target(name, port, pids or [process.process.pid], lambda: process.stop(15), **options)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---------------------------------------------------------------- the peers


def greenlets(directory: Path, port: int, redis_port: int) -> Target:
    pip("uwsgi==2.0.31", "gevent", "redis")
    process = server(
        directory, "greenlets",
        [VENV / "bin" / "uwsgi", "--http-socket", f"127.0.0.1:{port}", "--gevent", "6000", "--module", "greenlets",
         "--virtualenv", VENV, "--listen", "512", "--die-on-term", "--disable-logging", "--need-app"],
        port, redis_port,
    )  # fmt: skip
    return target("uWSGI, a greenlet per client", port, process)


def uwebsockets(directory: Path, port: int, redis_port: int) -> Target:
    pip("socketify", "hiredis")
    process = server(
        directory, "uwebsockets", [VENV / "bin" / "python", HERE / "uwebsockets.py", str(port)], port, redis_port
    )
    return target("socketify (uWebSockets)", port, process)


def channels(directory: Path, port: int, redis_port: int) -> Target:
    pip("channels", "channels_redis", "uvicorn[standard]", "django<6")
    process = server(
        directory, "channels",
        [VENV / "bin" / "uvicorn", "channels_app:application", "--port", str(port), "--log-level", "warning",
         "--backlog", "4096"],
        port, redis_port,
    )  # fmt: skip
    return target("Channels, pub/sub layer, uvicorn", port, process, channel="bench__group__{name}")


def nchan_module() -> Path:
    """Debian's module, unpacked from its package; it has to be built for the NGiNX that is here."""
    found = [
        *Path("/usr/lib/nginx/modules").glob("ngx_nchan_module.so"),
        *(BUILD / "nchan").rglob("ngx_nchan_module.so"),
    ]
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


def nchan(storage: str) -> Callable[[Path, int, int], Target]:
    def start(directory: Path, port: int, redis_port: int) -> Target:
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
        process = server(
            directory, "nchan", [nginx, "-c", home / "nginx.conf", "-e", home / "error.log"], port, redis_port
        )
        return target(
            f"nchan, {storage}", port, process, children(process.process.pid),
            publish=["--post", f"http://127.0.0.1:{port}/pub/{{channel}}"], channel="{name}",
        )  # fmt: skip

    return start


PEERS: dict[str, Callable[[Path, int, int], Target]] = {
    "socketify": uwebsockets,
    "nchan": nchan("memory"),
    "nchan-redis": nchan("Redis"),
    "greenlets": greenlets,
    "channels": channels,
}

# ---------------------------------------------------------------- the comparison

COLUMNS = {
    "w1": "fan-out/s, 1 in flight",
    "p99": "p99 ms",
    "cost": "µs each",
    "w16": "16 in flight",
    "spread": "spread/s",
    "echo": "echoes/s",
    "memory": "KiB/client",
    "handshakes": "handshakes/s",
}


def compare(lab: Lab, names: list[str]) -> tuple[list[dict[str, Any]], list[Line]]:
    """Measure each peer, uws4r and the ceiling in every round; return the table, and the lines of goal 1."""
    starters: dict[str, Callable[[ExitStack], Target]] = {
        "ceiling": lambda stack: stack.enter_context(lab.ceiling()),
        "uws4r": lambda stack: stack.enter_context(lab.uws4r()),
    }
    for name in names:
        starters[name] = lambda stack, name=name: started(lab, stack, name)  # type: ignore[misc]
    rows: dict[str, dict[str, Any]] = {name: {"name": name} for name in starters}
    rounds: dict[str, dict[str, list[Case]]] = {name: {} for name in starters}
    failed: dict[str, set[str]] = {name: set() for name in starters}
    progress("\npeers ")
    for number in range(lab.rounds):
        for name in [name for name in starters if "reason" not in rows[name]]:
            try:
                if number == 0:
                    with ExitStack() as stack:
                        peer = starters[name](stack)
                        rows[name] |= {"name": peer.name, **once(lab, peer)}
                one_round(lab, starters[name], rounds[name], failed[name])
            except (Unavailable, Failed) as error:
                rows[name]["reason"] = str(error)
            progress(".")
    for name, measured in rounds.items():
        rows[name] |= {key: typical(cases, per_second) for key, cases in measured.items()}
        if cases := measured.get("w1"):
            rows[name] |= {"p99": typical(cases, p99), "cost": typical(cases, cost)}
    lines = []
    for name in names:
        for key, window in (("w1", 1), ("w16", 16)):
            if theirs := rounds[name].get(key):
                value = ratio({"uws4r": rounds["uws4r"][key][: len(theirs)], name: theirs}, per_second, to=name)
                lines.append(Line(1, f"of {rows[name]['name']}, 1000 clients, {window} in flight", value, 1.0))
    return list(rows.values()), lines


def started(lab: Lab, stack: ExitStack, name: str) -> Target:
    peer = PEERS[name](lab.directory, free_port(), lab.redis.port)
    stack.callback(peer.stop)
    for pid in peer.pids:
        pin(pid, 0)
    return peer


def load(lab: Lab, peer: Target, name: str, query: str, *options: object) -> list[Case]:
    channel = peer.channel.format(name=name)
    return lab.load(peer, peer.url(name, query), "--channel", channel, *options, seconds=lab.seconds * 0.4)["cases"]


def once(lab: Lab, peer: Target) -> dict[str, float]:
    """What one measurement is enough for."""
    [idle] = load(lab, peer, "bench", peer.query, "--mode", "idle", "--clients", 1000)
    [handshakes] = load(lab, peer, "bench", peer.query, "--mode", "handshake")
    return {"memory": idle["kib_per_client"]["server"], "handshakes": handshakes["handshakes_per_s"]}


def one_round(
    lab: Lab, start: Callable[[ExitStack], Target], measured: dict[str, list[Case]], failed: set[str]
) -> None:
    """Measure what every round does; what a peer fails at it may try again when it has just been started."""
    with ExitStack() as stack:
        peer = None
        for keys, name, echoes, options in (
            (("w1", "w16"), "bench", False, ("--clients", 1000, "--window", "1,16")),
            (("spread",), "s{i}", False, ("--mode", "spread", "--clients", 1000)),
            (("echo",), "e{i}", True, ("--mode", "echo", "--clients", 100)),
        ):
            for attempt in (1, 2):
                if failed.intersection(keys):
                    break
                peer = peer or start(stack)
                try:
                    cases = load(lab, peer, name, peer.echo_query if echoes else peer.query, *options)
                except Failed as error:
                    stack.close()
                    peer = None
                    if attempt == 2:
                        failed.update(keys)
                        lab.wrong_peers.append(str(error))
                else:
                    for key, case in zip(keys, cases, strict=True):
                        measured.setdefault(key, []).append(case)
                    break
