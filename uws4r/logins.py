"""
The login that a websocket was opened with: which session it is, and whether it still is that user's.

Loaded by the handshake in an ordinary request; :func:`read_session` runs later, on a worker thread.
"""

import logging
import re
import time
from collections.abc import Callable
from copy import copy
from datetime import datetime
from functools import cache, lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.db import close_old_connections, connections, reset_queries
from django.http import HttpRequest
from django.utils.functional import LazyObject, empty

from uws4r.attachment import CHANGED, ENDED, GONE, NOBODY, OWN, Over, quoted_user, unquoted_user
from uws4r.channels import in_cookies
from uws4r.conf import callback, conf
from uws4r.quoting import shown

logger = logging.getLogger("uws4r.access")

FOR_EVER = 0xFFFFFFFF  # seconds of the epoch
LONGEST_CLAIM = 64  # characters of a key that nobody has looked at
LONGEST_CACHED = 128  # characters of a key that a cache is asked for; Django's have 32
# What can be a key. Of others, caches warn in a text that Python remembers for ever, and databases raise errors.
POSSIBLE_KEY = re.compile("[!-~]{1,4096}").fullmatch


def loaded(value: Any) -> bool:
    """Whether a lazy object has been looked at; what is not lazy has."""
    return not (isinstance(value, LazyObject) and value._wrapped is empty)


def claim(request: HttpRequest) -> str | None:
    """Return the key of the session that a client claims to have; None where it cannot be one."""
    if "HTTP_COOKIE" not in request.META and "COOKIES" not in vars(request):  # nor has the site put any there
        return None
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    return key if key and POSSIBLE_KEY(key) else None


@lru_cache(maxsize=4)
def session_store(engine: str) -> type[SessionBase]:
    """Return the class of a ``SESSION_ENGINE``."""
    return import_module(engine).SessionStore


class _Clients(RedisCacheClient):
    """
    Makes one ``redis.Redis`` for each pool.

    Django's makes one for each command, which takes two to three times as long as to read the session with it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if hasattr(self, "_client"):  # what a version of Django has that makes them otherwise is left as it is
            self._client: Any = cache(self._client)


_quick: WeakKeyDictionary[RedisCache, RedisCache] = WeakKeyDictionary()  # Django has a cache object for each thread


def _quicker(slow: RedisCache) -> RedisCache:
    """Return what does the same as a cache of Django's for Redis, in less time."""
    quick = _quick.get(slow)
    if quick is None:
        quick = copy(slow)
        vars(quick).pop("_cache", None)  # the client, where there is one already
        quick._class = _Clients
        _quick[slow] = quick
    return quick


def load_session(key: str, start: Callable[[], None] | None = None) -> SessionBase:
    """
    Return a session, loaded; the key of one that is not there is None.

    Args:
        start: Called before anything but Redis is asked, which may want a database connection.
    """
    store: Any = session_store(settings.SESSION_ENGINE)
    session = store(key)
    if len(key) > LONGEST_CACHED and hasattr(session, "_cache"):
        return store(None)
    in_redis = type(getattr(session, "_cache", None)) is RedisCache
    if in_redis:
        session._cache = _quicker(session._cache)
    if start is not None and not (in_redis and type(session) is SessionStore):
        start()
    return session if _is_there(session, key) else store(None)


def _is_there(session: Any, key: str) -> bool:
    session.get("")
    if session.session_key == key and (session.keys() or _forgets(type(session)) or session.exists(key)):
        return True
    if session.session_key not in (key, None):  # made in the place of one that is not there, or over
        session.delete()
    return False


def _forgets(store: type[SessionBase]) -> bool:
    """Whether a store is known to forget the key of a session that it does not find, so that no other look is due."""
    return store.load.__module__.startswith("django.contrib.sessions.backends.") and not in_cookies(store)


def by_django(request: HttpRequest) -> None:
    """Note that the request's session and user, as they are now, are Django's: its rules say whether they hold."""
    request.djangos = (request.session, request.user)


def _is_its_own(request: HttpRequest, session: Any) -> bool:
    """Whether the site has set the request's session."""
    return session is not None and session is not vars(request).get("djangos", (None,))[0]


def look(request: HttpRequest) -> None:
    """
    Load session and user of a request that claims to have a session, so that the websocket ends with that login.

    Not where ``UWS4R_SESSION_CHECK`` is 0, nor where they cannot be read: nothing that the site asks for depends on it.
    A session that the site has made of what the client claims is looked for, before it is an audience.
    """
    user = getattr(request, "user", None)
    session: Any = getattr(request, "session", None)
    if _is_its_own(request, session):
        _look_for(request, session)
    if loaded(user) or claim(request) is None or not conf.UWS4R_SESSION_CHECK:
        return
    try:
        user.is_authenticated  # type: ignore[union-attr]  # noqa: B018 - loads both
    except Exception as error:
        logger.warning(
            "the login of a websocket cannot be read, so that it does not end with it: %s", shown(repr(error))
        )


def _look_for(request: HttpRequest, session: Any) -> None:
    try:
        if not isinstance(session, SessionBase) or not session.session_key or _is_there(session, session.session_key):
            return
    except Exception as error:
        logger.warning("a session that the site has made cannot be read, and is none: %s", shown(repr(error)))
    request.session = session.__class__(None)


def session_of(request: HttpRequest) -> tuple[str | None, int]:
    """
    Return the key of the request's session, and when the session ends in seconds of the epoch.

    Where nobody has loaded the session, or it is not there, the key is what the client claims, good for being closed
    by, and the time is 0. A login that the site has made itself has the key that the site gives it, behind
    :data:`OWN`, and a time only where the site has a way to look at it.
    """
    session: Any = getattr(request, "session", None)
    if not _is_djangos(request, session):
        key = _own_key(request, session)
        return (None, 0) if key is None else (OWN + key, 0 if conf.UWS4R_LOGIN_CHECKER is None else FOR_EVER)
    if loaded(session):
        session = getattr(session, "_wrapped", session)
        if session.session_key is not None:
            return session.session_key, int(time.time() + session.get_expiry_age())
    key = claim(request)
    return (key, 0) if key and len(key) <= LONGEST_CLAIM else (None, 0)


def _is_djangos(request: HttpRequest, session: Any) -> bool:
    """Whether the websocket is that of the user whose session the cookie names."""
    djangos, user = vars(request).get("djangos", (None, None))
    if djangos is None or session is not djangos:
        return False
    if request.user is user:
        return True
    try:  # a site may have put another object for the same user in its place
        return request.user.is_authenticated == user.is_authenticated and (
            not user.is_authenticated or request.user.get_username() == user.get_username()
        )
    except Exception as error:
        logger.warning("nobody can say whose a session is, so that nobody looks at it: %s", shown(repr(error)))
        return False


def _own_key(request: HttpRequest, session: Any) -> str | None:
    """Return what names a login that the site has made: ``request.login_key``, else its session's key."""
    key = vars(request).get("login_key")
    if key is None and _is_its_own(request, session) and loaded(session):
        key = getattr(session, "session_key", None)
    return str(key) if key else None


class _Reading:
    """
    A session as :func:`get_user` gets it: to be read.

    Of one that was signed with a key of ``SECRET_KEY_FALLBACKS`` it would change the key in the store. Nobody would
    tell the browser, which would be logged out.
    """

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self.over = False  # it was not of the user's present password

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __contains__(self, name: str) -> bool:
        return name in self._session

    def __getitem__(self, name: str) -> Any:
        return self._session[name]

    def __setitem__(self, name: str, value: Any) -> None:
        pass

    def cycle_key(self) -> None:
        pass

    def flush(self) -> None:
        self.over = True


def user_of(session: SessionBase) -> tuple[Any, bool]:
    """Return a session's user, and whether the session is one of the user's present password; change nothing."""
    reading = _Reading(session)
    return get_user(SimpleNamespace(session=reading)), not reading.over


def read_session(key: str, user: str) -> int | Over:
    """
    Return when a session ends, in seconds of the epoch; what has become of it if it is not that user's any more.

    Args:
        key: Behind :data:`OWN` that of a login of the site's, which ``UWS4R_LOGIN_CHECKER`` looks at.
        user: The name as :class:`~uws4r.attachment.Identity` has it.
    Raises:
        Exception: Whatever the session engine, the database or the site raises when it cannot tell.
    """
    reset_queries()
    close_old_connections()
    try:
        return _ask_site(key.removeprefix(OWN), user) if key.startswith(OWN) else _read_session(key, user)
    finally:
        close_old_connections()


def give_back() -> None:
    """
    Close the connections of a thread that ends: to databases, which it has kept with ``CONN_MAX_AGE``, and to caches.

    redis-py's pools refer to themselves in some versions, so that they would wait for Python's garbage collector.
    """
    connections.close_all()
    for slow in caches.all(initialized_only=True):
        quick = _quick.pop(slow, None) if isinstance(slow, RedisCache) else None
        client = None if quick is None else vars(quick).get("_cache")
        for pool in getattr(client, "_pools", {}).values():
            pool.disconnect()


def _ask_site(key: str, user: str) -> int | Over:
    checker = callback(conf.UWS4R_LOGIN_CHECKER)
    if checker is None:  # any more
        return FOR_EVER
    answer = checker(key, unquoted_user(user))
    if answer is True:
        return FOR_EVER
    if isinstance(answer, Over):
        return answer
    if answer is None:
        raise TypeError("UWS4R_LOGIN_CHECKER returned None (is its `return` missing?)")
    end = int(answer.timestamp() if isinstance(answer, datetime) else answer)
    return end if end > time.time() else ENDED


def django_login(key: str, user: str | None) -> int | Over:
    """Ask Django: a ``UWS4R_LOGIN_CHECKER`` for sites that attach its session themselves."""
    return _read_session(key, NOBODY if user is None else quoted_user(user))


def _read_session(key: str, user: str) -> int | Over:
    session = load_session(key)
    if session.session_key is None:
        return GONE
    if user != NOBODY:
        found, _ = user_of(session)
        if not found.is_authenticated:
            return ENDED
        if quoted_user(str(found.get_username())) != user:
            return CHANGED
    if hasattr(session, "model"):  # in the database: its end is not in the session's own data
        end = session.model._default_manager.filter(pk=key).values_list("expire_date", flat=True).first()
        return GONE if end is None else int(end.timestamp())
    return int(time.time() + session.get_expiry_age())
