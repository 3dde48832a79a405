"""
Who the client is and what it may do: Django's session and user, the Origin, the site's callbacks.

Everything here runs inside an ordinary request: it may block and may use the database. It fails
closed: an error in a callback refuses, it never grants.
"""

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.core.exceptions import DisallowedHost
from django.core.handlers.wsgi import WSGIRequest
from django.core.signals import request_finished, request_started
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django.utils.http import is_same_domain

from uws4r.attachment import Identity
from uws4r.conf import callback, conf
from uws4r.errors import HandshakeError
from uws4r.logins import by_django, claim, load_session, loaded, session_store, user_of
from uws4r.proxies import client_address
from uws4r.quoting import shown
from uws4r.subscriber import facility_of

logger = logging.getLogger("uws4r.access")

OPAQUE = (
    "null",
    "file://",
)  # Origins that say no more than that a page has none, as in many apps; see UWS4R_ALLOWED_ORIGINS
LONGEST_ORIGIN = 300  # characters: a scheme, a host name (253), a port, and some to spare
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class RequestSignals:
    """
    Django's ``request_started`` and ``request_finished``, at which it opens and gives back database connections.

    They are sent around what may use those: the user, the session unless it is in Redis, when somebody looks at them,
    and code of the site. A handshake without any of them goes without: these signals would take a sixth of its time.
    """

    __slots__ = ("_environ", "_over", "_sender", "_started")

    def __init__(self, sender: type, environ: dict[str, Any]) -> None:
        self._sender = sender
        self._environ = environ
        self._started = False
        self._over = False

    def start(self) -> None:
        """The request begins, unless it has."""
        if not self._started and not self._over:  # who keeps the request finds out about its user later
            self._started = True
            request_started.send(sender=self._sender, environ=self._environ)

    def finish(self) -> None:
        """The request ends, if it has begun."""
        self._over = True
        if self._started:
            request_finished.send(sender=self._sender)


class Request(WSGIRequest):
    """The request that a websocket begins as."""

    signals: RequestSignals


def build_request(
    environ: dict[str, Any], signals: RequestSignals, process_request: Callable[[HttpRequest], None]
) -> HttpRequest:
    """
    Return a Django request with ``session`` and ``user``.

    Args:
        signals: Of this request.
        process_request: Sets them, where ``WS4REDIS_PROCESS_REQUEST`` names nothing else.
    Raises:
        HandshakeError: 404 for a path outside ``WEBSOCKET_URL``, 400 for a facility that cannot be a name.
    """
    # A handshake has no content. Django would look up the charset that a client names, which Python then remembers for
    # as long as the process lives.
    environ.pop("CONTENT_TYPE", None)
    request = Request(environ)
    if not request.path_info.startswith(conf.WEBSOCKET_URL):
        raise HandshakeError(f"Websockets are at {conf.WEBSOCKET_URL} here, and nothing else is", status=404)
    facility = facility_of(request.path_info)
    most = conf.UWS4R_MAX_FACILITY_LENGTH
    if len(facility) > most or CONTROL.search(facility):
        raise HandshakeError(f"A facility has at most {most} characters, and no control characters")
    request.signals = signals
    own = callback(conf.WS4REDIS_PROCESS_REQUEST)
    if own is not None:
        signals.start()
        process_request = own
    process_request(request)
    if getattr(request, "user", None) is None:  # so that callbacks may look at it
        request.user = SimpleLazyObject(_anonymous)
    return request


def _anonymous() -> Any:
    from django.contrib.auth.models import AnonymousUser  # not before Django is set up

    return AnonymousUser()


def attach_session_and_user(request: HttpRequest) -> None:
    """Do what Django's middlewares do for a view; both are loaded when first looked at."""
    key = claim(request)
    if key is None:
        request.session = SimpleLazyObject(_no_session)
        request.user = SimpleLazyObject(_anonymous)
        by_django(request)
        return
    # Neither knows the request itself: that would close a circle, and tens of thousands of them would wait for the
    # garbage collector.
    start = request.signals.start if isinstance(request, Request) else _nothing
    # What a client claims is no session: loading it forgets a key that the store does not know.
    session = SimpleLazyObject(lambda: load_session(key, start))
    request.session = session
    request.user = SimpleLazyObject(lambda: _user_of(session, start))
    by_django(request)


def _nothing() -> None:
    pass


def _no_session() -> Any:
    return session_store(settings.SESSION_ENGINE)(None)


def _user_of(session: Any, start: Callable[[], None]) -> Any:
    if SESSION_KEY not in session:  # get_user() would be slow to find out
        return _anonymous()
    start()
    user, holds = user_of(session._wrapped)
    if not holds:  # as Django does it, but in the store, which the next page will do
        session._wrapped = _no_session()
    return user


def check_origin(request: HttpRequest) -> None:
    """
    Let a page open a websocket only to its own site: browsers send cookies along, whoever asks.

    Raises:
        HandshakeError: 403 for a foreign Origin, 400 for a Host that is not in ``ALLOWED_HOSTS``.
    """
    try:
        host = request.get_host()
    except DisallowedHost:
        raise HandshakeError("This host is not served here (ALLOWED_HOSTS)") from None
    origin = request.META.get("HTTP_ORIGIN")
    if origin is None and conf.UWS4R_REQUIRE_ORIGIN:
        raise HandshakeError("An Origin is required here", status=403)
    if origin is None or "*" in conf.UWS4R_ALLOWED_ORIGINS:
        return
    own = f"{'https' if request.is_secure() else 'http'}://{host}"
    if origin == own:
        return
    # Browsers write IDNs in ASCII. To convert one that is too long takes Python a tenth of a second.
    if len(origin) <= LONGEST_ORIGIN and origin.isascii() and (asked := _origin(origin)) is not None:
        patterns = (*settings.CSRF_TRUSTED_ORIGINS, *conf.UWS4R_ALLOWED_ORIGINS)
        if (len(own) <= LONGEST_ORIGIN and _origin(own) == asked) or any(_covers(each, asked) for each in patterns):
            return
    elif origin in OPAQUE and origin in conf.UWS4R_ALLOWED_ORIGINS:
        return
    logger.warning("foreign Origin %s on %s: 403; %s", shown(origin), shown(own), _advice(origin, own))
    raise HandshakeError("This Origin may not open websockets here", status=403)


def _advice(origin: str, own: str) -> str:
    """What to do where the Origin is the site's own, and this process takes the site for another one."""
    if origin.partition("://")[2] == own.partition("://")[2]:
        return (
            "if the site is behind TLS: SECURE_PROXY_SSL_HEADER, and in the proxy X-Forwarded-Proto "
            "(NGiNX: proxy_set_header X-Forwarded-Proto $scheme;)"
        )
    return (
        "if that is this site, the proxy in front does not pass on its Host (NGiNX: proxy_set_header Host $http_host; "
        "Apache: ProxyPreserveHost On); if it is another that may: UWS4R_ALLOWED_ORIGINS"
    )


def _origin(text: str) -> tuple[str, str] | None:
    """
    Return scheme and host of an origin as browsers write it: small letters, no usual port, IDNs in ASCII.

    None where it is not the origin of any page (RFC 6454 §6.1): "null", or with a path or a user.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if not parts.scheme or not host or text.rpartition("://")[2] != parts.netloc or "@" in parts.netloc:
        return None
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            return None
    if ":" in host:
        host = f"[{host}]"
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, host if port in (None, usual) else f"{host}:{port}"


_setting = lru_cache(maxsize=256)(_origin)  # of a setting; what clients send would only fill it


def _covers(pattern: str, origin: tuple[str, str]) -> bool:
    """Whether an origin is the one of a setting, or of the subdomains that it means as Django's settings do."""
    scheme, _, host = pattern.partition("://")
    if host.startswith("*"):
        return origin[0] == scheme and is_same_domain(origin[1], host.removeprefix("*"))
    return _setting(pattern) == origin


def grant_channels(request: HttpRequest, channels: list[str]) -> list[str]:
    """
    Return which of the flags in the URL the site grants.

    Raises:
        PermissionDenied: From the callback.
        HandshakeError: 403 for a callback that returns None.
    """
    allowed = callback(conf.WS4REDIS_ALLOWED_CHANNELS)
    if allowed is None:
        return channels
    if isinstance(request, Request):
        request.signals.start()
    granted = allowed(request, list(channels))
    if granted is None:
        logger.error("WS4REDIS_ALLOWED_CHANNELS returned None: 403 for everybody (is its `return` missing?)")
        raise HandshakeError("Not allowed", status=403)
    granted = set(granted)
    return [channel for channel in channels if channel in granted]


def identify(request: HttpRequest) -> Identity:
    """Return who the client is: the user only where he is known already."""
    name = None
    user: Any = getattr(request, "user", None)
    # An unevaluated user would cost a query, for a line in the log.
    if user is not None and loaded(user) and user.is_authenticated:
        name = str(user.get_username())
    return Identity.of(client_address(request.META), name, request.path_info)
