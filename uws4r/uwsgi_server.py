"""
What is uWSGI's: its options checked, a request's socket detached, the hub stopped with its worker.

Outside uWSGI nothing is checked, so that a site's ``wsgi.py`` loads anywhere; :func:`require_uwsgi`
refuses the websockets themselves.
"""

import logging
import os
import re
import socket
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from redis.exceptions import RedisError

from uws4r._descriptors import duplicate
from uws4r.admission import SPARE_DESCRIPTORS
from uws4r.checks import require_right_settings
from uws4r.conf import conf
from uws4r.engines.native import run_in_requests
from uws4r.engines.thread import run_in_thread
from uws4r.errors import ConfigurationError
from uws4r.hub import Hub
from uws4r.native import Native
from uws4r.refusals import explained
from uws4r.worker import reach_redis

try:
    import uwsgi
except ImportError:
    uwsgi = None

logger = logging.getLogger("uws4r.uwsgi")

# uWSGI ends TLS, FastCGI and SCGI itself on these: a detached socket would carry raw frames into them.
UNUSABLE_SOCKETS = (
    "https-socket",
    "https-socket-modifier1",
    "ssl-socket",
    "suwsgi-socket",
    "fastcgi-socket",
    "fastcgi-nph-socket",
    "scgi-socket",
    "scgi-nph-socket",
    "puwsgi-socket",
    "raw-socket",
)
KEPT_SOCKET = "http11-socket"  # uWSGI reads a further request from each of its connections


# To uWSGI an open websocket is no request: a worker with thousands of them looks idle, and is ended like any other.
HARMFUL_OPTIONS = {
    "max-requests": "ends a worker after so many requests, and all its websockets with it",
    "max-worker-lifetime": "ends a worker after so many seconds, and all its websockets with it",
    "reload-on-rss": "ends a worker that has grown, and all its websockets with it",
    "reload-on-as": "ends a worker that has grown, and all its websockets with it",
    "evil-reload-on-rss": "ends a worker that has grown, and all its websockets with it",
    "evil-reload-on-as": "ends a worker that has grown, and all its websockets with it",
    "cheaper": "ends workers that seem to have nothing to do, and all their websockets with them",
    "cheap": "ends workers that seem to have nothing to do, and all their websockets with them",
    "idle": "ends workers when no request comes, and all their websockets with them",
    "harakiri": "kills a worker for one slow request, and all its websockets with it",
}

# What changes the head of a 101, or writes something behind it, so that browsers refuse the websocket.
SPOILT_HEADERS = re.compile(
    r"(connection|upgrade|sec-websocket-[a-z]+|transfer-encoding|content-length|content-encoding)\s*(:|$|\s)",
    re.IGNORECASE,
)
SPOILING = "changes the answer to a handshake, so that browsers refuse the websocket"
HEADER_OPTIONS = ("add-header", "addheader", "del-header", "remove-header", "rem-header", "pull-header")
SPOILING_ACTION = re.compile(r"(?:^|\s)(chunked|gzip|template|(?:add|rem)header):(.*)$")
PATH_ROUTES = ("route", "route-uri", "response-route", "response-route-uri")  # they begin with a pattern for the path

# What else of a worker's options says how it is deployed; none can hold a secret.
TOLD_OPTIONS = (
    "master", "processes", "workers", "threads", "enable-threads", "lazy-apps", "need-app", "single-interpreter",
    "gevent", "max-fd", "listen", "buffer-size", "socket", "http-socket", "http", "http-timeout", "socket-timeout",
)  # fmt: skip

DESCRIPTORS_EACH = 3  # of a websocket in native mode: uWSGI's, the client's, and the shield's

# Loops of uWSGI that own the worker's thread.
UNSUPPORTED_ENGINES = ("async", "asyncio", "tornado")


def _option(name: str) -> Any:
    for key in (name, name.encode()):
        if key in uwsgi.opt:
            return uwsgi.opt[key]
    return None


def _number(name: str) -> int:
    """Return the value of an option, 0 where it is not set."""
    value = _option(name)
    return int(value) if value is not None else 0


def _plain(value: Any) -> Any:
    """Return a value of uWSGI's as JSON can say it."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def harmful_options() -> dict[str, Any]:
    """Return the options of this uWSGI that end workers for reasons that websockets do not count for."""
    values = {name: _plain(_option(name)) for name in HARMFUL_OPTIONS}
    return {name: value for name, value in values.items() if value not in (None, "0", "false")}


def spoiling_options() -> dict[str, Any]:
    """Return the options of this uWSGI that change the answer to a handshake, so that it is none any more."""
    found: dict[str, Any] = {}
    for key, given in uwsgi.opt.items():
        name = _plain(key)
        values = _plain(given)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and _spoils(name, value):
                found[name] = value
    return found


def _spoils(name: str, value: str) -> bool:
    if name in HEADER_OPTIONS:
        return SPOILT_HEADERS.match(value.strip()) is not None
    if not name.startswith(("route", "response-route")) or (action := SPOILING_ACTION.search(value)) is None:
        return False
    if action[1].endswith("header") and SPOILT_HEADERS.match(action[2].strip()) is None:
        return False
    if name not in PATH_ROUTES:
        return True
    pattern = value.partition(" ")[0]
    try:
        return re.search(pattern, conf.WEBSOCKET_URL) is not None
    except re.error:  # uWSGI's language has more
        return True


def about_server() -> dict[str, Any]:
    """Return what ``manage.py uws4r`` tells of this worker's uWSGI."""
    if uwsgi is None:
        return {}
    told = {name: _plain(_option(name)) for name in TOLD_OPTIONS}
    return {
        "name": "uWSGI",
        "version": _plain(uwsgi.version),
        "processes": uwsgi.numproc,
        "threads": _has_threads(),
        "mode": conf.UWS4R_MODE,
        "options": {**{name: value for name, value in told.items() if value is not None}, **harmful_options()},
        "spoiling": spoiling_options(),
    }


def _has_threads() -> bool:
    # On by default in newer versions; where uWSGI does not tell, the options do.
    return bool(getattr(uwsgi, "has_threads", _option("enable-threads") or _option("threads")))


def check_server() -> None:
    """
    Make sure that websockets can work in this uWSGI and with this Redis.

    Raises:
        ConfigurationError: They cannot; says what to change.
    """
    if uwsgi is None:
        return
    try:
        _check_server()
    except ConfigurationError as error:
        if _option("need-app") is not None:
            raise
        raise ConfigurationError(
            f"{error} (uWSGI goes on without this application, and answers 500; with need-app = true it ends)"
        ) from None


def _check_server() -> None:
    require_right_settings()
    if not in_main_interpreter():
        raise ConfigurationError(
            "this application has an interpreter of its own in uWSGI, where uws4r's hub cannot end well: set "
            "single-interpreter = true"
        )
    if conf.UWS4R_MODE == "native":
        check_async_engine()
    for name in UNSUPPORTED_ENGINES:
        if _option(name) is not None and not (name == "async" and conf.UWS4R_MODE == "native"):
            raise ConfigurationError(
                f"uws4r's hub runs in a thread, which {name} = … would starve: leave it out"
                + (', or set UWS4R_MODE = "native"' if name == "async" else "")
            )
    if _option("gevent") is not None and find_spec("gevent") is None:
        raise ConfigurationError("gevent = … needs the package, which is not here: pip install gevent")
    if _option("gevent-monkey-patch") is not None:
        logger.warning(
            "gevent-monkey-patch patches when the site is loaded already, too late for Django's database connections: "
            "leave it out, and begin wsgi.py with `from gevent import monkey; monkey.patch_all()`"
        )
    if not _has_threads():
        raise ConfigurationError(
            "uws4r's hub runs in a thread of its own: set enable-threads = true (--enable-threads) for this uWSGI"
        )
    for name in UNUSABLE_SOCKETS:
        if _option(name) is not None:
            raise ConfigurationError(
                f"websockets cannot be detached from {name}: serve them on `socket` or `http-socket`, "
                "and end TLS in NGiNX or with uWSGI's router (https = …)"
            )
    if uwsgi.worker_id() <= 1:  # 0: before the fork; with lazy-apps each worker comes here
        for name, value in harmful_options().items():
            logger.warning("%s = %s %s: leave it out for websockets", name, value, HARMFUL_OPTIONS[name])
        for name, value in spoiling_options().items():
            logger.error("%s = %s %s: leave it out for websockets", name, value, SPOILING)
    if not apps.is_installed("uws4r"):
        logger.warning('"uws4r" is not in INSTALLED_APPS: users\' groups will not be known to subscribe-group')
    try:
        reach_redis()
    except (RedisError, OSError) as error:
        logger.error("Redis cannot be reached now, websockets are answered 503 until it can: %s", explained(error))


def in_main_interpreter() -> bool:
    """Whether this is the interpreter that the process has begun with, as far as Python tells."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = import_module(name)
            return bool(interpreters.get_current() == interpreters.get_main())
        except (ImportError, AttributeError):
            continue
    return True


def check_async_engine() -> None:
    """
    Make sure that uWSGI's async engine is there, and fit for native mode.

    Raises:
        ConfigurationError: It is not; says what to change.
    """
    if _number("async") < 2:
        raise ConfigurationError('UWS4R_MODE = "native" needs async = 2000 or so: a slot for each websocket')
    if not hasattr(uwsgi, "uws4r"):
        raise ConfigurationError(
            'UWS4R_MODE = "native" needs two plugins of uWSGI, in this order: plugin = greenlet, plugin = uws4r '
            "(./build.sh native builds them)"
        )
    if _option("single-interpreter") is None:
        raise ConfigurationError('UWS4R_MODE = "native" needs single-interpreter = true')
    slots, most = _number("async"), uwsgi.uws4r.max_fd
    if DESCRIPTORS_EACH * slots + SPARE_DESCRIPTORS > most:
        raise ConfigurationError(
            f"async = {slots} needs {DESCRIPTORS_EACH} descriptors for each websocket, and there are {most}: set "
            f"max-fd = {DESCRIPTORS_EACH * slots + SPARE_DESCRIPTORS}, or async to less"
        )
    if (room := (_number("websocket-max-size") or 1024) * 1024) < conf.UWS4R_MAX_MESSAGE_SIZE:
        raise ConfigurationError(
            f"UWS4R_MAX_MESSAGE_SIZE is {conf.UWS4R_MAX_MESSAGE_SIZE} bytes, and uWSGI takes {room}: set "
            f"websocket-max-size = {-(-conf.UWS4R_MAX_MESSAGE_SIZE // 1024)}"
        )


def engine() -> Callable[[Hub], object]:
    """Return what makes a hub run in this uWSGI."""
    if uwsgi is not None and conf.UWS4R_MODE == "native":
        return partial(run_in_requests, server=uwsgi)
    if uwsgi is not None and _option("gevent") is not None:
        from uws4r.engines.gevent import run_in_greenlet  # gevent is not imported where nobody uses it

        return run_in_greenlet
    return run_in_thread


def require_uwsgi(environ: dict[str, Any]) -> None:
    """
    Make sure that a request has come in through uWSGI.

    Raises:
        ConfigurationError: It has not: there is no socket to detach.
    """
    if uwsgi is None:
        server = environ.get("SERVER_SOFTWARE") or "this server"
        if server.startswith("WSGIServer/"):
            raise ConfigurationError(
                'the runserver here is not that of uws4r: put "uws4r" above the app that it is of in INSTALLED_APPS'
            )
        raise ConfigurationError(
            f"websockets need uWSGI, not {server}: uwsgi --http-socket :8000 --enable-threads --module mysite.wsgi"
        )


def detach(environ: dict[str, Any]) -> int:
    """
    Return a duplicate of the request's socket; it stays open when uWSGI closes its own.

    Raises:
        OSError: The client has gone, or this process is out of descriptors.
    """
    fd = uwsgi.connection_fd()
    duplicated = duplicate(fd)
    if _keeps_connections():
        _end(fd)
    return duplicated


@cache
def _keeps_connections() -> bool:
    return _option(KEPT_SOCKET) is not None


def _end(fd: int) -> None:
    """Put a connection that has ended in the place of uWSGI's: it would take frames for the next request."""
    ours, other = socket.socketpair()
    with ours, other:
        os.dup2(ours.fileno(), fd, inheritable=False)


@cache
def native() -> Native:
    """Return how websockets are opened in native mode."""
    return Native(uwsgi)


class Stop:
    """
    What uWSGI calls at the end of a worker.

    Args:
        before: What the site has set itself.
        hub: To stop then; it may be replaced.
    """

    def __init__(self, before: Callable[[], object] | None, hub: Hub) -> None:
        self.hub = hub
        self._before = before

    def __call__(self) -> None:
        try:
            if self._before is not None:
                self._before()
        finally:
            self.hub.stop()


def stop_with_worker(hub: Hub) -> None:
    """Close the hub's clients with 1012 when this worker stops or reloads, after what the site has set itself."""
    if uwsgi is None:
        return
    before = getattr(uwsgi, "atexit", None)
    if isinstance(before, Stop):  # that of a hub which is over
        before.hub = hub
    else:
        uwsgi.atexit = Stop(before, hub)
