"""What a client can do wrong has a defined answer, and costs nobody else anything."""

import re
import time
from collections.abc import Callable

import pytest

from tests.support.servers import wait_until
from tests.support.site import Site
from tests.support.wire import PING, TEXT, Client, Refused, close_frame, masked_frame

pytestmark = pytest.mark.e2e


def test_the_own_origin_may_connect(site: Site) -> None:
    site.connect("/ws/foo", {"Host": "localhost", "Origin": "http://localhost"}).ping()


@pytest.mark.parametrize(
    "query", ["?nonsense&token=x&subscribe-nobody&echo=1", "?", "", "?%00=%ff&&&=", "?" + "x" * 3000]
)
def test_unknown_flags_are_ignored(site: Site, query: str) -> None:
    site.connect(f"/ws/foo{query}").ping()


@pytest.mark.parametrize(
    ("path", "facility"),
    [
        ("/ws/", ""),
        ("/ws/a/b", "a/b"),
        ("/ws/a%2Fb", "a/b"),
        ("/ws/caf%C3%A9", "caf\u00e9"),
        ("/ws/a:b%3Ac", "a:b:c"),
        ("/ws/with%20space", "with space"),
        ("/ws/ws/twice", "ws/twice"),
        ("/ws/100%25", "100%"),
        ("/ws/%FF", "%FF"),
    ],
)
def test_a_facility_may_be_anything_printable(site: Site, path: str, facility: str) -> None:
    client = site.join(f"{path}?subscribe-broadcast", channel=f"broadcast:{facility}")
    site.redis.client.publish(f"broadcast:{facility}", "here")
    assert client.receive() == "here"


@pytest.mark.parametrize("path", ["/ws/a%0Ab", "/ws/%00", "/ws/%7F", "/ws/" + "x" * 1025])
def test_other_facilities_are_refused(site: Site, path: str) -> None:
    with pytest.raises(Refused, match="400: b'A facility has"):
        site.connect(path)


def test_the_websocket_application_serves_nothing_else(served: Callable[..., Site]) -> None:
    site = served(module="uws4r.wsgi:application")
    with pytest.raises(Refused, match="404: b'Websockets are at /ws/ here"):
        site.connect("/wsfoo")
    site.connect("/ws/foo").ping()


def test_requests_that_django_finds_suspicious_are_400_without_a_traceback(served: Callable[..., Site]) -> None:
    site = served(options=("--buffer-size", "32768"))
    with pytest.raises(Refused, match="400"):
        site.connect("/ws/f?" + "&".join("a" * 1001))
    site.uwsgi.assert_healthy()


def test_a_handshake_has_no_content_whatever_it_says_of_it(site: Site) -> None:
    for content in ("text/plain; charset=\0", "text/plain; charset=nonsense", ";;;", "\xff"):
        site.connect("/ws/f", {"Content-Type": content}).ping()


@pytest.mark.parametrize("path", ["/ws/news", "/ws/news?subscribe_broadcast", "/ws/news?subscribe-user"])
def test_a_websocket_that_hears_nothing_is_named_in_the_log(site: Site, path: str) -> None:
    site.connect(path).ping()
    assert re.search(r"WARNING .* /ws/news neither receives nor publishes anything, with the flags", site.uwsgi.log)


def test_nothing_reaches_the_log_as_it_came(site: Site) -> None:
    site.log_in("john")
    site.connect("/ws/a%20%1b%5B31m".replace("%1b", "%C2%A0") + "?subscribe-broadcast").ping()
    with pytest.raises(Refused):
        site.connect("/ws/x", {"Origin": "http://evil\x1b[31m"})
    assert "\x1b" not in site.uwsgi.log


def seconds_of(site: Site, origin: str) -> float:
    """How long the answer to a handshake from a page of this origin takes, at its quickest."""
    times = []
    for _ in range(10):
        with Client(site.address) as client:
            begin = time.monotonic()
            client.request("/ws/f?subscribe-broadcast", {"Origin": origin})
            times.append(time.monotonic() - begin)
            assert client.response is not None
            assert client.response.status == (101 if origin == "http://localhost" else 403)
    return min(times)


def test_an_origin_that_can_be_none_is_refused_at_once(served: Callable[..., Site]) -> None:
    site = served(options=("--buffer-size", "32768"))
    usual = seconds_of(site, "http://localhost")
    for origin in ("http://" + "\xe4" * 30_000, "http://" + "x" * 30_000, "http://" + "\xe4.\xe4-" * 7000):
        assert seconds_of(site, origin) < 5 * usual + 0.005
    assert seconds_of(site, "http://\xe4.example") < 5 * usual + 0.005
    assert site.uwsgi.log.count("foreign Origin") == 40
    assert max(map(len, site.uwsgi.log.splitlines())) < 1000


@pytest.mark.parametrize("callback", [None, "repeat", "deny_with_a_reason"])
def test_of_what_a_client_sends_little_is_logged(served: Callable[..., Site], callback: str | None) -> None:
    settings = {"ALLOWED_HOSTS": ["*"], "SESSION_ENGINE": "django.contrib.sessions.backends.cache"}
    if callback is not None:
        settings["WS4REDIS_ALLOWED_CHANNELS"] = f"testsite.callbacks.{callback}"
    site = served(settings=settings, options=("--buffer-size", "32768", "--disable-logging"))
    much = "q" * 1000
    evil = "\xa0" * 20 + much  # nothing that may be printed
    headers = {"Host": f"{much}.example", "Cookie": f"sessionid={much}{much}", "X-Forwarded-For": f"fe80::1%{much}"}
    statuses = set()
    for more in ({}, {"Origin": f"http://{evil}"}, {"Host": "_" + much}, {"Origin": f"http://{much}.example"}):
        for path in (f"/ws/{much}", f"/ws/f?{much}&%1b%0aERROR=1", "/ws/f?subscribe-broadcast&subscribe-session"):
            with Client(site.address) as client:
                response = client.request(path, {**headers, **more})
                assert response is not None
                statuses.add(response.status)
                if response.status == 101:
                    client.send_raw(close_frame(4000, "q" * 120))
                    assert client.receive_close().close_code == 4000
    assert statuses == {400, 403, *{None: {101}, "repeat": {500}, "deny_with_a_reason": set()}[callback]}
    assert "q" * 101 not in site.uwsgi.log
    assert not [line for line in site.uwsgi.log.splitlines() if line.startswith("ERROR=1") or not line.isascii()]
    if callback != "repeat":
        assert "Traceback" not in site.uwsgi.log


def test_what_can_be_no_key_is_no_session(site: Site) -> None:
    for key in ('"\\000aaaaaaaaa"', "k" * 3000, '"with space"', "", "\xe4" * 32, "short"):
        site.connect("/ws/f?subscribe-broadcast&subscribe-user", {"Cookie": f"sessionid={key}"}).ping()
    site.uwsgi.assert_healthy()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x80\x80\x01\x02\x03\x04", id="a continuation of nothing, which kills uWSGI's own parser"),
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(b"\xff" * 100, id="ones"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
    ],
)
def test_garbage_closes_its_sender_only(site: Site, sent: bytes) -> None:
    neighbours = [site.join("/ws/foo?subscribe-broadcast&publish-broadcast&echo") for _ in range(4)]
    client = site.connect("/ws/foo?subscribe-broadcast&publish-broadcast")
    client.send_raw(sent)
    assert client.receive_close().close_code == 1002
    assert client.ended()
    neighbours[0].send("all well")
    assert [neighbour.receive() for neighbour in neighbours] == ["all well"] * 4


def test_half_a_frame_and_then_nothing_holds_nobody_up(site: Site) -> None:
    halves = [site.connect("/ws/foo?publish-broadcast") for _ in range(10)]
    for half in halves:
        half.send_raw(masked_frame(TEXT, b"x" * 1000)[:500])
    reader = site.join("/ws/foo?subscribe-broadcast")
    sender = site.connect("/ws/foo?publish-broadcast")
    sender.send("whole")
    assert reader.receive() == "whole"
    halves[0].send_raw(masked_frame(TEXT, b"x" * 1000)[500:])
    assert reader.receive() == "x" * 1000


def test_fragments_of_two_clients_do_not_meet(site: Site) -> None:
    """BUG-S6: uWSGI's own parser gives one client's fragment to the other."""
    one, two = (site.connect("/ws/foo?publish-broadcast") for _ in range(2))
    reader = site.join("/ws/foo?subscribe-broadcast")
    one.send_raw(masked_frame(TEXT, b"secret of one, ", final=False))
    two.send_raw(masked_frame(TEXT, b"from two, ", final=False))
    two.send_raw(masked_frame(0, b"whole"))
    assert reader.receive() == "from two, whole"
    one.send_raw(masked_frame(PING) + masked_frame(0, b"whole"))
    assert reader.receive() == "secret of one, whole"


def test_a_frame_over_the_limit_is_1009(served: Callable[..., Site]) -> None:
    site = served()
    client = site.connect("/ws/foo?publish-broadcast")
    client.send_raw(masked_frame(TEXT, b"x" * ((1 << 20) + 1))[:1000])
    assert client.receive_close().close_code == 1009
    fits = site.join("/ws/foo?subscribe-broadcast&publish-broadcast&echo")
    fits.send("x" * (1 << 20))
    assert fits.receive() == "x" * (1 << 20)


def test_a_client_that_leaves_during_the_handshake_leaves_nothing(site: Site) -> None:
    for _ in range(20):
        client = Client(site.address)
        client.request("/ws/leaving?subscribe-broadcast", read=False)
        client.sock.close()
    site.connect("/ws/foo").ping()
    wait_until(lambda: site.redis.subscriptions("broadcast:leaving") == 0, "unsubscribed")


def test_refusals_of_the_site(served: Callable[..., Site]) -> None:
    def refusal(callback: str, setting: str = "WS4REDIS_ALLOWED_CHANNELS") -> str:
        site = served(settings={setting: f"testsite.callbacks.{callback}"})
        with pytest.raises(Refused) as caught:
            site.connect("/ws/foo?subscribe-broadcast")
        assert caught.value.response.status in (403, 500)
        assert "secret" not in caught.value.response.body.decode()
        assert ("Traceback" in site.uwsgi.log) == (caught.value.response.status == 500)
        return f"{caught.value.response.status} {site.uwsgi.log}"

    assert refusal("deny").startswith("403")
    assert re.match(r"(?s)403.*is its `return` missing", refusal("forget"))
    assert refusal("explode").startswith("500")
    assert refusal("deny", "WS4REDIS_PROCESS_REQUEST").startswith("403")
