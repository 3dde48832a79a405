"""
The login that a websocket was opened with: which session it is, and whether it still is that user's.

Loaded by the handshake in an ordinary request; :func:`read_session` runs later, on a worker thread.
"""

import logging
import re
import time
from collections.abc import Callable
from copy import copy
from functools import cache, lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.db import close_old_connections, connections, reset_queries
from django.http import HttpRequest
from django.utils.functional import LazyObject, empty

from uws4r.attachment import NOBODY, quoted_user
from uws4r.conf import conf
from uws4r.quoting import shown

logger = logging.getLogger("uws4r.access")

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
    Return a session, loaded; a store forgets the key of one that is not there, so that its key is None then.

    Args:
        start: Called before anything but Redis is asked, which may want a database connection.
    """
    session: Any = session_store(settings.SESSION_ENGINE)(key)
    if len(key) > LONGEST_CACHED and hasattr(session, "_cache"):
        return session_store(settings.SESSION_ENGINE)(None)
    in_redis = type(getattr(session, "_cache", None)) is RedisCache
    if in_redis:
        session._cache = _quicker(session._cache)
    if start is not None and not (in_redis and type(session) is SessionStore):
        start()
    session.get("")
    return session


def look(request: HttpRequest) -> None:
    """
    Load session and user of a request that claims to have a session, so that the websocket ends with that login.

    Not where ``UWS4R_SESSION_CHECK`` is 0, nor where they cannot be read: nothing that the site asks for depends on it.
    """
    user = getattr(request, "user", None)
    if loaded(user) or claim(request) is None or not conf.UWS4R_SESSION_CHECK:
        return
    try:
        user.is_authenticated  # type: ignore[union-attr]  # noqa: B018 - loads both
    except Exception as error:
        logger.warning(
            "the login of a websocket cannot be read, so that it does not end with it: %s", shown(repr(error))
        )


def session_of(request: HttpRequest) -> tuple[str | None, int]:
    """
    Return the key of the request's session, and when the session ends in seconds of the epoch.

    Where nobody has loaded the session the key is what the client claims, good for being closed by, and the time
    is 0.
    """
    session: Any = getattr(request, "session", None)
    if session is not None and loaded(session):
        session = getattr(session, "_wrapped", session)
        if not isinstance(session, SessionBase) or session.session_key is None:
            return getattr(session, "session_key", None) or None, 0
        return session.session_key, int(time.time() + session.get_expiry_age())
    key = claim(request)
    return (key, 0) if key and len(key) <= LONGEST_CLAIM else (None, 0)


def read_session(key: str, user: str) -> int | None:
    """
    Return when a session ends, in seconds of the epoch; None if it has ended or is another user's.

    Args:
        user: The name as :class:`~uws4r.attachment.Identity` has it.
    Raises:
        Exception: Whatever the session engine or the database raises when it cannot tell.
    """
    reset_queries()
    close_old_connections()
    try:
        return _read_session(key, user)
    finally:
        close_old_connections()


def give_back() -> None:
    """Close the database connections of a thread that ends: with ``CONN_MAX_AGE`` it has kept them."""
    connections.close_all()


def _read_session(key: str, user: str) -> int | None:
    session = load_session(key)
    if session.session_key is None:
        return None
    if user != NOBODY:
        found: Any = get_user(SimpleNamespace(session=session))
        if not found.is_authenticated or quoted_user(str(found.get_username())) != user:
            return None
    if hasattr(session, "model"):  # in the database: its end is not in the session's own data
        end = session.model._default_manager.filter(pk=key).values_list("expire_date", flat=True).first()
        return None if end is None else int(end.timestamp())
    return int(time.time() + session.get_expiry_age())
