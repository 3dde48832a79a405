"""What an answer means: bytes in, a diagnosis out. The faults themselves are in the end-to-end tests."""

import socket
import ssl
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from uws4r import __version__
from uws4r.diagnosis import (
    FAILED,
    WARNING,
    Asked,
    answered_by,
    of_answer,
    of_connecting,
    of_cut,
    of_end,
    of_no_answer,
    of_origin,
    of_workers,
)
from uws4r.errors import ProtocolError
from uws4r.probe import parse_answer, parse_target
from uws4r.redis_probe import of_redis

HTTP, HTTPS = (Asked(parse_target(url, "/ws/"), "", "/ws/") for url in ("http://example.com/", "https://example.com/"))


def response(status: str, body: str = "", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def uws4r(status: str, sentence: str) -> bytes:
    return response(status, f"{sentence}.\n", Content_Type="text/plain; charset=utf-8", Cache_Control="no-store")


NGINX = "<html>\r\n<center><h1>{0}</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</html>"

ANSWERS = [
    # uws4r's own sentences.
    (uws4r("400 Bad Request", "Client does not wish to upgrade to a websocket"), "header Upgrade", "$http_upgrade"),
    (uws4r("400 Bad Request", "HTTP server protocol must be 1.1"), "HTTP/1.0", "proxy_http_version 1.1"),
    (
        uws4r("400 Bad Request", "The header Connection: Upgrade is missing"),
        "header Connection",
        'Connection "Upgrade"',
    ),
    (uws4r("400 Bad Request", "Sec-WebSocket-Key must be 16 bytes in base64"), "Sec-WebSocket-", "Upgrade"),
    (uws4r("426 Upgrade Required", "The only version of the protocol spoken here is 13"), "-Version", "Upgrade"),
    (uws4r("400 Bad Request", "This host is not served here (ALLOWED_HOSTS)"), "Host", "['example.com']"),
    (uws4r("404 Not Found", "Websockets are at /ws/ here, and nothing else is"), "prefix is stripped", "location /ws/"),
    (uws4r("404 Not Found", "Websockets are at /sockets/ here, and nothing else is"), "not that of", "'/sockets/'"),
    (uws4r("503 Service Unavailable", "The message queue cannot be reached: come back later"), "Redis", "CONNECTION"),
    (uws4r("503 Service Unavailable", "The server is full: come back later"), "no room", "max-fd"),
    (uws4r("503 Service Unavailable", "The server restarts: come back in a moment"), "about to stop", "again"),
    (uws4r("429 Too Many Requests", "Too many websockets of this address"), "as many", "UWS4R_PROXIES"),
    (uws4r("500 Internal Server Error", "The server is not set up for websockets"), "cannot do", "is refused"),
    (uws4r("500 Internal Server Error", "The server could not open a websocket"), "failed", "traceback"),
    (uws4r("400 Bad Request", "No such cookies"), "the site itself refuses", "log"),
    # Other servers.
    (response("400 Bad Request", NGINX.format("The plain HTTP request was sent to HTTPS port")), "speaks TLS", "https"),
    (response("404 Not Found", NGINX.format("404 Not Found"), Server="nginx"), "no location", "location /ws/"),
    (response("404 Not Found", "<h1>Not Found</h1>", Server="gunicorn"), "got to pages", "wrap("),
    (response("502 Bad Gateway", NGINX.format("502 Bad Gateway")), "nobody is behind", "http-socket"),
    (response("504 Gateway Time-out", NGINX.format("504")), "do not answer", "proxy_connect_timeout"),
    (response("503 Service Unavailable", "", Server="HAProxy"), "nobody is behind", "running"),
    (response("500 Internal Server Error", "Internal Server Error"), "broken", "without threads"),
    (response("301 Moved Permanently", "", Location="https://example.com/ws/"), "TLS only", "https://example.com/"),
    (response("302 Found", "", Location="/accounts/login/"), "redirects", "location /ws/"),
    (response("401 Unauthorized", ""), "a password", "off"),
    (response("403 Forbidden", NGINX.format("403 Forbidden")), "NGiNX forbids", "rules"),
    (response("400 Bad Request", "<h1>Bad Request (400)</h1>"), "Django refuses", "ALLOWED_HOSTS"),
    (response("426 Upgrade Required", "", Server="envoy"), "envoy wants", "Upgrade"),
    (response("200 OK", "<html>Welcome", Content_Type="text/html"), "a view, not uws4r", "wrap("),
    (response("200 OK", "pong", Content_Type="text/plain"), "this is not uws4r: 'pong'", "location"),
    # No HTTP.
    (b"", "closed without an answer", "http-socket"),
    (b"\x15\x03\x01\x00\x02\x02\x46", "speaks TLS", "https"),
    (b"-ERR unknown command\r\n", "no web server", "port"),
]


@pytest.mark.parametrize(("data", "means", "change"), ANSWERS, ids=[ascii(row[0][:60]) + row[1] for row in ANSWERS])
def test_an_answer_is_read(data: bytes, means: str, change: str) -> None:
    finding = of_answer(parse_answer(data), HTTP)
    assert finding.state == FAILED
    assert means in finding.seen + finding.means
    assert change in finding.change


@given(st.integers(100, 599), st.text(max_size=100), st.sampled_from(["text/html", "text/plain", ""]))
def test_every_answer_has_a_diagnosis(status: int, body: str, kind: str) -> None:
    finding = of_answer(parse_answer(response(f"{status} X", body, Content_Type=kind)), HTTP)
    assert finding.state == FAILED
    assert finding.means


def test_who_has_written_an_answer() -> None:
    """Not the name in the header Server, which is that of the last one on the way."""
    django = response("404 Not Found", "…", Server="nginx", Cross_Origin_Opener_Policy="same-origin")
    assert answered_by(parse_answer(django)) == "Django"
    assert answered_by(parse_answer(uws4r("403 Forbidden", "Not allowed") + b"")) == "uws4r"
    assert answered_by(parse_answer(response("200 OK", "", Server="Apache"))) == "Apache"
    assert answered_by(parse_answer(response("200 OK"))) == "a server without a name"


def test_a_site_may_refuse_strangers() -> None:
    answer = parse_answer(uws4r("403 Forbidden", "Not allowed"))
    stranger, known = of_answer(answer, HTTP), of_answer(answer, HTTP._replace(cookie=True))
    assert (stranger.state, known.state) == (WARNING, FAILED)
    assert "--cookie sessionid=" in stranger.change


@pytest.mark.parametrize(
    ("url", "accepted", "means", "change"),
    [
        ("https://example.com/", ["http://example.com"], "without TLS", "SECURE_PROXY_SSL_HEADER"),
        ("http://example.com:8000/", ["http://example.com"], "loses its port", "$http_host"),
        ("https://example.com/", [], "another Host arrives", "USE_X_FORWARDED_HOST"),
    ],
)
def test_what_else_is_let_in_tells_what_the_site_takes_itself_for(
    url: str, accepted: list[str], means: str, change: str
) -> None:
    target = parse_target(url, "/ws/")
    finding = of_origin(Asked(target, target.origin, "/ws/"), accepted, ["https://other.example"])
    assert target.origin in finding.seen
    assert means in finding.means
    assert change in finding.change


def test_a_foreign_origin_is_told_what_is_allowed() -> None:
    finding = of_origin(HTTPS._replace(origin="https://evil.example"), [], ["https://other.example"])
    assert "['https://other.example']" in finding.means
    assert "UWS4R_ALLOWED_ORIGINS = ['https://evil.example']" in finding.change


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (socket.gaierror(-2, "Name or service not known"), "DNS"),
        (ConnectionRefusedError(111, "Connection refused"), "nobody listens"),
        (TimeoutError("timed out"), "firewall"),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), "not trusted"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "speaks no TLS"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "speaks no TLS"),
        (ssl.SSLError(1, "[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE]"), "no agreement"),
        (ConnectionResetError(104, "Connection reset by peer"), "closed at once"),
    ],
)
def test_why_nobody_is_reached(error: Exception, means: str) -> None:
    assert means in of_connecting(error, HTTPS.target).means


def test_ends_that_nobody_wanted() -> None:
    assert "60 s is NGiNX's default" in of_end(60.3, None, "", 25).means
    assert "UWS4R_PING_INTERVAL is 0" in of_end(30, None, "", 0).means
    assert "SUBSCRIBE or MGET" in of_end(0, 1011, "Redis refused", 25).means
    assert "pongs" in of_end(45, 1011, "no answer to the ping", 25).means
    assert "max-requests" in of_end(3, 1012, "the server restarts", 25).change
    assert "close-codes" in of_end(3, 4403, "closed by an administrator", 25).means
    assert "changes what the server sends" in of_cut(ProtocolError("masked")).means
    assert "the worker died" in of_cut(EOFError()).means
    assert "cache" in of_no_answer(ProtocolError("Sec-WebSocket-Accept")).means
    assert "in time" in of_no_answer(TimeoutError()).seen
    assert "reset" in of_no_answer(ConnectionResetError(104, "Connection reset by peer")).seen


# ---------------------------------------------------------------- workers

SETTINGS = {"WEBSOCKET_URL": "/ws/", "UWS4R_PING_INTERVAL": 25.0, "UWS4R_MAX_CONNECTIONS": 0, "database": 0}
WORKER: dict[str, Any] = {
    "host": "web1", "pid": 1, "connections": 5, "link": "up", "draining": False, "uws4r": __version__,
    "descriptors": 65536, "settings": SETTINGS,
    "server": {"name": "uWSGI", "version": "2.0.31", "threads": True, "processes": 2, "options": {"master": True}},
}  # fmt: skip

TROUBLES = [
    ({"server": {"options": {"max-requests": "1000"}}}, WARNING, "max-requests = 1000", "leave max-requests out"),
    ({"server": {"options": {"cheaper": "1"}}}, WARNING, "cheaper = 1", "leave cheaper out"),
    ({"server": {"options": {"harakiri": "30"}}}, WARNING, "harakiri = 30", "leave harakiri out"),
    ({"server": {"spoiling": {"route-run": "chunked:"}}}, FAILED, "route-run = chunked:", "leave route-run out"),
    ({"server": {"threads": False}}, FAILED, "threads are disabled", "enable-threads = true"),
    ({"server": {"version": "2.0.21"}}, WARNING, "uWSGI 2.0.21", "upgrade"),
    ({"server": {"name": "runserver"}}, WARNING, "runserver", "uWSGI"),
    ({"link": "down"}, FAILED, "the link to Redis is down", "log"),
    ({"draining": True}, WARNING, "the worker stops", ""),
    ({"uws4r": "0.0.1"}, WARNING, "uws4r 0.0.1", "anew"),
    ({"descriptors": 1024}, WARNING, "1024 descriptors, 5 websockets", "max-fd = 65536"),
    ({"settings": {**SETTINGS, "UWS4R_MAX_CONNECTIONS": 100_000}}, WARNING, "UWS4R_MAX_CONNECTIONS = 100000", "max-fd"),
    ({"settings": {**SETTINGS, "WEBSOCKET_URL": "/x/"}}, FAILED, "WEBSOCKET_URL '/x/'", "WEBSOCKET_URL"),
    ({"settings": {**SETTINGS, "database": 3}}, WARNING, "database 3", "WS4REDIS_CONNECTION"),
    ({"settings": {**SETTINGS, "UWS4R_PING_INTERVAL": 0}}, WARNING, "UWS4R_PING_INTERVAL is 0", "= 25"),
]


@pytest.mark.parametrize(("change", "state", "seen", "advice"), TROUBLES, ids=[row[2] for row in TROUBLES])
def test_what_is_wrong_with_a_worker(change: dict[str, Any], state: str, seen: str, advice: str) -> None:
    (finding,) = of_workers([{**WORKER, **change}, WORKER], SETTINGS)
    assert finding.state == state
    assert seen in finding.seen
    assert finding.seen.endswith(" (web1 1)")
    assert advice in finding.change


def test_a_websocket_in_native_mode_has_three_descriptors() -> None:
    worker = {**WORKER, "descriptors": 1024, "server": {"mode": "native"}}
    (finding,) = of_workers([worker], SETTINGS)
    assert "room for 320 websockets" in finding.means


def test_nothing_is_wrong_with_a_worker_that_says_less() -> None:
    """One of an older version, one without a limit."""
    assert of_workers([WORKER, {"host": "web1", "pid": 2}, {**WORKER, "descriptors": -1}], SETTINGS) == []


def test_what_all_workers_have_is_said_once() -> None:
    workers = [{**WORKER, "pid": pid, "link": "down"} for pid in (1, 2)]
    assert [finding.seen for finding in of_workers(workers, SETTINGS)] == ["the link to Redis is down (web1 1, web1 2)"]


# ---------------------------------------------------------------- Redis


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (redis.ConnectionError("Error 111 connecting to localhost:6379. Connection refused."), "cannot be reached"),
        (TimeoutError("not within 5 s"), "cannot be reached"),
        (redis.AuthenticationError("WRONGPASS invalid username-password pair"), "no such user, or another password"),
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "still loading its data"),
        (redis.exceptions.NoPermissionError("this user has no permissions to run the 'hello' command"), "ACL"),
        (redis.ResponseError("DB index is out of range"), "no database of this number"),
    ],
)
def test_why_redis_cannot_be_used(error: Exception, means: str) -> None:
    assert means in of_redis(error).means
