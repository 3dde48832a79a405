"""``manage.py runserver``, as a developer starts it."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.servers import SITE, Process, RedisServer, free_port, wait_until
from tests.support.site import Site, site_env
from tests.support.wire import Client, close_frame, connect

ECHO = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"
MIDDLEWARE = [
    "django.middleware.common.CommonMiddleware",  # Content-Length, and with it keep-alive
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


class RunServer(Site):
    """A site under ``runserver``; ready when it answers."""

    def __init__(
        self,
        directory: Path,
        redis: RedisServer,
        database: Path,
        *options: str,
        settings: dict[str, Any] | None = None,
        host: str = "127.0.0.1",
        manage: Path = SITE / "manage.py",
        env: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        environ = {
            **site_env(redis.url, database, {"DEBUG": True, "MIDDLEWARE": MIDDLEWARE, **(settings or {})}),
            "PYTHONUNBUFFERED": "1",
            **(env or {}),
        }
        self.host = host
        self.process = Process(
            [sys.executable, manage, "runserver", f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}",
             *options],
            directory / f"runserver-{self.port}.log",
            environ,
        )  # fmt: skip
        super().__init__(redis, environ, (host, self.port), uwsgi=self)  # type: ignore[arg-type]
        self.wait_ready()

    def wait_ready(self, starts: int = 1) -> None:
        """Until the server answers that was started for the ``starts``-th time."""
        self.process.wait_ready(lambda: self.log.count("Quit the server") >= starts and self._answers())

    def touch(self, path: Path) -> None:
        """Change a module of the site, and wait until Django has noticed."""
        changed = time.time()

        def noticed() -> bool:
            nonlocal changed
            if f"{path.name} changed, reloading" in self.log:
                return True
            changed += 1  # and again, for a reloader that had not looked at the file before
            os.utime(path, (changed, changed))
            return False

        wait_until(noticed, "reloading", pause=0.2)

    def _answers(self) -> bool:
        try:
            with self.socket() as probe:
                probe.sendall(b"GET /no-such-page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return probe.recv(12) == b"HTTP/1.1 404"
        except OSError:
            return False

    def socket(self) -> socket.socket:
        """A connection to it; of either family."""
        return socket.create_connection((self.host, self.port), 10)

    @property
    def pid(self) -> int:
        return self.process.process.pid

    @property
    def log(self) -> str:
        return self.process.log

    def interrupt(self) -> None:
        """Press Ctrl-C: a terminal sends the signal to all processes in its foreground."""
        os.killpg(self.pid, signal.SIGINT)

    def stop(self) -> int:
        self.close_clients()
        return self.process.stop(signal.SIGTERM)


Runserver = Callable[..., RunServer]  # the fixture


def talk(server: RunServer) -> None:
    """Two clients hear each other and a view."""
    server.redis.client.set("broadcast:foo", "joined")
    one, two = (connect(server.socket(), ECHO) for _ in range(2))  # type: ignore[arg-type]
    server.opened += [one, two]
    assert one.receive() == two.receive() == "joined"
    one.send("hello")
    assert one.receive() == two.receive() == "hello"
    with Client(server.socket()) as page:
        body = b"facility=foo&audience=broadcast&message=from+a+view"
        page.sock.sendall(
            b"POST /publish/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert page.read_response().status == 200
    assert one.receive() == two.receive() == "from a view"
    one.send_raw(close_frame(1000))
    assert one.receive_close().close_code == 1000
    assert one.ended()
    # Without threads it is served after the page's request, in which wsgiref would log what SIGTERM raises.
    with connect(server.socket(), ECHO) as last:  # type: ignore[arg-type]
        last.ping()
