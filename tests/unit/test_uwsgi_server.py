"""What uWSGI is asked at the start; the real ones that can be had are asked in the end-to-end tests."""

from types import SimpleNamespace
from typing import Any

import pytest

from uws4r import uwsgi_server
from uws4r.errors import ConfigurationError


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(SimpleNamespace(has_threads=0, opt={"enable-threads": b"true"}), id="uWSGI says so"),
        pytest.param(SimpleNamespace(opt={"master": True}), id="an older one does not say"),
    ],
)
def test_disabled_threads_are_an_error(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """uWSGI 2.0.31 cannot switch threads off any more, so this one stands in for its predecessors."""
    monkeypatch.setattr(uwsgi_server, "uwsgi", module)
    with pytest.raises(ConfigurationError, match="set enable-threads = true"):
        uwsgi_server.check_server()


def test_gevent_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """uWSGI itself looks for it when the worker is there already, and then over and over again."""
    monkeypatch.setattr(uwsgi_server, "uwsgi", SimpleNamespace(has_threads=1, opt={"gevent": b"100"}))
    monkeypatch.setattr(uwsgi_server, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install gevent"):
        uwsgi_server.check_server()


def test_options_that_end_workers_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opt = {"max-requests": b"1000", "harakiri": b"0", "cheap": True, "http-socket": [b":80", b":81"], "secret": b"x"}
    monkeypatch.setattr(uwsgi_server, "reach_redis", lambda: None)
    warned = []
    for worker in (0, 1, 2):  # before the fork; in each worker where lazy-apps is set
        module = SimpleNamespace(
            has_threads=1, opt=opt, worker_id=lambda worker=worker: worker, version=b"2.0.31", numproc=2
        )
        monkeypatch.setattr(uwsgi_server, "uwsgi", module)
        caplog.clear()
        uwsgi_server.check_server()
        warned.append([record.getMessage().split(" ")[0] for record in caplog.records])
    assert warned == [["max-requests", "cheap"], ["max-requests", "cheap"], []]
    assert uwsgi_server.about_server() == {
        "name": "uWSGI",
        "version": "2.0.31",
        "processes": 2,
        "threads": True,
        "mode": "detached",
        "options": {"http-socket": [":80", ":81"], "max-requests": "1000", "cheap": True},
        "spoiling": {},
    }


@pytest.mark.parametrize(
    ("name", "value", "spoils"),
    [
        ("route-run", "chunked:", True),
        ("route-run", "gzip:", True),
        ("route-run", "addheader:Connection: close", True),
        ("route-run", "addheader:X-Served-By: me", False),
        ("route-run", "remheader:Upgrade", True),
        ("route-run", "log:chunked", False),
        ("response-route-run", "chunked:", True),
        ("route", "^/ chunked:", True),
        ("route", "^/ws/ addheader:connection: close", True),
        ("route", "^/static/ gzip:", False),
        ("route", "^/(?<!x)(?P>y chunked:", True),  # not Python's to judge
        ("route-host", "^example chunked:", True),
        ("add-header", "Connection: Keep-Alive", True),
        ("add-header", "connection : close", True),
        ("add-header", "Sec-WebSocket-Extensions: permessage-deflate", True),
        ("add-header", "Connection-Id: 7", False),
        ("add-header", "X-Frame-Options: DENY", False),
        ("add-header", ["X-Frame-Options: DENY", "Upgrade: h2c"], True),
        ("del-header", "Upgrade", True),
        ("pull-header", "Upgrade NAME", True),
        ("pull-header", "X-Upgrade NAME", False),
        ("collect-header", "Upgrade NAME", False),
        ("chunked-input-limit", "100", False),
    ],
)
def test_options_that_spoil_a_101_are_known(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, spoils: bool
) -> None:
    given = [each.encode() for each in value] if isinstance(value, list) else value.encode()
    monkeypatch.setattr(uwsgi_server, "uwsgi", SimpleNamespace(opt={name: given, "master": True}))
    told = value[-1] if isinstance(value, list) else value
    assert uwsgi_server.spoiling_options() == ({name: told} if spoils else {})


def test_without_need_app_it_is_said_what_uwsgi_makes_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for opt, said in (({}, True), ({"need-app": True}, False)):
        monkeypatch.setattr(uwsgi_server, "uwsgi", SimpleNamespace(has_threads=0, opt=opt))
        with pytest.raises(ConfigurationError) as caught:
            uwsgi_server.check_server()
        assert ("answers 500; with need-app = true it ends" in str(caught.value)) is said


def test_a_worker_stops_the_hub_that_it_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """In native mode it has had many."""
    called: list[str] = []
    module = SimpleNamespace(atexit=lambda: called.append("the site's own"))
    monkeypatch.setattr(uwsgi_server, "uwsgi", module)
    for name in ("first", "second", "third"):
        uwsgi_server.stop_with_worker(SimpleNamespace(stop=lambda name=name: called.append(name)))  # type: ignore[arg-type]
    module.atexit()
    assert called == ["the site's own", "third"]


def test_another_server_is_told_what_to_use() -> None:
    with pytest.raises(ConfigurationError, match=r"websockets need uWSGI, not gunicorn/23\.0"):
        uwsgi_server.require_uwsgi({"SERVER_SOFTWARE": "gunicorn/23.0"})
    with pytest.raises(ConfigurationError, match='put "uws4r" above the app that it is of'):
        uwsgi_server.require_uwsgi({"SERVER_SOFTWARE": "WSGIServer/0.2"})
