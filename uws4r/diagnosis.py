"""
What it means: an answer of HTTP, an error of a socket, a worker's figures. Bytes in, a finding out.

Nothing here asks anybody. A finding says what was seen, what that means, and which line to change.
"""

import re
import socket
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple

from uws4r import __version__
from uws4r.errors import ProtocolError
from uws4r.probe import Answer, Target
from uws4r.uwsgi_server import HARMFUL_OPTIONS, SPOILING

OK, WARNING, FAILED = "ok", "warning", "FAILED"

SPARE_DESCRIPTORS = 64  # that a worker keeps; see ``admission``
FEW_DESCRIPTORS = 4096  # fewer are no system's choice for a server
NGINX_TIMEOUT = 60  # seconds, its default


class Finding(NamedTuple):
    """What a step has found."""

    state: str  # :data:`OK`, :data:`WARNING` or :data:`FAILED`
    seen: str
    means: str = ""
    change: str = ""


class Asked(NamedTuple):
    """The handshake that was tried, and what this process has in its settings."""

    target: Target
    origin: str
    websocket_url: str
    cookie: bool = False  # whether one was sent


# ---------------------------------------------------------------- the way to the front

PORTS = "is the server running, and does it listen on this port (uWSGI: http-socket, NGiNX: listen)?"


def of_connecting(error: Exception, target: Target) -> Finding:
    """Return why nobody could be reached, TLS included."""
    seen = f"{target.host}:{target.port}: {_plain(error)}"
    if isinstance(error, socket.gaierror):
        return Finding(
            FAILED, seen, "the name of the host has no address (DNS)", "the host in the URL, or its DNS entry"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return Finding(
            FAILED,
            f"{target.host}:{target.port}: {getattr(error, 'verify_message', '') or _plain(error)}",
            "the certificate is not trusted: browsers refuse it too, for websockets without asking",
            "a certificate for this name with its whole chain (NGiNX: ssl_certificate); --insecure goes on without",
        )
    if isinstance(error, ssl.SSLError):
        # What speaks HTTP answers, or closes the connection, as uWSGI does.
        if isinstance(error, ssl.SSLEOFError) or "WRONG_VERSION_NUMBER" in str(error):
            return Finding(
                FAILED, seen, "this port speaks no TLS", "http:// or ws:// in the URL, or NGiNX: listen … ssl"
            )
        return Finding(FAILED, seen, "no agreement on TLS", "NGiNX: ssl_protocols, ssl_ciphers")
    if isinstance(error, ConnectionRefusedError):
        return Finding(FAILED, seen, "nobody listens there", PORTS)
    if isinstance(error, TimeoutError):
        return Finding(FAILED, seen, "nobody answers there: a firewall, or another address than it should be", PORTS)
    return Finding(FAILED, seen, "the connection could not be made, or was closed at once", PORTS)


def _plain(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


# ---------------------------------------------------------------- answers to a handshake

UPGRADE = (
    'NGiNX: proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "Upgrade"; proxy_http_version 1.1;'
)
ROUTE = (
    "NGiNX: location {url} {{ proxy_pass http://unix:…/web-http.socket; }}; the emperor: route = ^{url} uwsgi:…; one "
    "uWSGI for all: application = wrap(get_wsgi_application()) in wsgi.py"
)
HOST = "NGiNX: proxy_set_header Host $http_host;"

# Sentences of uws4r's own answers, what each means, and what to change.
SENTENCES = (
    (
        "does not wish to upgrade",
        "the request came to uws4r, without its header Upgrade: what is in front does not pass it on",
        f"{UPGRADE} with uwsgi_pass: uwsgi_pass_request_headers on;",
    ),
    (
        "server protocol must be 1.1",
        "what is in front asks with HTTP/1.0, which has no Upgrade",
        "NGiNX: proxy_http_version 1.1; with uwsgi_pass: uwsgi_param SERVER_PROTOCOL $server_protocol;",
    ),
    (
        "Connection: Upgrade is missing",
        "the request came to uws4r without its header Connection: what is in front does not pass it on",
        'NGiNX: proxy_set_header Connection "Upgrade";',
    ),
    ("only version of the protocol", "what is in front does not pass on Sec-WebSocket-Version as it is", UPGRADE),
    ("Sec-WebSocket-", "what is in front does not pass on the headers Sec-WebSocket-… as they are", UPGRADE),
    ("method must be a GET", "what is in front has made another request of it", UPGRADE),
    (
        "not served here (ALLOWED_HOSTS)",
        "the Host that arrives is not in ALLOWED_HOSTS",
        f"settings.py: ALLOWED_HOSTS = [{{host!r}}]; where it is there already, the front sends another one on: {HOST}",
    ),
    (
        "An Origin is required",
        "UWS4R_REQUIRE_ORIGIN is set, and the header Origin does not arrive",
        "the front: pass Origin on as it is",
    ),
    (
        "message queue cannot be reached",
        "the request came to a worker, which cannot reach its Redis",
        "settings.py: WS4REDIS_CONNECTION, as the workers have it; uWSGI's log says what is wrong (uws4r.link)",
    ),
    (
        "The server is full",
        "the request came to a worker, which has no room for another websocket",
        "uWSGI: max-fd = 65536 (and ulimit -n, LimitNOFILE=), processes; settings.py: UWS4R_MAX_CONNECTIONS",
    ),
    ("The server restarts", "the request came to a worker that is about to stop", "nothing: ask again in a moment"),
    (
        "Too many websockets",
        "this address or this user has as many websockets as it may",
        "settings.py: UWS4R_MAX_CONNECTIONS_PER_IP, UWS4R_MAX_CONNECTIONS_PER_USER; behind a proxy UWS4R_PROXIES, "
        "or all clients have the proxy's address",
    ),
    (
        "not set up for websockets",
        "the request came to a server that cannot do websockets",
        "uWSGI's log says what to change, behind 'a websocket is refused'",
    ),
    (
        "could not open a websocket",
        "the request came to uws4r, and something of the site failed in the handshake",
        "the log has a traceback, behind 'a handshake at'; most often in WS4REDIS_ALLOWED_CHANNELS, "
        "WS4REDIS_PROCESS_REQUEST or the database",
    ),
    ("A facility has at most", "UWS4R_MAX_FACILITY_LENGTH is too small for the doctor's facility", ""),
)


def answered_by(answer: Answer) -> str:
    """Return who has written an answer, as far as it shows: proxies put their name on what others have written."""
    headers, text = answer.headers, answer.text
    if headers.get("cache-control") == "no-store" and re.fullmatch(r"[^\n<]+\.\n", text):
        return "uws4r"
    if re.search(r"<center>(nginx|openresty)", text):
        return "NGiNX"
    if text in ("Internal Server Error", "uWSGI Error"):
        return "uWSGI"
    own = ("The requested resource was not found on this server.</p>", "<h1>Bad Request (400)</h1>", "Django")
    if "cross-origin-opener-policy" in headers or any(sign in text for sign in own):
        return "Django"
    return headers.get("server") or "a server without a name"


def of_answer(answer: Answer, asked: Asked) -> Finding:
    """Return why a handshake was not answered with 101."""
    who = answered_by(answer)
    seen = f"{answer.status} {answer.reason}".strip() + f" from {who}"
    route = ROUTE.format(url=asked.websocket_url)
    if not answer.status:
        return _of_no_http(answer)
    if who == "uws4r":
        return _of_uws4r(answer, asked)
    if 300 <= answer.status < 400:
        return _of_redirect(answer, asked, seen)
    if "plain HTTP request was sent to HTTPS port" in answer.text:
        return Finding(FAILED, seen, "this port speaks TLS", "https:// or wss:// in the URL")
    if answer.status == 404:
        if who == "NGiNX":
            return Finding(FAILED, seen, f"NGiNX has no location for {asked.target.path}, and looks for a file", route)
        means = (
            f"{asked.target.path} got to pages: not routed, its prefix stripped, or WEBSOCKET_URL is another one there"
        )
        return Finding(FAILED, seen, means, f"{route}; settings.py: WEBSOCKET_URL = {asked.websocket_url!r}")
    if answer.status in (502, 504) or (answer.status == 503 and who != "Django"):
        slow = answer.status == 504
        means = "the workers do not answer what is in front of them" if slow else "nobody is behind what is in front"
        return Finding(
            FAILED,
            seen,
            means,
            "uWSGI: is it running (its log)? NGiNX: proxy_pass names an http-socket of uWSGI, uwsgi_pass a socket"
            + ("; NGiNX: proxy_connect_timeout, proxy_read_timeout" if slow else ""),
        )
    if answer.status == 401:
        return Finding(
            FAILED, seen, "a password is asked for in front of the site", f"location {asked.target.path}: off"
        )
    if answer.status == 400 and who == "Django":
        return Finding(
            FAILED, seen, "Django refuses the request before uws4r sees it", f"ALLOWED_HOSTS; {HOST}; {route}"
        )
    if answer.status == 426:
        means = f"{who} wants another protocol, or did not get the header Upgrade"
        return Finding(FAILED, seen, means, UPGRADE)
    if answer.status >= 500:
        log = "the log of uWSGI: the error at its start, or a traceback; uws4r does not start without threads"
        return Finding(FAILED, seen, "the site is broken there", log)
    if answer.status == 403:
        return Finding(FAILED, seen, f"{who} forbids it, before uws4r sees it", f"the rules of {who}; {route}")
    packed = answer.headers.get("content-encoding")
    seen += f", {packed} ({'GZipMiddleware' if who == 'Django' else 'compressed'})" if packed else ""
    if "html" in answer.headers.get("content-type", "") or "<html" in answer.text.lower():
        return Finding(
            FAILED, f"{seen}: a page", f"a view, not uws4r, answers {asked.target.path}", f"{route}; {UPGRADE}"
        )
    return Finding(FAILED, seen, f"this is not uws4r: {_quoted(answer.text)}", f"{route}; {UPGRADE}")


def _quoted(text: str) -> str:
    return ascii(text[:100])


def _of_no_http(answer: Answer) -> Finding:
    if not answer.body:
        means = "closed without an answer: this may be a socket of uWSGI's own protocol, or a worker died"
        return Finding(FAILED, "no answer", means, "uWSGI: http-socket = … for HTTP; NGiNX: uwsgi_pass to a socket")
    if answer.body.startswith((b"\x15\x03", b"\x16\x03")):
        return Finding(FAILED, "TLS, and no HTTP", "this port speaks TLS", "https:// or wss:// in the URL")
    means = "this is no web server"
    return Finding(FAILED, f"no HTTP: {_quoted(answer.body.decode('latin-1'))}", means, "the port in the URL")


def _of_redirect(answer: Answer, asked: Asked, seen: str) -> Finding:
    location = answer.headers.get("location", "")
    seen += f", to {_quoted(location)}"
    follow = "websockets do not follow redirects"
    if location.startswith("https://") and not asked.target.secure:
        https = f"https://{asked.target.host}/"
        change = f"the URL: {https}; in pages wss://, as {{% websocket_uri %}} and location.protocol give it"
        return Finding(FAILED, seen, f"the site speaks TLS only (SECURE_SSL_REDIRECT, or NGiNX); {follow}", change)
    change = ROUTE.format(url=asked.websocket_url)
    return Finding(
        FAILED, seen, f"{asked.target.path} leads elsewhere (another host, a login, a slash); {follow}", change
    )


def _of_uws4r(answer: Answer, asked: Asked) -> Finding:
    said = answer.text.strip()
    seen = f"{answer.status} from uws4r: {said}"
    elsewhere = re.search(r"Websockets are at (\S+) here", said)
    if elsewhere is not None:
        if elsewhere[1] == asked.websocket_url:
            means = "the path has changed on its way: a prefix is stripped, or added"
            return Finding(
                FAILED,
                seen,
                means,
                f"NGiNX: location {asked.websocket_url} {{ proxy_pass http://…; }} without a slash or a path behind "
                "the address; uWSGI: mount, route",
            )
        means = f"WEBSOCKET_URL of the workers is not that of this process, {asked.websocket_url}"
        return Finding(FAILED, seen, means, f"settings.py: WEBSOCKET_URL = {elsewhere[1]!r}; or start the workers anew")
    if said.startswith("Not allowed"):
        return _of_refusal(seen, asked)
    for sign, means, change in SENTENCES:
        if sign in said:
            return Finding(FAILED, seen, means, change.replace("{host!r}", repr(asked.target.host)))
    return Finding(FAILED, seen, "the site itself refuses", "the log of uWSGI (uws4r.application, uws4r.access)")


def _of_refusal(seen: str, asked: Asked) -> Finding:
    unchecked = "ping, messages and idle time are not checked"
    log = "in uWSGI's log: 'permission denied', or 'returned None' where a return is missing"
    if asked.cookie:
        means = f"WS4REDIS_ALLOWED_CHANNELS (or WS4REDIS_PROCESS_REQUEST) refuses this cookie's user; {unchecked}"
        return Finding(FAILED, seen, means, f"another --cookie, whose session still holds; {log}")
    means = f"all is well up to uws4r, and WS4REDIS_ALLOWED_CHANNELS refuses strangers, the doctor too; {unchecked}"
    return Finding(WARNING, seen, means, f"--cookie sessionid=… of a user who may; {log}")


def of_origin(asked: Asked, accepted: Sequence[str], listed: Sequence[str]) -> Finding:
    """
    Return why an Origin is refused.

    Args:
        accepted: Other Origins that were tried, and let in.
        listed: Those that the settings allow.
    """
    target = asked.target
    seen = f"403: the Origin {asked.origin} is refused; sent with Host {target.authority}"
    if asked.origin != target.origin:
        means = f"it is not the site's own, {target.origin}, and not among {list(listed)}"
        return Finding(FAILED, seen, means, f"settings.py: UWS4R_ALLOWED_ORIGINS = [{asked.origin!r}]")
    allowed = f"allowed besides the site's own are {list(listed)}"
    for other in accepted:
        seen_as = f"{other} is accepted: so the site takes itself for"
        if target.secure and other == f"http://{target.authority}":
            return Finding(
                FAILED,
                seen,
                f"{seen_as} one without TLS, because Django is not told of it",
                "NGiNX: proxy_set_header X-Forwarded-Proto $scheme; "
                'settings.py: SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")',
            )
        return Finding(
            FAILED,
            seen,
            f"{seen_as} that: the Host loses its port on the way",
            f"{HOST} (not $host), or what nginx/uws4r.conf does",
        )
    return Finding(
        FAILED,
        seen,
        f"the site takes itself for another one: another Host arrives, and perhaps no TLS; {allowed}",
        f"{HOST} or USE_X_FORWARDED_HOST = True where X-Forwarded-Host has it; behind TLS SECURE_PROXY_SSL_HEADER too; "
        f"or UWS4R_ALLOWED_ORIGINS = [{asked.origin!r}]",
    )


def of_no_answer(error: Exception) -> Finding:
    """Return why a handshake was not answered at all."""
    if isinstance(error, ProtocolError):
        means = "a cache or a proxy has answered, not a websocket server"
        return Finding(FAILED, f"101, but {error}", means, UPGRADE)
    if isinstance(error, TimeoutError):
        return Finding(
            FAILED,
            "connected, but no answer in time",
            "all workers are busy, or wait for Redis; or what is in front holds the 101 back until more comes",
            "uWSGI: processes, its log; WS4REDIS_CONNECTION; NGiNX: proxy_buffering off, proxy_http_version 1.1",
        )
    return _of_no_http(Answer(0, "", {}, b""))._replace(seen=f"no answer: {_plain(error)}")


# ---------------------------------------------------------------- an open websocket

BUFFERING = (
    "NGiNX: proxy_buffering off; proxy_http_version 1.1; and the lines for Upgrade and Connection; other proxies: "
    "switch buffering of answers off, or let websockets pass (Apache: mod_proxy_wstunnel)"
)


def of_silence(more_came: bool) -> Finding:
    """Return why a websocket opened, and its ping was not answered; ``more_came``: when a long message was sent."""
    if more_came:
        means = (
            "something in front collects what the server sends: it came when a long message was behind it (buffering)"
        )
        return Finding(FAILED, "101, but the answer to a ping came only with a long message", means, BUFFERING)
    means = "something in front holds back what comes after the 101, from the server or from the browser (buffering)"
    return Finding(FAILED, "101, but no answer to a ping", means, BUFFERING)


def of_cut(error: Exception) -> Finding:
    """Return why a websocket ended as soon as it was open, or what came was none."""
    if isinstance(error, ProtocolError):
        return Finding(FAILED, f"101, but {error}", "something in front changes what the server sends", UPGRADE)
    means = "what is in front lets the 101 pass, and not what follows; or the worker died"
    return Finding(FAILED, "101, and then the end, without a close frame", means, f"the log of uWSGI; {UPGRADE}")


def of_end(seconds: float, code: int | None, reason: str, ping_interval: float) -> Finding:
    """
    Return why a websocket has ended by itself.

    Args:
        seconds: After which silence.
        code: Of the close frame; None where there was none.
        ping_interval: Of the workers, in seconds.
    """
    if code is None:
        often = f"{ping_interval:g} s" if ping_interval else "never: UWS4R_PING_INTERVAL is 0"
        default = f" ({NGINX_TIMEOUT} s is NGiNX's default)" if abs(seconds - NGINX_TIMEOUT) < 2 else ""
        return Finding(
            FAILED,
            f"ended after {seconds:.1f} s of silence, without a close frame",
            f"not by uws4r, but by the time limit of what is in front{default}; the workers ping every {often}",
            "longer than that: NGiNX: proxy_read_timeout 120s; (with uwsgi_pass: uwsgi_read_timeout 120s;), "
            "uWSGI: http-timeout; or a smaller UWS4R_PING_INTERVAL",
        )
    seen = f"closed with {code} {reason}".rstrip()
    if code == 1011 and "Redis" in reason:
        means = "Redis forbids the worker something: SUBSCRIBE or MGET"
        return Finding(
            FAILED, seen, means, "ACL of the workers' user in Redis; uWSGI's log names the command (uws4r.hub)"
        )
    if code == 1011:
        means = "the pongs of the browser do not arrive, or something of the site failed"
        return Finding(FAILED, seen, means, f"the log of uWSGI; {BUFFERING}")
    if code in (1001, 1012):
        means = "the worker ended: a restart, or one of the options that end workers"
        return Finding(FAILED, seen, means, f"uWSGI: leave {', '.join(HARMFUL_OPTIONS)} out for websockets")
    return Finding(FAILED, seen, "the worker closed it; docs/reference/close-codes.md", "the log of uWSGI (uws4r.hub)")


# ---------------------------------------------------------------- workers


def of_workers(workers: Sequence[dict[str, Any]], settings: dict[str, Any]) -> list[Finding]:
    """
    Return what is wrong with the workers that have answered, each thing once.

    Args:
        workers: Their figures; of an older version some are missing.
        settings: Those of this process, as a worker tells its own.
    """
    found: dict[Finding, list[str]] = {}
    for worker in workers:
        for finding in _of_worker(worker, settings):
            found.setdefault(finding, []).append(f"{worker.get('host')} {worker.get('pid')}")
    return [finding._replace(seen=f"{finding.seen} ({', '.join(who)})") for finding, who in found.items()]


def _of_worker(worker: dict[str, Any], settings: dict[str, Any]) -> list[Finding]:
    found = []
    server = worker.get("server") or {}
    options = server.get("options") or {}
    for name, why in HARMFUL_OPTIONS.items():
        if name in options:
            change = f"uWSGI: leave {name} out for the workers of websockets (vassals/wsserver.ini)"
            found.append(Finding(WARNING, f"{name} = {options[name]}", f"{name} {why}", change))
    for name, value in (server.get("spoiling") or {}).items():
        found.append(Finding(FAILED, f"{name} = {value}", f"{name} {SPOILING}", f"uWSGI: leave {name} out there"))
    if server.get("threads") is False:
        found.append(Finding(FAILED, "threads are disabled", "the hub is a thread", "uWSGI: enable-threads = true"))
    version = re.match(r"(\d+)\.(\d+)\.(\d+)", str(server.get("version")))
    if version is not None and tuple(map(int, version.groups())) < (2, 0, 28):
        means = "uws4r is tested with 2.0.28 and newer"
        found.append(Finding(WARNING, f"uWSGI {server['version']}", means, "pip install --upgrade uwsgi"))
    if server.get("name") == "runserver":
        found.append(
            Finding(WARNING, "manage.py runserver", "good for development", "uWSGI, as docs/how-to/run.md says")
        )
    if worker.get("link") == "down":
        means = "the worker cannot reach its Redis: it keeps its websockets, and new ones are answered 503"
        found.append(Finding(FAILED, "the link to Redis is down", means, "uWSGI's log (uws4r.link)"))
    if worker.get("draining"):
        found.append(Finding(WARNING, "the worker stops", "it takes no new websockets", ""))
    if worker.get("uws4r", __version__) != __version__:
        means = f"this process has {__version__}"
        found.append(Finding(WARNING, f"uws4r {worker['uws4r']}", means, "start the workers anew"))
    return [*found, *_of_room(worker), *_of_settings(worker.get("settings") or {}, settings)]


def _of_room(worker: dict[str, Any]) -> list[Finding]:
    limit = worker.get("descriptors")
    if not isinstance(limit, int) or limit < 0:  # -1: as many as there are
        return []
    each = 3 if (worker.get("server") or {}).get("mode") == "native" else 1
    room = max(0, (limit - SPARE_DESCRIPTORS) // each)
    change = "uWSGI: max-fd = 65536 (and ulimit -n, or LimitNOFILE=, of what starts it)"
    wanted = (worker.get("settings") or {}).get("UWS4R_MAX_CONNECTIONS") or 0
    if wanted > room:
        seen = f"{limit} descriptors, and UWS4R_MAX_CONNECTIONS = {wanted}"
        return [Finding(WARNING, seen, f"a worker has room for {room} websockets, further ones get 503", change)]
    if limit < FEW_DESCRIPTORS:
        seen = f"{limit} descriptors, {worker.get('connections')} websockets"
        return [Finding(WARNING, seen, f"a worker has room for {room} websockets, further ones get 503", change)]
    return []


def _of_settings(theirs: dict[str, Any], ours: dict[str, Any]) -> list[Finding]:
    found = []
    for name, means in (
        ("WEBSOCKET_URL", "pages ask for websockets where there are none"),
        ("database", "messages arrive all the same, but the last one is not there for those who come later"),
    ):
        if name in theirs and theirs[name] != ours[name]:
            seen = f"{name} {theirs[name]!r}, in this process {ours[name]!r}"
            change = f"settings.py: {'WS4REDIS_CONNECTION' if name == 'database' else name}; start the workers anew"
            found.append(Finding(WARNING if name == "database" else FAILED, seen, means, change))
    if theirs.get("UWS4R_PING_INTERVAL") == 0:
        means = "nothing keeps an idle websocket open through proxies, and clients that are gone stay"
        found.append(Finding(WARNING, "UWS4R_PING_INTERVAL is 0", means, "settings.py: UWS4R_PING_INTERVAL = 25"))
    return found
