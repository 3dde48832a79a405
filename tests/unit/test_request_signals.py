"""When Django's signals of a request are sent, with which it opens and gives back database connections."""

import io
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.cache import SessionStore
from django.core.exceptions import PermissionDenied
from django.core.signals import request_finished, request_started
from django.http import HttpRequest
from django.test import override_settings

from tests.support.hubs import Bench
from tests.support.servers import RedisServer
from uws4r import logins
from uws4r.access import attach_session_and_user
from uws4r.application import Application
from uws4r.detached import Detached
from uws4r.subscriber import RedisSubscriber

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "PATH_INFO": "/ws/f",
    "QUERY_STRING": "subscribe-broadcast",
    "HTTP_HOST": "localhost",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    "wsgi.url_scheme": "http",
}

events: list[str] = []


def noting(what: str, act: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        events.append(what)
        return act(*arguments, **options)

    return noted


def granting(request: HttpRequest, channels: list[str]) -> list[str]:
    events.append("callback")
    return channels


def refusing(request: HttpRequest, channels: list[str]) -> list[str]:
    events.append("callback")
    raise PermissionDenied


def processing(request: HttpRequest) -> None:
    events.append("callback")


class Subscriber(RedisSubscriber):
    def __init__(self, connection: Any = None) -> None:
        events.append("subscriber")
        super().__init__(connection)


class Own(Application):
    def process_subscriptions(self, request: HttpRequest) -> tuple[list[str], bool]:
        events.append("method")
        return super().process_subscriptions(request)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    events.clear()

    def started(environ: dict[str, Any], **_: Any) -> None:
        events.append(f"started {environ['PATH_INFO']}")

    def finished(**_: Any) -> None:
        events.append("finished")

    request_started.connect(started)
    request_finished.connect(finished)
    yield
    request_started.disconnect(started)
    request_finished.disconnect(finished)


@pytest.fixture
def shake(bench: Bench) -> Iterator[Callable[..., str]]:
    """``shake(kind=Application, **changes of the environ)``: a handshake; returns its status."""
    ends: list[socket.socket] = []

    def detach(environ: dict[str, Any]) -> int:
        ours, theirs = socket.socketpair()
        ends.append(ours)
        return theirs.detach()

    def shake(kind: type[Application] = Application, **changes: str) -> str:
        statuses = []

        def start_response(status: str, headers: Iterable[tuple[str, str]]) -> Callable[[bytes], object]:
            statuses.append(status[:3])
            return lambda data: None

        application = kind(lambda: bench.hub, lambda environ: None, lambda: Detached(detach))
        application({**ENVIRON, "wsgi.input": io.BytesIO(), **changes}, start_response)
        bench.call(lambda: None)  # the hub has taken it
        return statuses[0]

    yield shake
    for end in ends:
        end.close()


def test_a_handshake_that_needs_nothing_of_the_sites_goes_without(shake: Callable[..., str]) -> None:
    assert shake() == "101"
    assert shake(QUERY_STRING="subscribe-user&subscribe-group&subscribe-session") == "101"
    assert shake(REQUEST_METHOD="POST") == "400"
    assert shake(HTTP_ORIGIN="http://foreign.example") == "403"
    assert events == []


def test_they_are_around_the_session(shake: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"):
        session = SessionStore()
        session["language"] = "en"
        session.save()
        monkeypatch.setattr(SessionStore, "load", noting("session", SessionStore.load))
        assert shake(HTTP_COOKIE=f"sessionid={session.session_key}") == "101"
        assert events == ["started /ws/f", "session", "finished"]
        events.clear()
        with override_settings(UWS4R_SESSION_CHECK=0):  # then nobody looks at it
            assert shake(HTTP_COOKIE=f"sessionid={session.session_key}") == "101"
        assert events == []


def test_a_session_in_redis_needs_none_but_its_user_does(
    shake: Callable[..., str], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": redis_server.url}
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache", CACHES={"default": cache}):
        monkeypatch.setattr(SessionStore, "load", noting("session", SessionStore.load))
        monkeypatch.setattr(logins, "get_user", noting("user", lambda request: AnonymousUser()))
        for data, expected in (
            ({"language": "en"}, ["session"]),
            ({SESSION_KEY: "1"}, ["session", "started /ws/f", "user", "finished"]),
        ):
            session = SessionStore()
            session.update(data)
            session.save()
            events.clear()
            assert shake(HTTP_COOKIE=f"sessionid={session.session_key}") == "101"
            assert events == expected


@pytest.mark.parametrize(
    ("setting", "value", "status", "between"),
    [
        ("WS4REDIS_ALLOWED_CHANNELS", granting, "101", "callback"),
        ("WS4REDIS_ALLOWED_CHANNELS", refusing, "403", "callback"),
        ("WS4REDIS_PROCESS_REQUEST", processing, "101", "callback"),
        ("WS4REDIS_SUBSCRIBER", f"{__name__}.Subscriber", "101", "subscriber"),
    ],
)
def test_they_are_around_code_of_the_site(
    shake: Callable[..., str], setting: str, value: Any, status: str, between: str
) -> None:
    with override_settings(**{setting: value}):
        assert shake() == status
    assert events == ["started /ws/f", between, "finished"]


def test_they_are_around_what_a_subclass_does(shake: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert shake(Own) == "101"
    assert events == ["started /ws/f", "method", "finished"]
    events.clear()
    stricter = noting("method", Application.assure_protocol_requirements)
    monkeypatch.setattr(Application, "assure_protocol_requirements", stricter)
    assert shake(REQUEST_METHOD="POST") == "400"
    assert events == ["started /ws/f", "method", "finished"]


def test_who_keeps_the_request_begins_no_other_one(shake: Callable[..., str]) -> None:
    kept = []

    def keep(request: HttpRequest) -> None:
        attach_session_and_user(request)
        kept.append(request)

    with override_settings(
        SESSION_ENGINE="django.contrib.sessions.backends.cache", WS4REDIS_PROCESS_REQUEST=keep, UWS4R_SESSION_CHECK=0
    ):
        assert shake(HTTP_COOKIE="sessionid=nobodyknowsthiskey") == "101"
        assert events == ["started /ws/f", "finished"]
        assert not kept[0].user.is_authenticated
        assert events == ["started /ws/f", "finished"]
