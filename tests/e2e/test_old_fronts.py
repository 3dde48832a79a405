"""
NGiNX and Apache as ws4redis' manual set them up, in front of a site with a domain of its own.

Neither block passes on the Host that the browser asked for. Django's pages work all the same, and the websockets of
those pages are foreign: which line is missing stands in the log.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.deployed import start_nginx
from tests.support.fronts import Apache, Certificate
from tests.support.servers import RedisServer, free_port
from tests.support.site import Site, serve
from tests.support.wire import Refused, connect

pytestmark = pytest.mark.e2e

DOMAIN = "www.example.com"

NGINX = """
location / {{ include /etc/nginx/uwsgi_params; uwsgi_pass 127.0.0.1:{uwsgi}; }}
location /ws/ {{
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
    {line}
    proxy_pass http://127.0.0.1:{http};
}}
"""
APACHE = """
# Modules: a2enmod proxy proxy_http proxy_wstunnel
{line}
ProxyPass "/ws/" "ws://127.0.0.1:{http}/ws/"
ProxyPass "/" "http://127.0.0.1:{http}/"
"""


@pytest.fixture(scope="module")
def behind(redis_server: RedisServer, database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    directory = tmp_path_factory.mktemp("site")
    uwsgi = free_port()
    site = serve(
        directory,
        redis_server,
        database,
        {"ALLOWED_HOSTS": [DOMAIN, "127.0.0.1", "localhost"]},
        options=("--socket", f"127.0.0.1:{uwsgi}"),
    )
    yield SimpleNamespace(site=site, ports={"uwsgi": uwsgi, "http": site.address[1]})
    site.uwsgi.stop()


def nginx_port(directory: Path, ports: dict[str, int], line: str) -> Any:
    port = free_port()
    block = NGINX.format(line=line, **ports)
    return port, start_nginx(directory, f"server {{ listen 127.0.0.1:{port}; {block} }}", port)


def apache_port(directory: Path, ports: dict[str, int], line: str) -> Any:
    file = directory / "old.conf"
    file.write_text(APACHE.format(line=line, **ports))
    place: Any = SimpleNamespace(run=directory, env={"UWS4R_STATIC": directory})
    apache = Apache(directory, place, file, Certificate(directory), 60)
    return apache.port, apache


@pytest.mark.parametrize(
    ("start", "line"),
    [(nginx_port, "proxy_set_header Host $http_host;"), (apache_port, "ProxyPreserveHost On")],
    ids=["NGiNX", "Apache"],
)
def test_a_proxy_that_passes_no_host_is_named_with_its_line(behind: Any, tmp_path: Path, start: Any, line: str) -> None:
    site: Site = behind.site
    headers: dict[str, str | None] = {"Host": DOMAIN, "Origin": f"http://{DOMAIN}"}
    port, front = start(tmp_path, behind.ports, "")
    try:
        with pytest.raises(Refused, match="403"):
            connect(("127.0.0.1", port), "/ws/foo?subscribe-broadcast", headers)
    finally:
        front.stop()
    logged = [entry for entry in site.uwsgi.log.splitlines() if "foreign Origin" in entry][-1]
    assert f"foreign Origin 'http://{DOMAIN}' on 'http://127.0.0.1:{behind.ports['http']}': 403" in logged
    assert line in logged
    port, front = start(tmp_path, behind.ports, line)
    try:
        with connect(("127.0.0.1", port), "/ws/foo?subscribe-broadcast", headers) as client:
            assert client.ping() == []
    finally:
        front.stop()
