"""Real servers for the tests, each on a free port, each ended by its own handle."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from tests.support.wire import TIMEOUT

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "tests" / "site"
BIN = Path(sys.executable).parent
# What uWSGI says of a worker that got a fault, of one that died, of each that it starts in the place of one, and what
# a worker says whose master has died.
SIGNS_OF_DEATH = ("!!! uWSGI process", "DAMN ! worker", "Respawned uWSGI worker", "screams: UAAAAAAH")


def _ports() -> Iterator[int]:
    """
    Numbers that no other process takes before the server has.

    The kernel's own choice (port 0) comes from the range of outgoing connections, of which a test may open thousands.
    Each process that pytest-xdist starts has a part of what lies below; two runs at once begin at different places.
    """
    lowest = 10000
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if below < 2 * lowest:  # there is no room below it
        below = 32768
    size = (below - lowest) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = lowest + size * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = random.SystemRandom().randrange(size)
    for place in range(size):
        yield first + (begin + place) % size


_PORTS = _ports()


def free_port() -> int:
    """A port that nothing listens on, and that was not handed out before in this run."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ports of this run have been handed out")


def wait_until(condition: Callable[[], object], what: str, timeout: float = TIMEOUT, pause: float = 0.005) -> None:
    """Ask until ``condition`` is true; AssertionError naming ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(pause)


class Process:
    """A server in a process (and group) of its own, its output in a file."""

    def __init__(self, command: list[str | Path], log: Path, env: dict[str, str] | None = None) -> None:
        self.log_path = log
        # ./build.sh sanitize has AddressSanitizer loaded before Python: it is about us, not about other servers.
        ours = Path(command[0]).name.startswith(("uwsgi", "python"))
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(map(str, command)),
                # A container's only user may be root.
                env={"UWS4R_ALLOW_ROOT": "1", **os.environ, **({} if ours else {"LD_PRELOAD": ""}), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, ready: Callable[[], bool], timeout: float = 30.0) -> None:
        def running_and_ready() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
            return ready()

        try:
            wait_until(running_and_ready, f"ready: {self.process.args}", timeout)
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.log}") from None

    def stop(self, number: int = signal.SIGINT, timeout: float = 15.0) -> int:
        """End it with a signal, with SIGKILL if it does not follow; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"did not end on signal {number}: {self.process.args}") from None


class RedisServer:
    """A ``redis-server`` that can go away and come back at the same address."""

    def __init__(self, directory: Path, program: str | Path | None = None, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.program = program or shutil.which("redis-server") or "redis-server"
        self.options = options
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port, host="127.0.0.1", protocol=2)
        self.process: Process | None = None
        self.start()

    def start(self) -> None:
        self.process = Process(
            [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", self.directory, *self.options],
            self.directory / f"redis-{self.port}.log",
        )  # fmt: skip
        self.process.wait_ready(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.client.connection_pool.disconnect()
        if self.process is not None:
            self.process.stop(number)
            self.process = None

    def close(self) -> None:
        self.stop()
        self.client.close()

    def links(self) -> list[dict[str, str]]:
        """The hubs' connections, as Redis sees them."""
        return [client for client in self.client.client_list() if client["name"] == "uws4r"]

    def channels(self) -> list[bytes]:
        """What anybody is subscribed to, but for the channels of orders to workers."""
        return [name for name in self.client.pubsub_channels() if b"uws4r:control" not in name]

    def subscriptions(self, name: str) -> int:
        """How many links are subscribed to a channel."""
        return self.client.pubsub_numsub(name)[0][1]


class FakeRedis:
    """A server that answers every command with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
            self.threads[-1].start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                connection.sendall(self.answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


class Uwsgi:
    """A uWSGI with these options, serving HTTP on ``address`` when it is ready; it can go away and come back."""

    def __init__(
        self,
        directory: Path,
        options: list[str | Path],
        env: dict[str, str],
        port: int,
        program: Path = BIN / "uwsgi",
    ) -> None:
        self.address = ("127.0.0.1", port)
        self.command = [program, *options]
        self.log_path = directory / f"uwsgi-{port}.log"
        self.env = env
        self.start()

    def start(self) -> None:
        self.process = Process(self.command, self.log_path, self.env)
        self.process.wait_ready(self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(self.address, 5) as probe:
                probe.settimeout(5)
                probe.sendall(b"GET /no-such-page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return probe.recv(12).startswith(b"HTTP/1.1 4")
        except OSError:
            return False

    @property
    def log(self) -> str:
        return self.process.log

    def stop(self, number: int = signal.SIGINT) -> int:
        return self.process.stop(number)

    def assert_healthy(self) -> None:
        """No worker has died, no traceback has been logged."""
        for sign in ("Traceback", *SIGNS_OF_DEATH):
            assert sign not in self.log, self.log
