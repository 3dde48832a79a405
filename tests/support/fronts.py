"""The test site behind everything that may stand in front of it: the shipped files, in real servers."""

import os
import pwd
import grp
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.deployed import NGINX_MAIN, SERVER, Emperor, answers
from tests.support.servers import ROOT, SITE, Process, RedisServer, Uwsgi, free_port
from tests.support.site import Site
from tests.support.wire import TIMEOUT

# A client's address that is none of a proxy: all of 127.0.0.0/8 is this machine.
CLIENT = "127.0.0.2"


@dataclass
class Front(Site):
    """A site as its visitors reach it: through TLS or not, from an address of their own."""

    tls: ssl.SSLContext | None = None
    reload: Callable[[], None] = field(default=lambda: None)

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.address[1]}"

    def dial(self) -> socket.socket:
        plain = socket.create_connection(self.address, TIMEOUT, (CLIENT, 0))
        if self.tls is None:
            return plain
        return self.tls.wrap_socket(plain, server_hostname="localhost")


@dataclass
class Certificate:
    """A certificate for localhost that is its own authority."""

    directory: Path

    def __post_init__(self) -> None:
        self.chain, self.key = self.directory / "cert.pem", self.directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.key, "-out", self.chain],
            check=True, capture_output=True,
        )  # fmt: skip

    def context(self) -> ssl.SSLContext:
        """What a client needs to believe it."""
        return ssl.create_default_context(cafile=str(self.chain))


NGINX_TLS = """
server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate.chain};
    ssl_certificate_key {certificate.key};
    set $uws4r_run {run};
    set $uws4r_static {static};
    include {files}/uws4r-tls.conf;
    include {files}/uws4r.conf;
}}
"""

APACHE_MODULES = Path("/usr/lib/apache2/modules")
# What Debian's has on from the start, as far as it matters here; each of our files names the rest.
APACHE_USUAL = ("mpm_event", "authz_core", "alias", "mime", "reqtimeout")
APACHE_MAIN = """
ServerRoot {directory}
PidFile {directory}/{name}.pid
DefaultRuntimeDir {directory}
Mutex posixsem
ServerName localhost
ErrorLog /dev/stderr
LogLevel warn
{modules}
{user}
Timeout {timeout}
TypesConfig /etc/mime.types
ServerLimit {processes}
StartServers {processes}
ThreadsPerChild 25
MaxRequestWorkers {workers}
MinSpareThreads 1
MaxSpareThreads {workers}
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
        certificate: Certificate | None = None,
        workers: int = 75,
        timeout: int = 60,
    ) -> None:
        self.port, self.tls_port = free_port(), free_port()
        hosts = APACHE_HOST.format(port=self.port, file=file, tls="")
        modules = [*APACHE_USUAL, *modules_of(file)]
        if certificate is not None:
            modules.append("ssl")
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
                workers=workers,
                processes=workers // 25,
                run=emperor.run,
                static=emperor.env.get("UWS4R_STATIC", directory),
                hosts=hosts,
            )
        )
        self.process = Process(
            ["/usr/sbin/apache2", "-D", "FOREGROUND", "-f", config], directory / f"{config.stem}.log"
        )
        self.process.wait_ready(lambda: answers(self.port))

    def stop(self) -> None:
        self.process.stop()
