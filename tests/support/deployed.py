"""The example site as it is deployed: the shipped emperor and vassals, and NGiNX in front of them."""

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.servers import ROOT, Process, RedisServer, Uwsgi, free_port, wait_until

CHAT = ROOT / "examples" / "chat"


class Emperor:
    """
    A site under the shipped emperor; its sockets are in ``directory``.

    Args:
        files: Where ``emperor/`` and ``vassals/`` are.
        ini: Which of the emperor's files.
    """

    def __init__(self, directory: Path, env: dict[str, str], files: Path = ROOT, ini: str = "uwsgi.ini") -> None:
        self.directory = directory
        self.run = directory / "run"
        self.port = free_port()
        self.env = {
            **env,
            "UWS4R_HOST": "127.0.0.1",
            "UWS4R_PORT": str(self.port),
            "UWS4R_RUN": str(self.run),
            "VIRTUAL_ENV": sys.prefix,
            "PYTHONDEVMODE": "",
        }
        self.uwsgi = Uwsgi(directory, ["--ini", files / "emperor" / ini], self.env, self.port)
        wait_until(lambda: self.uwsgi.log.count("is ready to accept requests") == 2, "both vassals ready")

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def stop(self) -> None:
        self.uwsgi.stop()


def chat_site(directory: Path, redis: RedisServer) -> Emperor:
    """The example chat with its users, on a database of its own."""
    env: dict[str, str] = {
        "DJANGO_SETTINGS_MODULE": "chat.settings",
        "CHAT_DATABASE": str(directory / "chat.sqlite3"),
        "UWS4R_REDIS": redis.url,
        "UWS4R_STATIC": str(directory / "static"),
        "UWS4R_SITE": str(CHAT),
        "PYTHONPATH": "",
    }
    for command in (["migrate", "-v0"], ["loaddata", "-v0", "users"], ["collectstatic", "-v0", "--noinput"]):
        chat_manage(env, *command)
    return Emperor(directory, env)


def chat_manage(env: dict[str, str], *arguments: str) -> str:
    """Run the example's ``manage.py``."""
    done = subprocess.run(
        [sys.executable, CHAT / "manage.py", *arguments],
        env={**os.environ, **env, "PYTHONDEVMODE": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


NGINX_MAIN = (
    ("user root;" if os.getuid() == 0 else "")
    + """
daemon off;
worker_processes 1;
error_log stderr warn;
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {server}
}}
"""
)
SERVER = """
server {{
    listen 127.0.0.1:{port};
    set $uws4r_run {run};
    set $uws4r_static {static};
    include {root}/nginx/uws4r.conf;
}}
"""


def start_nginx(directory: Path, servers: str, port: int) -> Process:
    """The distribution's NGiNX with these server blocks, ready when the one on ``port`` answers."""
    config = directory / "nginx.conf"
    config.write_text(NGINX_MAIN.format(directory=directory, server=servers))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = Process([program, "-p", directory, "-c", config], directory / f"nginx-{port}.log")
    process.wait_ready(lambda: answers(port))
    return process


class Nginx:
    """The distribution's NGiNX with the shipped file in a server block, in front of an emperor's vassals."""

    def __init__(self, directory: Path, emperor: Emperor) -> None:
        self.port = free_port()
        static = emperor.env.get("UWS4R_STATIC", directory)
        server = SERVER.format(port=self.port, run=emperor.run, static=static, root=ROOT)
        self.process = start_nginx(directory, server, self.port)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def stop(self) -> None:
        self.process.stop()


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/no-such-page", timeout=5)
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
        return status == 404
    except OSError:
        return False
    return True
