"""``manage.py uws4r doctor``: each fault is there for real, and is named."""

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import override_settings

from tests.support.broken_fronts import Canned, Collecting
from tests.support.certificates import self_signed
from tests.support.deployed import start_nginx
from tests.support.runserver import Runserver
from tests.support.servers import SITE, FakeRedis, RedisServer, free_port, wait_until
from tests.support.site import Site, manage, serve
from tests.support.wire import Refused
from uws4r.doctor import Doctor, Options

pytestmark = pytest.mark.e2e

HEADERS = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "Upgrade";'
PARAMS = (
    "include /etc/nginx/uwsgi_params; uwsgi_param HTTP_HOST $http_host; uwsgi_param HTTP_X_FORWARDED_PROTO $scheme;"
)
RIGHT = f"{HEADERS} proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;"

# Server blocks by what is wrong with them: SITE serves pages and websockets, SOCKETS websockets only.
FRONTS = {
    "right": f"location / {{ proxy_pass http://SITE; {RIGHT} }}",
    "right, with uwsgi_pass": f"location / {{ {PARAMS} uwsgi_pass UWSGI; }}",
    "no Upgrade": "location / { proxy_pass http://SITE; proxy_set_header Host $http_host; }",
    "no Upgrade, with uwsgi_pass": f"location / {{ {PARAMS} uwsgi_pass_request_headers off; uwsgi_pass UWSGI; }}",
    "HTTP/1.0": f"location / {{ proxy_pass http://SITE; {RIGHT.replace('version 1.1', 'version 1.0')} }}",
    "no Connection": "location / { proxy_pass http://SITE; " + RIGHT.replace('"Upgrade"', '""') + " }",
    "prefix stripped": f"location /ws/ {{ proxy_pass http://SOCKETS/; {RIGHT} }}",
    "prefix stripped, pages": f"location /ws/ {{ proxy_pass http://SITE/; {RIGHT} }}",
    "not routed": "location / { return 404; }",
    "a page": 'location / { default_type text/html; return 200 "<html><body>Welcome</body></html>"; }',
    "redirect to TLS": "location / { return 301 https://$host$request_uri; }",
    "redirect to a login": "location / { return 302 /login/?next=$request_uri; }",
    "a password": "location / { return 401; }",
    "forbidden": "location / { deny all; }",
    "port lost": f"location / {{ proxy_pass http://SITE; {RIGHT.replace('$http_host', '$host')} }}",
    "another host": f"location / {{ proxy_pass http://SITE; {HEADERS} }}",
    "host not allowed": f"location / {{ proxy_pass http://SITE; {HEADERS} proxy_set_header Host in.side; }}",
    "no Origin": f"location / {{ proxy_pass http://SOCKETS; {RIGHT} proxy_set_header Origin ''; }}",
    "2 seconds": f"location / {{ proxy_pass http://SITE; {RIGHT} proxy_read_timeout 2s; }}",
    "nobody": f"location / {{ proxy_pass http://NOBODY; {RIGHT} }}",
    "stuck": f"location / {{ proxy_pass http://STUCK; {RIGHT} proxy_read_timeout 1s; }}",
    "TLS": f"location / {{ proxy_pass http://SITE; {HEADERS} proxy_set_header Host $http_host; }}",
    "TLS, told of": f"location / {{ proxy_pass http://SOCKETS; {RIGHT} }}",
}


class World(SimpleNamespace):
    """Two sites, each with a Redis of its own, and NGiNX in front of them in every way."""

    site: Site
    sockets: Site
    ports: dict[str, int]
    cert: Path

    def url(self, front: str) -> str:
        return f"{'https' if front.startswith('TLS') else 'http'}://localhost:{self.ports[front]}/"


@pytest.fixture(scope="module")
def world(database: Path) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:
        directory = Path(name)
        cert, key = self_signed(directory)
        with ExitStack() as stack:
            one, two = (stack.enter_context(closing(RedisServer(directory))) for _ in range(2))
            stuck = stack.enter_context(closing(Canned(None)))
            uwsgi = f"127.0.0.1:{free_port()}"
            site = serve(directory, one, database, workers=2, options=("--socket", uwsgi))
            stack.callback(site.uwsgi.stop)
            settings = {"SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"], "UWS4R_REQUIRE_ORIGIN": True}
            sockets = serve(directory, two, database, settings, module="uws4r.wsgi:application")
            stack.callback(sockets.uwsgi.stop)
            names = {
                "SITE": f"127.0.0.1:{site.address[1]}",
                "SOCKETS": f"127.0.0.1:{sockets.address[1]}",
                "UWSGI": uwsgi,
                "NOBODY": f"127.0.0.1:{free_port()}",
                "STUCK": f"127.0.0.1:{stuck.port}",
            }
            ports = {front: free_port() for front in FRONTS}
            blocks = []
            for front, block in FRONTS.items():
                tls = f" ssl; ssl_certificate {cert}; ssl_certificate_key {key}" if front.startswith("TLS") else ""
                there = re.sub("|".join(names), lambda name: names[name[0]], block)
                blocks.append(f"server {{ listen 127.0.0.1:{ports[front]}{tls}; {there} }}")
            nginx = start_nginx(directory, "\n".join(blocks), ports["not routed"])
            stack.callback(nginx.stop)
            yield World(site=site, sockets=sockets, ports=ports, cert=cert, uwsgi=uwsgi)
            for each in (site, sockets):
                each.uwsgi.assert_healthy()


class Report(list[Any]):
    """The steps of an examination."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def states(self, name: str) -> list[str]:
        return [step.finding.state for step in self if step.name == name]

    def broken(self) -> list[str]:
        return [step.name for step in self if step.finding.state == "FAILED"]

    def text(self, name: str) -> str:
        return "\n".join(" | ".join(step.finding) for step in self if step.name == name)


def examine(redis_url: str, url: str | None = None, settings: dict[str, Any] | None = None, **options: Any) -> Report:
    """What the doctor says, asked in this process with the settings of a site."""
    with override_settings(**{"WS4REDIS_CONNECTION": redis_url, "DEBUG": True, **(settings or {})}):
        return Report(Doctor(Options(url, **{"timeout": 5.0, **options})).steps())


def front(world: World, name: str, **options: Any) -> Report:
    return examine(world.site.redis.url, world.url(name), **options)


# ---------------------------------------------------------------- all is well


@pytest.mark.parametrize("name", ["right", "right, with uwsgi_pass"])
def test_all_is_well(world: World, name: str) -> None:
    report = front(world, name, idle=0.2)
    assert [(step.name, step.finding.state) for step in report] == [
        (step, "ok")
        for step in ("settings", "Redis", "Redis's permissions", "address", "handshake", "ping", "workers", "message",
                     "idle", "claims")
    ], str(report)  # fmt: skip
    assert "redis 7" in report.text("Redis").lower() or "valkey" in report.text("Redis").lower()
    assert "uWSGI 2." in report.text("workers")
    assert "received after" in report.text("message")
    assert "still open after 0.2 s" in report.text("idle")


def test_a_site_notices_nothing(world: World) -> None:
    client = world.site.connect("/ws/f?subscribe-broadcast")
    before = set(world.site.redis.client.keys())
    front(world, "right")
    client.ping()
    world.site.close_clients()
    kept = set(world.site.redis.client.keys()) - before
    assert all(0 < world.site.redis.client.pttl(name) <= 1000 for name in kept)
    lines = [line for line in world.site.uwsgi.log.splitlines() if "uws4r-doctor-" in line and " closed: " in line]
    assert all("closed: 1000" in line for line in lines[-2:])


def test_without_a_url_it_says_how_to_go_on(world: World) -> None:
    report = examine(world.site.redis.url)
    assert not report.broken()
    assert "manage.py uws4r doctor https://" in report.text("URL")


# ---------------------------------------------------------------- the command


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, SITE / "manage.py", "uws4r", "doctor", *arguments],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_the_command_prints_a_line_for_each_step(world: World) -> None:
    said = manage(world.site.env, "uws4r", "doctor", world.url("right"))
    lines = [line for line in said.splitlines() if not line.startswith(" ")]
    assert [line.split(":")[0].split(None, 1) for line in lines] == [
        ["warning", "settings"], ["ok", "Redis"], ["ok", "Redis's permissions"],
        ["warning", "Redis's memory"], ["ok", "address"], ["ok", "handshake"],
        ["ok", "ping"], ["ok", "workers"], ["ok", "message"], ["ok", "claims"],
    ]  # fmt: skip
    told = json.loads(manage(world.site.env, "uws4r", "doctor", world.url("right"), "--json"))
    assert told["ok"] is True
    assert {step["step"] for step in told["steps"]} >= {"handshake", "message"}


def test_the_command_fails_where_something_is_broken(world: World) -> None:
    done = run(world.site.env, world.url("no Upgrade"))
    assert done.returncode == 1
    assert "FAILED   handshake: 400 from uws4r" in done.stdout
    assert "change: NGiNX: proxy_set_header Upgrade $http_upgrade" in done.stdout
    assert "broken: handshake" in done.stderr
    done = run(world.site.env, world.url("no Upgrade"), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False


def test_the_command_wants_values_that_can_be_sent(world: World) -> None:
    assert "no header can say" in run(world.site.env, world.url("right"), "--cookie", "a=b\r\nX: y").stderr
    assert "--timeout must be" in run(world.site.env, world.url("right"), "--timeout", "0").stderr


# ---------------------------------------------------------------- what is in front

WRONG = [
    ("no Upgrade", "without its header Upgrade", "proxy_set_header Upgrade $http_upgrade"),
    ("no Upgrade, with uwsgi_pass", "without its header Upgrade", "uwsgi_pass_request_headers on"),
    ("HTTP/1.0", "HTTP/1.0, which has no Upgrade", "proxy_http_version 1.1"),
    ("no Connection", "without its header Connection", 'proxy_set_header Connection "Upgrade"'),
    ("prefix stripped", "a prefix is stripped", "without a slash or a path behind the address"),
    ("prefix stripped, pages", "404 Not Found from Django", "its prefix stripped"),
    ("not routed", "NGiNX has no location for /ws/", "location /ws/ { proxy_pass"),
    ("a page", "200 OK from nginx", "a view, not uws4r, answers /ws/"),
    ("redirect to TLS", "the site speaks TLS only", "https://localhost/"),
    ("redirect to a login", "websockets do not follow redirects", "/login/"),
    ("a password", "401 Unauthorized from NGiNX", "a password is asked for"),
    ("forbidden", "403 Forbidden from NGiNX", "NGiNX forbids it, before uws4r sees it"),
    ("port lost", "loses its port on the way", "proxy_set_header Host $http_host"),
    ("another host", "another Host arrives", "proxy_set_header Host $http_host"),
    ("host not allowed", "not in ALLOWED_HOSTS", "proxy_set_header Host $http_host"),
    ("no Origin", "the header Origin does not arrive", "UWS4R_REQUIRE_ORIGIN"),
    ("nobody", "502 Bad Gateway from NGiNX", "nobody is behind what is in front"),
    ("stuck", "504 Gateway Time-out from NGiNX", "the workers do not answer"),
]


def test_made_up_addresses_and_schemes_are_not_believed(world: World) -> None:
    assert "are not believed" in front(world, "right").text("claims")


@pytest.mark.parametrize(
    ("settings", "seen", "change"),
    [
        ({"UWS4R_PROXIES": ["127.0.0.0/8"]}, "the address 192.0.2.99", "Caddy: header_up -X_Forwarded_*"),
        (
            {"SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"]},
            "the scheme that the doctor made up",
            "no SECURE_PROXY_SSL_HEADER",
        ),
    ],
    ids=["address", "scheme"],
)
def test_what_a_client_can_claim_is_found(
    served: Callable[..., Site], own_redis: RedisServer, settings: dict[str, Any], seen: str, change: str
) -> None:
    """Without any proxy in front, and settings that believe one."""
    site = served(redis=own_redis, settings=settings)
    report = examine(own_redis.url, f"http://127.0.0.1:{site.address[1]}/")
    assert seen in report.text("claims")
    assert change in report.text("claims")
    assert not report.broken()


@pytest.mark.parametrize(("name", "seen", "change"), WRONG, ids=[row[0] for row in WRONG])
def test_what_is_wrong_with_nginx_is_named(world: World, name: str, seen: str, change: str) -> None:
    report = front(world, name)
    assert report.broken() == ["handshake"], str(report)
    assert seen in report.text("handshake")
    assert change in report.text("handshake")


def test_the_path_of_another_setting(world: World) -> None:
    """In the URL, in this process, and as a worker has it."""
    report = examine(world.site.redis.url, world.url("right").replace("http:", "ws:") + "sockets/")
    assert "404 Not Found from Django" in report.text("handshake")
    elsewhere = {"WEBSOCKET_URL": "/sockets/"}
    report = examine(world.sockets.redis.url, f"http://localhost:{world.sockets.address[1]}/", elsewhere)
    assert "WEBSOCKET_URL of the workers is not that of this process, /sockets/" in report.text("handshake")
    assert "WEBSOCKET_URL '/ws/', in this process '/sockets/'" in report.text("workers")


def test_a_foreign_origin(world: World) -> None:
    report = front(world, "right", origin="https://other.example")
    assert report.broken() == ["handshake"]
    assert "the Origin https://other.example is refused" in report.text("handshake")
    assert "UWS4R_ALLOWED_ORIGINS = ['https://other.example']" in report.text("handshake")


# ---------------------------------------------------------------- TLS, and no way at all


def test_a_certificate_that_nobody_trusts(world: World) -> None:
    report = front(world, "TLS, told of")
    assert report.broken() == ["TLS"]
    assert "certificate is not trusted" in report.text("TLS")
    assert "--insecure" in report.text("TLS")


def test_django_is_not_told_of_tls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(world.cert))
    report = front(world, "TLS")
    assert report.states("TLS") == ["ok"], str(report)
    assert report.broken() == ["handshake"]
    assert "one without TLS" in report.text("handshake")
    assert "SECURE_PROXY_SSL_HEADER = (" in report.text("handshake")
    report = examine(world.sockets.redis.url, world.url("TLS, told of"))
    assert not report.broken(), str(report)


def test_any_certificate_if_told_so(world: World) -> None:
    report = examine(world.sockets.redis.url, world.url("TLS, told of").replace("https", "wss"), insecure=True)
    assert report.states("TLS") == ["warning"]
    assert report.states("message") == ["ok"]


def test_http_to_a_port_with_tls_and_the_other_way_round(world: World) -> None:
    report = examine(world.site.redis.url, f"http://localhost:{world.ports['TLS']}/")
    assert "this port speaks TLS" in report.text("handshake")
    for port in (world.ports["right"], world.site.address[1]):
        report = examine(world.site.redis.url, f"https://localhost:{port}/")
        assert report.broken() == ["TLS"]
        assert "this port speaks no TLS" in report.text("TLS")


def test_nobody_listens(world: World) -> None:
    report = examine(world.site.redis.url, f"http://127.0.0.1:{free_port()}/")
    assert report.broken() == ["address"]
    assert "nobody listens there" in report.text("address")


def test_a_name_without_an_address(world: World) -> None:
    report = examine(world.site.redis.url, "http://no-such-host.invalid/")
    assert report.broken() == ["address"]
    assert "DNS" in report.text("address")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost/", "http:///ws/", "http://localhost:x/"])
def test_what_is_no_url(world: World, url: str) -> None:
    report = examine(world.site.redis.url, url)
    assert report.broken() == ["URL"]


def test_other_servers_than_those_of_http(world: World) -> None:
    report = examine(world.site.redis.url, f"http://localhost:{world.site.redis.port}/")
    assert report.broken() == ["handshake"]
    report = examine(world.site.redis.url, f"http://{world.uwsgi}/")
    assert "a socket of uWSGI's own protocol" in report.text("handshake"), str(report)


# ---------------------------------------------------------------- an open websocket


def test_a_page_that_is_compressed(world: World) -> None:
    body = gzip.compress(b"<html><title>Welcome to Django</title></html>")
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    with closing(Canned((head % len(body)).encode() + body)) as page:
        report = examine(world.site.redis.url, f"http://localhost:{page.port}/")
    assert "200 OK from Django, gzip (GZipMiddleware): a page" in report.text("handshake")


def test_a_101_of_a_cache(world: World) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: c3RhbGU=\r\n\r\n"
    with closing(Canned(answer)) as cache:
        report = examine(world.site.redis.url, f"http://localhost:{cache.port}/")
    assert "does not answer the key" in report.text("handshake")


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        (4096, "101, but the answer to a ping came only with a long message"),
        (1 << 30, "101, but no answer to a ping"),
    ],
)
def test_a_front_that_collects(world: World, size: int, seen: str) -> None:
    with closing(Collecting(world.site.address, size)) as proxy:
        report = examine(world.site.redis.url, f"http://localhost:{proxy.port}/", timeout=1.0)
    assert report.broken() == ["ping"]
    assert seen in report.text("ping")
    assert "buffering" in report.text("ping")


def test_a_front_that_lets_nothing_follow(world: World) -> None:
    with closing(Collecting(world.site.address, 0)) as proxy:
        report = examine(world.site.redis.url, f"http://localhost:{proxy.port}/")
    assert report.broken() == ["ping"]
    assert "101, and then the end" in report.text("ping")


def test_a_time_limit_that_is_shorter_than_the_pause_between_pings(world: World) -> None:
    report = front(world, "2 seconds", idle=10.0)
    assert report.broken() == ["idle"]
    assert "ended after 2." in report.text("idle")
    assert "the workers ping every 25 s" in report.text("idle")
    assert "proxy_read_timeout 120s" in report.text("idle")


def test_pings_keep_it_open(world: World, served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_PING_INTERVAL": 0.5})
    report = examine(site.redis.url, f"http://localhost:{site.address[1]}/", idle=1.5)
    assert not report.broken(), str(report)
    assert "pings of the server" in report.text("idle")
    assert "with 0 pings" not in report.text("idle")


def test_no_answer_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uws4r.doctor.PATIENCE", 0.0)
    with closing(Canned(None)) as stuck:
        report = examine(world.site.redis.url, f"http://localhost:{stuck.port}/", timeout=0.5)
    assert report.broken() == ["handshake"]
    assert "connected, but no answer in time" in report.text("handshake")


# ---------------------------------------------------------------- workers


def test_options_that_end_workers_and_few_descriptors(served: Callable[..., Site], own_redis: RedisServer) -> None:
    harmful = ("--max-requests", "1000", "--cheaper", "1", "--harakiri", "60")
    site = served(redis=own_redis, workers=2, options=(*harmful, "--max-fd", "160"))
    report = examine(own_redis.url, f"http://localhost:{site.address[1]}/")
    assert not report.broken(), str(report)
    for name, value in (("max-requests", 1000), ("cheaper", 1), ("harakiri", 60)):
        assert f"{name} = {value} (" in report.text("workers")
        assert f"uWSGI: leave {name} out" in report.text("workers")
        assert site.uwsgi.log.count(f"WARNING uws4r.uwsgi {name} = {value} ") == 1
    assert "160 descriptors, 1 websockets" in report.text("workers")
    assert "max-fd = 65536" in report.text("workers")


def test_a_worker_without_room(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, options=("--max-fd", "70"))
    with pytest.raises(Refused, match="503"):
        site.connect("/ws/foo")
    # Only then it has a hub, which takes a moment until it takes orders.
    wait_until(lambda: own_redis.subscriptions("uws4r:control") == 1, "a worker that can be asked")
    report = examine(own_redis.url, f"http://localhost:{site.address[1]}/")
    assert report.broken() == ["handshake"]
    assert "no room for another websocket" in report.text("handshake")
    assert "max-fd = 65536" in report.text("handshake")
    assert "70 descriptors" in report.text("workers")


def test_workers_with_another_redis(world: World, own_redis: RedisServer) -> None:
    report = examine(own_redis.url, world.url("right"), timeout=1.0)
    assert report.states("handshake") == ["ok"]
    assert report.broken() == ["workers"]
    assert "uses another Redis or another WS4REDIS_PREFIX" in report.text("workers")


def test_workers_with_another_prefix(world: World) -> None:
    report = examine(world.site.redis.url, world.url("right"), {"WS4REDIS_PREFIX": "mine"}, timeout=1.0)
    assert report.broken() == ["workers"]
    assert "workers with WS4REDIS_PREFIX ''" in report.text("workers")


def test_other_workers_than_the_one_behind_the_url(world: World) -> None:
    """There are workers in this Redis, and the front leads to one with another."""
    world.site.connect("/ws/f").ping()
    report = examine(world.site.redis.url, f"http://localhost:{world.sockets.address[1]}/", timeout=1.0)
    world.site.close_clients()
    assert report.states("workers") == ["ok"]
    assert report.broken() == ["message"]
    assert "published, and no worker listened" in report.text("message")
    assert "another Redis or another WS4REDIS_PREFIX than those that answered" in report.text("message")


def test_another_database(world: World) -> None:
    report = examine(world.site.redis.url.replace("/0", "/1"), world.url("right"))
    assert not report.broken()
    assert "database 0, in this process 1" in report.text("workers")


def test_no_worker_yet(own_redis: RedisServer) -> None:
    began = time.monotonic()
    report = examine(own_redis.url, timeout=30.0)
    assert time.monotonic() - began < 15  # nobody is waited for
    assert "none has served a websocket yet" in report.text("workers")


def test_a_redis_without_a_limit(own_redis: RedisServer) -> None:
    deployed = {"DEBUG": False}
    report = examine(own_redis.url, settings=deployed)
    assert report.states("Redis's memory") == ["warning"]
    assert "uws4r.W014" in report.text("Redis's memory")
    assert "redis.conf: Set maxmemory" in report.text("Redis's memory")
    assert examine(own_redis.url).states("Redis's memory") == []
    own_redis.client.config_set("maxmemory", "1gb")
    assert examine(own_redis.url, settings=deployed).states("Redis's memory") == []


def test_runserver_is_no_server_for_strangers(runserver: Runserver, own_redis: RedisServer) -> None:
    server = runserver("--noreload", redis=own_redis)
    report = examine(own_redis.url, f"http://127.0.0.1:{server.port}/")
    assert not report.broken(), str(report)
    assert "manage.py runserver (" in report.text("workers")


# ---------------------------------------------------------------- what the site allows


def test_strangers_are_refused(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, settings={"WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.only_authenticated"})
    url = f"http://localhost:{site.address[1]}/"
    report = examine(own_redis.url, url)
    assert (report.states("handshake"), report.broken()) == (["warning"], []), str(report)
    assert "--cookie sessionid=" in report.text("handshake")
    assert "messages and idle time are not checked" in report.text("handshake")
    report = examine(own_redis.url, url, cookies=[f"sessionid={site.log_in('john')}"])
    assert report.states("message") == ["ok"], str(report)
    report = examine(own_redis.url, url, cookies=["sessionid=nobody's"])
    assert report.broken() == ["handshake"]


def test_strangers_are_granted_nothing(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, settings={"WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.nothing"})
    report = examine(own_redis.url, f"http://localhost:{site.address[1]}/", timeout=1.0)
    assert report.states("message") == ["warning"], str(report)
    assert "does not grant subscribe-broadcast" in report.text("message")


def test_a_site_that_breaks_in_the_handshake(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, settings={"WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.explode"})
    report = examine(own_redis.url, f"http://localhost:{site.address[1]}/")
    assert report.broken() == ["handshake"]
    assert "'a handshake at'" in report.text("handshake")


def test_wrong_settings_end_it() -> None:
    report = examine("redis://localhost:1/0", settings={"UWS4R_PING_INTERVAL": "25", "WEBSOCKET_URL": "ws"})
    assert [step.name for step in report] == ["settings", "settings"]
    assert "uws4r.E011" in report.text("settings")


# ---------------------------------------------------------------- Redis


def test_redis_is_away() -> None:
    report = examine(f"redis://127.0.0.1:{free_port()}/0")
    assert report.broken() == ["Redis"]
    assert "Redis cannot be reached from this process" in report.text("Redis")


def test_redis_is_away_from_here_only(world: World) -> None:
    report = examine(f"redis://127.0.0.1:{free_port()}/0", world.url("right"))
    assert report.broken() == ["Redis"]
    assert report.states("ping") == ["ok"]
    assert "not checked" in report.text("message")


@pytest.mark.slow
def test_redis_is_away_from_the_workers_too(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis)
    own_redis.stop()
    report = examine(own_redis.url, f"http://localhost:{site.address[1]}/", timeout=3.0)
    assert report.broken() == ["Redis", "handshake"]
    assert "which cannot reach its Redis" in report.text("handshake"), str(report)


@pytest.mark.parametrize(
    "said", [b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n", b"-NOPROTO\r\n"]
)
def test_redis_is_too_old(said: bytes) -> None:
    with closing(FakeRedis(said)) as old:
        report = examine(f"redis://127.0.0.1:{old.port}/0")
    assert report.broken() == ["Redis"]
    assert "needs Redis 6 or newer" in report.text("Redis")


def test_redis_wants_a_password(own_redis: RedisServer) -> None:
    own_redis.client.config_set("requirepass", "secret")
    url = own_redis.url.replace("redis://", "redis://:wrong@")
    report = examine(url)
    own_redis.client.close()
    assert report.broken() == ["Redis"]
    assert "no such user, or another password" in report.text("Redis"), str(report)
    assert "wrong@" not in str(report)


def test_redis_is_a_replica(own_redis: RedisServer) -> None:
    own_redis.client.replicaof("127.0.0.1", free_port())
    report = examine(own_redis.url)
    assert report.broken() == ["Redis"]
    assert "this is a replica" in report.text("Redis")


def test_redis_runs_in_cluster_mode(tmp_path: Path) -> None:
    with closing(
        RedisServer(tmp_path, options=("--cluster-enabled", "yes", "--cluster-port", str(free_port())))
    ) as one:
        report = examine(one.url)
    assert report.broken() == ["Redis"]
    assert "cluster mode" in report.text("Redis")
    assert "WS4REDIS_CONNECTION: a Redis without" in report.text("Redis")


def test_redis_has_no_client_command(tmp_path: Path) -> None:
    with closing(RedisServer(tmp_path, options=("--rename-command", "CLIENT", ""))) as one:
        report = examine(one.url)
    assert not report.broken(), str(report)


def test_redis_is_full(own_redis: RedisServer) -> None:
    own_redis.client.config_set("maxmemory", "1")
    report = examine(own_redis.url)
    assert report.broken() == ["Redis's permissions"]
    assert "SET: " in report.text("Redis's permissions")
    assert "redis.conf: a larger maxmemory" in report.text("Redis's permissions")


ACLS = [
    ("+@all ~* resetchannels &broadcast:* &user:* &group:* &session:*", "SUBSCRIBE uws4r:control*", "&uws4r:control*"),
    ("+@all ~* resetchannels &uws4r:control*", "SUBSCRIBE broadcast:*", "&broadcast:*"),
    ("+@all -eval ~* &*", "EVAL broadcast:*", "+eval"),
    ("+@all -subscribe ~* &*", "SUBSCRIBE broadcast:*", "+subscribe +unsubscribe"),
    ("+@all ~broadcast:* &*", "SET user:*", "~user:*"),
    ("+@all -multi ~* &*", "MULTI", "+multi"),
]


@pytest.mark.parametrize(("rules", "seen", "change"), ACLS, ids=[row[2] for row in ACLS])
def test_an_acl_that_forbids_something(own_redis: RedisServer, rules: str, seen: str, change: str) -> None:
    own_redis.client.execute_command("ACL", "SETUSER", "site", "reset", "on", ">secret", *rules.split())
    report = examine(own_redis.url.replace("redis://", "redis://site:secret@"))
    assert report.broken() == ["Redis's permissions"], str(report)
    text = report.text("Redis's permissions")
    assert "forbidden to the user 'site'" in text
    assert seen in text
    assert "redis-cli ACL SETUSER site " in text
    assert change in text
    # What it says is enough, as far as it goes.
    grants = text.rsplit("ACL SETUSER site ", 1)[1].split()
    own_redis.client.execute_command("ACL", "SETUSER", "site", *grants)
    assert not examine(own_redis.url.replace("redis://", "redis://site:secret@")).broken()


def test_the_workers_user_may_not_subscribe(served: Callable[..., Site], own_redis: RedisServer) -> None:
    """Another user than this process has."""
    own_redis.client.execute_command(
        "ACL", "SETUSER", "site", "on", ">secret", "+@all", "~*", "resetchannels", "&uws4r:control*"
    )
    url = own_redis.url.replace("redis://", "redis://site:secret@")
    site = served(redis=own_redis, settings={"WS4REDIS_CONNECTION": url})
    report = examine(own_redis.url, f"http://localhost:{site.address[1]}/", timeout=2.0)
    assert report.broken(), str(report)
    assert "Redis refused" in str(report)
    assert "ACL of the workers' user" in str(report)
