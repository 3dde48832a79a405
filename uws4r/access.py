"""
Who the client is and what it may do: Django's session and user, the Origin, the site's callbacks.

Everything here runs inside an ordinary request: it may block and may use the database. It fails
closed: an error in a callback refuses, it never grants.
"""

import logging
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.contrib.auth import get_user
from django.core.exceptions import DisallowedHost
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest
from django.utils.functional import LazyObject, SimpleLazyObject
from django.utils.module_loading import import_string

from uws4r.conf import conf
from uws4r.errors import ConfigurationError, HandshakeError
from uws4r.subscriber import facility_of

logger = logging.getLogger("uws4r.access")

MAX_FACILITY = 1024  # characters
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def build_request(environ: dict[str, Any], process_request: Callable[[HttpRequest], None]) -> HttpRequest:
    """
    Return a Django request with ``session`` and ``user``.

    Args:
        process_request: Sets them, where ``WS4REDIS_PROCESS_REQUEST`` names nothing else.
    Raises:
        HandshakeError: 404 for a path outside ``WEBSOCKET_URL``, 400 for a facility that cannot be a name.
    """
    try:
        request = WSGIRequest(environ)
    except ValueError as error:  # a Content-Type that Django chokes on
        raise HandshakeError("The request is not acceptable") from error
    if not request.path_info.startswith(conf.WEBSOCKET_URL):
        raise HandshakeError(f"Websockets are at {conf.WEBSOCKET_URL} here, and nothing else is", status=404)
    facility = facility_of(request.path_info)
    if len(facility) > MAX_FACILITY or CONTROL.search(facility):
        raise HandshakeError(f"A facility has at most {MAX_FACILITY} characters, and no control characters")
    (callback(conf.WS4REDIS_PROCESS_REQUEST) or process_request)(request)
    if getattr(request, "user", None) is None:  # so that callbacks may look at it
        request.user = SimpleLazyObject(_anonymous)
    return request


def _anonymous() -> Any:
    from django.contrib.auth.models import AnonymousUser  # not before Django is set up

    return AnonymousUser()


def attach_session_and_user(request: HttpRequest) -> None:
    """Do what Django's middlewares do for a view; both are loaded when first looked at."""
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    session = SimpleLazyObject(lambda: _load_session(key))
    request.session = session
    # get_user() asks for nothing but the session. The request itself would close a circle, and tens of
    # thousands of them would wait for the garbage collector.
    request.user = SimpleLazyObject(lambda: get_user(SimpleNamespace(session=session)))


def _load_session(key: str | None) -> Any:
    session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    # Loading makes the store forget a key that it does not know: what a client claims is no session.
    session.get("")
    return session


@lru_cache(maxsize=16)
def _imported(path: str) -> Any:
    found = import_string(path)
    if not callable(found):
        raise TypeError(f"{path} is not callable")
    return found


def callback(setting: Any) -> Any:
    """Return the callable that a setting names, None where it names none."""
    return _imported(setting) if isinstance(setting, str) else setting


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
    if origin is None or "*" in conf.UWS4R_ALLOWED_ORIGINS:
        return
    own = f"{'https' if request.is_secure() else 'http'}://{host}"
    if origin == own or origin in conf.UWS4R_ALLOWED_ORIGINS or _trusted(origin):
        return
    logger.warning("foreign Origin %s on %s: 403 (UWS4R_ALLOWED_ORIGINS)", ascii(origin), ascii(own))
    raise HandshakeError("This Origin may not open websockets here", status=403)


def _trusted(origin: str) -> bool:
    try:
        asked = urlsplit(origin)
    except ValueError:
        return False
    for trusted in map(urlsplit, settings.CSRF_TRUSTED_ORIGINS):
        if trusted.netloc.startswith("*"):
            suffix = trusted.netloc.removeprefix("*")
            if asked.scheme == trusted.scheme and asked.netloc.endswith(suffix) and not asked.path:
                return True
        elif (asked.scheme, asked.netloc, asked.path) == (trusted.scheme, trusted.netloc, ""):
            return True
    return False


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
    granted = allowed(request, list(channels))
    if granted is None:
        logger.error("WS4REDIS_ALLOWED_CHANNELS returned None: 403 for everybody (is its `return` missing?)")
        raise HandshakeError("Not allowed", status=403)
    granted = set(granted)
    return [channel for channel in channels if channel in granted]


@lru_cache(maxsize=8)
def _networks(proxies: tuple[str, ...]) -> tuple[bool, list[Any]]:
    try:
        return "unix" in proxies, [ip_network(proxy, strict=False) for proxy in proxies if proxy != "unix"]
    except ValueError as error:
        raise ConfigurationError(
            f"UWS4R_PROXIES must be a list of addresses and networks, or 'unix': {error}"
        ) from None


def client_address(meta: Mapping[str, Any]) -> str:
    """
    Return the client's address: the nearest one that is no proxy of ``UWS4R_PROXIES``.

    Each proxy adds the address it was called from at the end of X-Forwarded-For; what a client has written
    there itself stands before that and is never reached.
    """
    address = meta.get("REMOTE_ADDR", "")
    if address in ("", "0.0.0.0"):
        address = "unix"
    unix, networks = _networks(tuple(conf.UWS4R_PROXIES))
    forwarded = meta.get("HTTP_X_FORWARDED_FOR", "").split(",")
    while forwarded:
        try:
            trusted = unix if address == "unix" else any(ip_address(address) in network for network in networks)
            if not trusted:
                break
            address = str(ip_address(forwarded[-1].strip()))
        except ValueError:  # no address: something else than a proxy has written it
            break
        forwarded.pop()
    return address


def identify(request: HttpRequest) -> str:
    """Return the client for the log: address, path, and the user where he is known already."""
    path = quote(request.path_info, safe="/:@!$&'()*+,;=~")
    name = "-"
    user: Any = getattr(request, "user", None)
    # An unevaluated user would cost a query, for a line in the log.
    known = user is not None and not (isinstance(user, LazyObject) and user._wrapped.__class__ is object)
    if known and user.is_authenticated:
        name = quote(str(user.get_username()), safe="@+")
    return f"{client_address(request.META)} {name} {path}"
