"""A subscriber that was made is released once, whatever becomes of its handshake."""

import io
import socket
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.test import override_settings

from tests.support.hubs import Bench
from tests.support.servers import wait_until
from tests.unit.test_request_signals import ENVIRON
from uws4r import application
from uws4r.admission import census
from uws4r.application import Application, Way
from uws4r.detached import Detached
from uws4r.native import Native
from uws4r.subscriber import RedisSubscriber

made: list["Subscriber"] = []
released: list["Subscriber"] = []


class Subscriber(RedisSubscriber):
    def __init__(self, connection: Any = None) -> None:
        made.append(self)
        super().__init__(connection)

    def release(self) -> None:
        released.append(self)


class Fails(Subscriber):
    def set_pubsub_channels(self, request: HttpRequest, channels: list[str]) -> None:
        raise RuntimeError("a bug of the site's")


class FailsToGreet(Subscriber):
    def send_persisted_messages(self, websocket: Any) -> None:
        raise SystemExit


class FailsToRelease(Fails):
    def release(self) -> None:
        super().release()
        raise RuntimeError("another one")


class Silent(Fails):
    release = RedisSubscriber.release

    def __init__(self, connection: Any = None) -> None:
        super().__init__(connection)
        made.remove(self)


def deny(request: HttpRequest, channels: list[str]) -> list[str]:
    raise PermissionDenied


def forget(request: HttpRequest, channels: list[str]) -> None: ...


class Gone(Application):
    def process_subscriptions(self, request: HttpRequest) -> tuple[list[str], bool]:
        raise OSError("no database")


Start = Callable[[str, Iterable[tuple[str, str]]], Callable[[bytes], object]]


def start_response(status: str, headers: Iterable[tuple[str, str]]) -> Callable[[bytes], object]:
    return lambda data: None


def leaving(status: str, headers: Iterable[tuple[str, str]]) -> Callable[[bytes], object]:
    if status.startswith("101"):
        raise BrokenPipeError
    return lambda data: None


def failing(status: str, headers: Iterable[tuple[str, str]]) -> Callable[[bytes], object]:
    if status.startswith("101"):
        raise AssertionError("headers already set")
    return lambda data: None


@pytest.fixture
def shake(bench: Bench) -> Iterator[Callable[..., None]]:
    """A handshake, and what becomes of it if it does; its websocket is closed by the client at once."""
    made.clear()
    released.clear()

    def detach(environ: dict[str, Any]) -> int:
        ours, theirs = socket.socketpair()
        ours.close()
        return theirs.detach()

    def shake(kind: type[Application] = Application, way: Way | None = None, start: Start = start_response) -> None:
        served = kind(lambda: bench.hub, lambda environ: None, lambda: way or Detached(detach))
        list(served({**ENVIRON, "wsgi.input": io.BytesIO(), "REMOTE_ADDR": "203.0.113.7"}, start))

    yield shake
    assert made
    wait_until(lambda: len(released) >= len(made), "released")
    bench.hub.stop(5)
    assert released == made
    assert {(each.close_code, each.close_reason) for each in made} == {(1006, "")}
    assert not census._counts


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"WS4REDIS_SUBSCRIBER": f"{__name__}.Fails"},
        {"WS4REDIS_SUBSCRIBER": f"{__name__}.FailsToRelease"},
        {"WS4REDIS_ALLOWED_CHANNELS": deny},
        {"WS4REDIS_ALLOWED_CHANNELS": forget},
        {"UWS4R_MAX_CHANNELS": 0},
    ],
    ids=["opened", "a bug", "two bugs", "denied", "no return", "too many channels"],
)
def test_it_is_whatever_the_answer(shake: Callable[..., None], settings: dict[str, Any]) -> None:
    with override_settings(**{"WS4REDIS_SUBSCRIBER": f"{__name__}.Subscriber", **settings}):
        shake()


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber")
def test_it_is_where_a_method_of_the_server_fails(shake: Callable[..., None]) -> None:
    shake(Gone)


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.FailsToGreet")
def test_it_is_where_the_request_is_ended(shake: Callable[..., None]) -> None:
    with pytest.raises(SystemExit):
        shake()


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber", UWS4R_MAX_CONNECTIONS_PER_IP=1)
def test_it_is_where_an_address_has_too_many(shake: Callable[..., None]) -> None:
    leave = census.admit("203.0.113.7 - /ws/f")
    assert leave is not None
    shake()
    leave()


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber")
def test_it_is_where_there_are_no_headers_to_answer_with(
    shake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("not a header of HTTP")

    monkeypatch.setattr(application, "accept_headers", fail)
    shake()


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber", UWS4R_MAX_CONNECTIONS_PER_IP=1)
def test_it_is_where_the_client_has_gone(shake: Callable[..., None]) -> None:
    shake(start=leaving)


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber", UWS4R_MAX_CONNECTIONS_PER_IP=1)
def test_it_is_where_the_server_fails(shake: Callable[..., None]) -> None:
    with pytest.raises(AssertionError):
        shake(start=failing)


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber", UWS4R_MAX_CONNECTIONS_PER_IP=1)
def test_it_is_where_the_socket_is_none(shake: Callable[..., None]) -> None:
    shake(way=Detached(lambda environ: 1 << 20))


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber", UWS4R_MAX_CONNECTIONS_PER_IP=1)
@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_it_is_where_native_mode_fails(bench: Bench, shake: Callable[..., None], error: type[Exception]) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    given_up = []
    bench.hub.engine = SimpleNamespace(expect=lambda: None, give_up=lambda: given_up.append(1))
    try:
        if error is OSError:
            shake(way=Native(SimpleNamespace(websocket_handshake=fail)))
        else:
            with pytest.raises(error):
                shake(way=Native(SimpleNamespace(websocket_handshake=fail)))
    finally:
        bench.hub.engine = None
    assert given_up == [1]


@override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber", UWS4R_MAX_CONNECTIONS_PER_IP=1)
def test_it_is_where_the_worker_stops_meanwhile(bench: Bench, shake: Callable[..., None]) -> None:
    def stopping(status: str, headers: Iterable[tuple[str, str]]) -> Callable[[bytes], object]:
        bench.hub.stop(5)
        return lambda data: None

    shake(start=stopping)


def test_who_does_not_override_it_costs_no_thread(bench: Bench, shake: Callable[..., None]) -> None:
    with override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Silent"):
        shake()
    assert bench.hub.threads._count == 0
    with override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Subscriber"):
        shake()
