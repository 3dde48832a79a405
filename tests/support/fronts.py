"""The test site behind everything that may stand in front of it: the shipped files, in real servers."""

import grp
import os
import pwd
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.certificates import self_signed
from tests.support.deployed import NGINX_MAIN, Emperor, answers
from tests.support.servers import ROOT, SITE, Process, RedisServer, Uwsgi, free_port, wait_until
from tests.support.site import Site, site_env
from tests.support.wire import TIMEOUT

# A client's address that is none of a proxy: all of 127.0.0.0/8 is this machine.
CLIENT = "127.0.0.2"


@dataclass
class Front(Site):
    """A site as its visitors reach it: through TLS or not, from an address of their own."""

    name: str = ""
    tls: ssl.SSLContext | None = None

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.address[1]}"

    def dial(self) -> socket.socket:
        plain = socket.create_connection(self.address, TIMEOUT, (CLIENT, 0))
        if self.tls is None:
            return plain
        with plain:  # its descriptor is the other's then
            return self.tls.wrap_socket(plain, server_hostname="localhost")


@dataclass
class Certificate:
    """A certificate for localhost that is its own authority."""

    directory: Path

    def __post_init__(self) -> None:
        self.chain, self.key = self_signed(self.directory)

    def context(self) -> ssl.SSLContext:
        """What a client needs to believe it."""
        return ssl.create_default_context(cafile=str(self.chain))


NGINX_HOSTS = """
underscores_in_headers on;  # as a site may have it, which lets every spelling of a header through
server {{
    listen 127.0.0.1:{port};
    set $uws4r_run {run};
    set $uws4r_static {static};
    include {files}/uws4r.conf;
}}
server {{
    listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {certificate.chain};
    ssl_certificate_key {certificate.key};
    set $uws4r_run {run};
    set $uws4r_static {static};
    include {files}/uws4r-tls.conf;
    include {files}/uws4r.conf;
}}
"""


class Nginx:
    """The distribution's NGiNX with the shipped files, in a server block without TLS and in one with it."""

    def __init__(self, directory: Path, emperor: Emperor, files: Path, certificate: Certificate) -> None:
        self.port, self.tls_port = free_port(), free_port()
        hosts = NGINX_HOSTS.format(
            port=self.port,
            tls_port=self.tls_port,
            certificate=certificate,
            run=emperor.run,
            static=emperor.env["UWS4R_STATIC"],
            files=files,
        )
        config = directory / "nginx.conf"
        config.write_text(NGINX_MAIN.format(directory=directory, server=hosts))
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self.process = Process([program, "-p", directory, "-c", config], directory / "nginx.log")
        self.process.wait_ready(lambda: answers(self.port))

    def _workers(self) -> set[str]:
        pid = self.process.process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def reload(self) -> None:
        before = self._workers()
        self.process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self._workers() - before, "a new worker of NGiNX")

    def stop(self) -> None:
        self.process.stop()


APACHE_THREADS = 50
APACHE_MODULES = Path("/usr/lib/apache2/modules")
# What Debian's has on from the start, as far as it matters here; each of our files names the rest.
APACHE_USUAL = ("mpm_event", "authz_core", "alias", "reqtimeout")
APACHE_MAIN = """
ServerRoot {directory}
PidFile {directory}/{name}.pid
DefaultRuntimeDir {directory}
ServerName localhost
ErrorLog /dev/stderr
LogLevel warn
{modules}
{user}
Timeout {timeout}
ServerLimit 4
StartServers 2
ThreadsPerChild 25
MaxRequestWorkers {threads}
MinSpareThreads 1
MaxSpareThreads {threads}
<Directory />
    Require all denied
</Directory>
Define UWS4R_RUN {run}
Define UWS4R_STATIC {static}
{hosts}
"""
APACHE_HOST = """
Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
    {tls}
    Include {file}
</VirtualHost>
"""


def modules_of(file: Path) -> list[str]:
    """What a file for Apache tells to enable."""
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("# Modules: a2enmod ")]
    return line.removeprefix("# Modules: a2enmod ").split()


def web_server_user() -> tuple[str, str] | None:
    """User and group that Debian's servers drop to, where the tests are root; else they stay who they are."""
    if os.getuid() != 0:
        return None
    user = pwd.getpwnam("www-data")
    return user.pw_name, grp.getgrgid(user.pw_gid).gr_name


class Apache:
    """The distribution's Apache with a shipped file in a virtual host, and in one with TLS."""

    def __init__(
        self,
        directory: Path,
        emperor: Emperor,
        file: Path,
        certificate: Certificate,
        timeout: int,
    ) -> None:
        self.port, self.tls_port = free_port(), free_port()
        hosts = APACHE_HOST.format(port=self.port, file=file, tls="")
        modules = [*APACHE_USUAL, "ssl", *modules_of(file)]
        tls = f"SSLEngine on\nSSLCertificateFile {certificate.chain}\nSSLCertificateKeyFile {certificate.key}"
        hosts += APACHE_HOST.format(port=self.tls_port, file=file, tls=tls)
        user = web_server_user()
        config = directory / f"{file.stem}-{self.port}.conf"
        config.write_text(
            APACHE_MAIN.format(
                directory=directory,
                name=config.stem,
                modules="\n".join(f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so" for name in modules),
                user=f"User {user[0]}\nGroup {user[1]}" if user else "",
                timeout=timeout,
                threads=APACHE_THREADS,
                run=emperor.run,
                static=emperor.env["UWS4R_STATIC"],
                hosts=hosts,
            )
        )
        self.process = Process(
            ["/usr/sbin/apache2", "-D", "FOREGROUND", "-f", config], directory / f"{config.stem}.log"
        )
        self.process.wait_ready(lambda: answers(self.port))

    def reload(self) -> None:
        """What ``apachectl graceful`` does."""
        ready = "resuming normal operations"
        before = self.process.log.count(ready)
        self.process.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: self.process.log.count(ready) > before, "Apache ready again")

    def stop(self) -> None:
        self.process.stop()


class Router:
    """A stand-alone uWSGI of the shipped file, with its router in front: without TLS, and with it."""

    def __init__(self, directory: Path, env: dict[str, str], file: Path, certificate: Certificate) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self.env = {
            **env,
            "UWS4R_HOST": "127.0.0.1",
            "UWS4R_PORT": str(self.port),
            "UWS4R_HTTPS": f"127.0.0.1:{self.tls_port},{certificate.chain},{certificate.key}",
            "VIRTUAL_ENV": sys.prefix,
            "PYTHONDEVMODE": "",
        }
        self.uwsgi = Uwsgi(directory, ["--ini", file, "--module", "testsite.wsgi"], self.env, self.port)

    def reload(self) -> None:
        self.uwsgi.process.process.send_signal(signal.SIGHUP)

    def stop_softly(self) -> None:
        self.uwsgi.process.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        assert self.uwsgi.stop(signal.SIGTERM) == 0


@contextmanager
def reloaded_vassal() -> Iterator[None]:
    """Have the emperor reload the websocket vassal: it looks whether the file is newer than it was."""
    vassal = ROOT / "vassals" / "wsserver.ini"
    before = vassal.stat()
    vassal.touch()
    try:
        yield
    finally:
        os.utime(vassal, ns=(before.st_atime_ns, before.st_mtime_ns))


class Fronts:
    """
    All of them: NGiNX and Apache before the shipped vassals, whose emperor is a front itself, and the router.

    Args:
        files: Where ``nginx/``, ``apache/`` and ``router/`` are.
        timeout: Apache's own, in seconds.
    """

    def __init__(
        self,
        directory: Path,
        redis: RedisServer,
        database: Path,
        files: Path = ROOT,
        settings: dict[str, Any] | None = None,
        timeout: int = 60,
    ) -> None:
        directory.chmod(0o755)  # the web servers' user has to reach the sockets
        static = directory / "static"
        static.mkdir()
        (static / "hello.txt").write_text("a static file")
        certificate = Certificate(directory)
        user = web_server_user()
        place = {"UWS4R_SITE": str(SITE), "UWS4R_STATIC": str(static)}
        if user is not None:
            place["UWS4R_SOCKET_OWNER"] = f"root:{user[1]}"
        behind = {"SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"], **(settings or {})}
        self.servers: list[Any] = []
        self.sites: dict[str, Front] = {}
        try:
            self.emperor = self._start(Emperor(directory, {**site_env(redis.url, database, behind), **place}))
            self.router = self._start(
                Router(directory, {**site_env(redis.url, database, settings), **place}, files / "router" / "uwsgi.ini",
                       certificate)
            )  # fmt: skip
            nginx = self._start(Nginx(directory, self.emperor, files / "nginx", certificate))
            apache, wstunnel = (
                self._start(Apache(directory, self.emperor, files / "apache" / name, certificate, timeout=timeout))
                for name in ("uws4r.conf", "uws4r-wstunnel.conf")
            )
        except BaseException:
            self.stop()
            raise
        self.in_front = {"nginx": nginx, "apache": apache, "wstunnel": wstunnel, "router": self.router}
        self.sites = {
            name: Front(redis, server.env, ("127.0.0.1", port), server.uwsgi, 2, name=name, tls=tls)
            for name, server, port, tls in (
                ("emperor", self.emperor, self.emperor.port, None),
                ("nginx", self.emperor, nginx.port, None),
                ("nginx TLS", self.emperor, nginx.tls_port, certificate.context()),
                ("apache", self.emperor, apache.port, None),
                ("apache TLS", self.emperor, apache.tls_port, certificate.context()),
                ("wstunnel", self.emperor, wstunnel.port, None),
                ("wstunnel TLS", self.emperor, wstunnel.tls_port, certificate.context()),
                ("router", self.router, self.router.port, None),
                ("router TLS", self.router, self.router.tls_port, certificate.context()),
            )
        }

    def reload(self, name: str) -> None:
        """Have the one in front read its options again; the emperor is not ready again when this returns."""
        if name == "emperor":
            self.emperor.uwsgi.process.process.send_signal(signal.SIGHUP)
        else:
            self.in_front[name].reload()

    def _start(self, server: Any) -> Any:
        self.servers.append(server)
        return server

    def stop(self) -> None:
        for site in self.sites.values():
            site.close_clients()
        with ExitStack() as stack:  # which ends the others even if one fails to end
            for server in self.servers:
                stack.callback(server.stop)
