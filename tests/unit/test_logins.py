"""How sessions are read: what is the same as Django does it, and what is quicker."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import caches
from django.test import RequestFactory, override_settings

from tests.support.servers import RedisServer, wait_until
from uws4r.logins import claim, give_back, load_session, session_store


def cached_in(server: RedisServer, database: int = 0, **options: Any) -> Callable[..., Any]:
    """Settings with which sessions are in Django's own cache for Redis."""
    entry = {"BACKEND": "django.core.cache.backends.redis.RedisCache", **options}
    return override_settings(
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        CACHES={"default": {**entry, "LOCATION": f"{server.url.rpartition('/')[0]}/{database}"}},
    )


def saved(**data: Any) -> str:
    session = SessionStore()
    session.update(data)
    session.save()
    assert session.session_key is not None
    return session.session_key


def test_a_session_in_djangos_redis_cache_costs_no_client(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = redis.Redis.__init__

    def counted(self: redis.Redis, *arguments: Any, **options: Any) -> None:
        made.append(self)
        make(self, *arguments, **options)

    with cached_in(redis_server):
        key = saved(language="en")
        monkeypatch.setattr(redis.Redis, "__init__", counted)
        for _ in range(5):
            session = load_session(key)
            assert (session["language"], session.session_key) == ("en", key)
        assert len(made) == 1


def test_it_is_the_same_session(redis_server: RedisServer) -> None:
    with cached_in(redis_server, KEY_PREFIX="here", VERSION=7):
        key = saved(language="en")
        session = load_session(key)
        assert dict(session.items()) == {"language": "en"}
        session["language"] = "de"
        session.save()
        assert SessionStore(key)["language"] == "de"
        session.flush()
        assert not SessionStore().exists(key)
        assert load_session(key).session_key is None
        caches["default"].set("x", 1)  # what it was made from goes on
        assert caches["default"].get("x") == 1


def test_it_follows_the_settings(redis_server: RedisServer) -> None:
    with cached_in(redis_server):
        key = saved(language="en")
        assert load_session(key).session_key == key
        with cached_in(redis_server, database=1):
            assert load_session(key).session_key is None
        assert load_session(key).session_key == key


def test_its_connection_goes_with_the_thread(own_redis: RedisServer) -> None:
    with cached_in(own_redis):
        key = saved(language="en")
        before = len(own_redis.client.client_list())
        seen = []

        def look() -> None:
            seen.append(load_session(key).session_key)
            seen.append(len(own_redis.client.client_list()) - before)
            give_back()

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == [key, 1]
        wait_until(lambda: len(own_redis.client.client_list()) == before, "closed")
        caches["default"].clear()


class Credulous(SessionBase):
    """A store that goes on with every key, as some of other projects do."""

    there: ClassVar[dict[str, dict[str, Any]]] = {}

    def load(self) -> dict[str, Any]:
        return self.there.get(str(self.session_key), {})

    def exists(self, session_key: str) -> bool:
        return session_key in self.there


class Replacing(Credulous):
    """One that makes a new session where it does not find one."""

    def load(self) -> dict[str, Any]:
        if self.session_key not in self.there:
            self._session_key = "made-anew"  # type: ignore[misc]
            self.there["made-anew"] = {}
        return self.there[str(self.session_key)]

    def delete(self, session_key: str | None = None) -> None:
        del self.there[str(session_key or self.session_key)]


@pytest.mark.parametrize("store", [Credulous, Replacing])
def test_no_store_is_believed_that_a_session_is_there(store: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uws4r.logins.session_store", lambda engine: store)
    monkeypatch.setattr(Credulous, "there", {"full-session": {"language": "en"}, "empty-session": {}})
    assert load_session("full-session")["language"] == "en"
    assert [load_session(key).session_key for key in ("full-session", "empty-session")] == [
        "full-session",
        "empty-session",
    ]
    assert load_session("no-such-session").session_key is None
    assert set(Credulous.there) == {"full-session", "empty-session"}


@pytest.mark.parametrize("key", ["made-up-key", "made:up:key", "k" * 2000])
@pytest.mark.parametrize("engine", ["cache", "file", "signed_cookies"])
def test_a_made_up_key_is_no_session(engine: str, key: str, tmp_path: Path) -> None:
    backend = f"django.contrib.sessions.backends.{engine}"
    with override_settings(SESSION_ENGINE=backend, SESSION_FILE_PATH=str(tmp_path)):
        assert load_session(key).session_key is None
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_session_that_is_over_leaves_no_other_one(tmp_path: Path) -> None:
    SessionStore = session_store("django.contrib.sessions.backends.file")
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.file", SESSION_FILE_PATH=str(tmp_path)):
        session = SessionStore()
        session["language"] = "en"
        session.save()
        assert load_session(session.session_key)["language"] == "en"
        session.set_expiry(-1)
        session.save()
        found = load_session(session.session_key)
    assert (found.session_key, dict(found.items())) == (None, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cookie", "key"),
    [
        ("sessionid=0123456789abcdef", "0123456789abcdef"),
        ("sessionid=.eJx:1tAbc-_=", ".eJx:1tAbc-_="),  # signed cookies
        ('sessionid="\\000aaaaaaaaa"', None),  # which PostgreSQL takes for an error
        ('sessionid="a b c d e f g"', None),
        ("sessionid=" + "\xe4" * 32, None),
        ("sessionid=", None),
        ("sessionid=" + "k" * 5000, None),
        ("other=1", None),
    ],
)
def test_what_cannot_be_a_key_is_no_claim(cookie: str, key: str | None) -> None:
    assert claim(RequestFactory().get("/ws/f", HTTP_COOKIE=cookie)) == key


def test_a_cache_is_not_asked_for_what_it_would_warn_of(recwarn: pytest.WarningsRecorder) -> None:
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"):
        assert load_session("k" * 1000).session_key is None
    assert not recwarn.list
