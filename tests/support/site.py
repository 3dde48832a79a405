"""The tests' Django site, served as a user would serve his."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.servers import ROOT, SITE, RedisServer, Uwsgi, free_port
from tests.support.wire import TIMEOUT, Client, connect

PLAIN = ("--master", "--enable-threads", "--need-app", "--die-on-term", "--single-interpreter", "--listen", "512")


def site_env(redis_url: str, database: Path, settings: dict[str, Any] | None = None) -> dict[str, str]:
    """The environment that makes ``tests/site`` what a test wants."""
    return {
        "DJANGO_SETTINGS_MODULE": "testsite.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SITE)]),
        "PYTHONDEVMODE": "",
        "TEST_REDIS": redis_url,
        "TEST_DATABASE": str(database),
        "TEST_SETTINGS": json.dumps(settings or {}),
        "VIRTUAL_ENV": sys.prefix,
    }


def manage(env: dict[str, str], *arguments: str, stdin: str | None = None) -> str:
    """Run the site's ``manage.py``; return what it prints."""
    done = subprocess.run(
        [sys.executable, SITE / "manage.py", *arguments],
        env={**os.environ, **env},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Site:
    """A running site: where its websockets and its pages are, and what is behind them."""

    redis: RedisServer
    env: dict[str, str]
    address: tuple[str, int]
    uwsgi: Uwsgi
    workers: int = 1
    opened: list[Client] = field(default_factory=list)

    def dial(self) -> tuple[str, int] | socket.socket:
        """What a client is given to connect to; a subclass makes the connection itself."""
        return self.address

    def connect(self, path: str, headers: dict[str, str | None] | None = None, session: str | None = None) -> Client:
        """An open websocket, closed at the end of the test."""
        headers = dict(headers or {})
        if session is not None:
            headers["Cookie"] = f"sessionid={session}"
        client = connect(self.dial(), path, headers)
        self.opened.append(client)
        return client

    def join(self, path: str, *, session: str | None = None, channel: str | None = None) -> Client:
        """
        An open websocket that has joined its channels: what is published from now on reaches it.

        A marker is persisted on one of its channels (``channel``, the facility's broadcast unless given)
        while it connects, and comes back as its first message.
        """
        name = channel or f"broadcast:{path.split('?')[0].removeprefix('/ws/')}"
        self.redis.client.set(name, "joined")
        client = self.connect(path, session=session)
        assert client.receive() == "joined"
        self.redis.client.delete(name)
        return client

    def join_all_workers(self, path: str) -> list[Client]:
        """Open websockets listening to a broadcast, at least one of them in each worker, all of them joined."""
        name = f"broadcast:{path.split('?')[0].removeprefix('/ws/')}"
        self.redis.client.set(name, "joined")
        clients: list[Client] = []
        deadline = time.monotonic() + TIMEOUT
        while self.redis.subscriptions(name) < self.workers:
            assert time.monotonic() < deadline, "one worker gets no connection"
            # Many handshakes at once: a worker that is busy with one leaves the next to another.
            burst = [Client(self.dial()) for _ in range(10)]
            for client in burst:
                client.request(path, read=False)
            for client in burst:
                assert client.read_response().status == 101
                assert client.receive() == "joined"
            clients += burst
            self.opened += burst
        self.redis.client.delete(name)
        return clients

    def request(self, method: str, path: str, body: str = "", session: str | None = None) -> Any:
        """A page of the site."""
        with Client(self.dial()) as client:
            client.request(
                path,
                {
                    "Upgrade": None,
                    "Connection": "close",
                    "Sec-WebSocket-Key": None,
                    "Sec-WebSocket-Version": None,
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Content-Length": str(len(body)),
                    "Cookie": f"sessionid={session}" if session else None,
                },
                method=method,
                after=body.encode(),
            )
            assert client.response is not None
            return client.response

    def log_in(self, name: str) -> str:
        """Log a user in; return the session's key."""
        response = self.request("POST", "/login/", urlencode({"username": name}))
        assert response.status == 200, response
        return response.headers["set-cookie"].split("sessionid=")[1].split(";")[0]

    def close_clients(self) -> None:
        for client in self.opened:
            client.sock.close()
        self.opened.clear()


def serve(
    directory: Path,
    redis: RedisServer,
    database: Path,
    settings: dict[str, Any] | None = None,
    workers: int = 1,
    options: tuple[str, ...] = (),
    module: str = "testsite.wsgi:application",
    env: dict[str, str] | None = None,
) -> Site:
    """Websockets and pages in one uWSGI, without master's emperor: the shortest way to a test."""
    port = free_port()
    env = {**site_env(redis.url, database, settings), **(env or {})}
    uwsgi = Uwsgi(
        directory,
        ["--http-socket", f"127.0.0.1:{port}", "--module", module, "--processes", str(workers),
         "--virtualenv", sys.prefix, *PLAIN, *options],
        env,
        port,
    )  # fmt: skip
    return Site(redis, env, uwsgi.address, uwsgi, workers)
