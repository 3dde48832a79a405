"""The browser client in headless Chromium, on a server that goes away, comes back and refuses."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from selenium.webdriver import Chrome

from tests.support.browser import browsers
from tests.support.servers import wait_until
from tests.support.site import Site

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATIENCE = 60.0  # seconds: the waits between attempts grow, and the browser has pauses of its own
HEARTBEAT = "--heartbeat--"
AWAY = "while you were away"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    with browsers() as start:
        yield start()


class Tab:
    """A page of the test site; it is left at the end of the test."""

    def __init__(self, driver: Chrome, site: Site) -> None:
        self.driver = driver
        self.site = site

    def open(self, path: str) -> None:
        self.driver.get(f"http://localhost:{self.site.address[1]}{path}")

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def until(self, expression: str) -> None:
        wait_until(lambda: self.js(expression), expression, timeout=PATIENCE, pause=0.05)


@pytest.fixture
def tab(chromium: Chrome, served: Callable[..., Site]) -> Iterator[Callable[..., Tab]]:
    yield lambda **arguments: Tab(chromium, served(**arguments))
    chromium.get("about:blank")


def publish(site: Site, message: str) -> None:
    """A view publishes, and the message is kept."""
    form = urlencode({"facility": "foo", "audience": "broadcast", "message": message})
    assert site.request("POST", "/publish/", form).status == 200


def keep(site: Site, message: str) -> None:
    """What a task published while there was no server: only the kept message is left of it."""
    site.redis.client.set("broadcast:foo", message)


def test_a_page_comes_back_with_the_server_and_gets_what_was_kept(tab: Callable[..., Tab]) -> None:
    page = tab()
    messages = "log.filter((entry) => entry.type === 'message').map((entry) => entry.text)"
    page.open("/page/client/")
    page.until("clients[0].state === 'open'")
    publish(page.site, "before")
    page.until(f"{messages}.join() === 'before'")
    page.site.uwsgi.stop()
    page.until("clients[0].state !== 'open'")
    assert page.js("log.find((entry) => entry.type === 'close').code") == 1012
    keep(page.site, AWAY)
    page.site.uwsgi.start()
    page.until("clients[0].state === 'open'")
    page.until(f"{messages}.join() === 'before,{AWAY}'")
    page.js("clients[0].send('after')")
    page.until(f"{messages}.join() === 'before,{AWAY},after'")
    assert page.js("log.filter((entry) => entry.type === 'giveup').length") == 0
    page.site.uwsgi.assert_healthy()


def test_what_is_sent_while_the_server_is_away_arrives_in_order(tab: Callable[..., Tab]) -> None:
    page = tab(settings={"WS4REDIS_EXPIRE": 0})
    page.open("/page/client/")
    page.until("clients[0].state === 'open'")
    with page.site.redis.client.pubsub() as reader:
        reader.subscribe("broadcast:foo")
        page.site.uwsgi.stop()
        page.until("clients[0].state !== 'open'")
        for number in range(100):
            page.js(f"clients[0].send('{number}')")
        page.site.uwsgi.start()
        arrived: list[str] = []
        while len(arrived) < 100:
            message = reader.get_message(ignore_subscribe_messages=True, timeout=PATIENCE)
            if message is not None:
                arrived.append(message["data"].decode())
    assert arrived == [str(number) for number in range(100)]


def test_binary_goes_and_comes_as_an_arraybuffer(tab: Callable[..., Tab]) -> None:
    page = tab()
    page.open("/page/client/")
    page.js("clients[0].send(new Uint8Array([0, 255, 65]))")
    page.until("log.some((entry) => entry.text instanceof ArrayBuffer)")
    assert page.js("[...new Uint8Array(log.at(-1).text)]") == [0, 255, 65]


def test_a_page_that_is_refused_gives_up_and_says_so(tab: Callable[..., Tab]) -> None:
    page = tab(settings={"WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.deny"})
    page.open("/page/client/?clients=0")
    page.js("start('/ws/foo?subscribe-broadcast', { giveUpAfter: 2 })")
    page.until("clients[0].state === 'gaveup'")
    assert page.js("log.map((entry) => entry.type)") == ["close", "connecting", "close", "giveup"]
    assert "2 attempts in a row failed" in page.js("log.at(-1).text")


def test_fifty_tabs_come_back_from_a_reload_spread_and_nobody_is_lost(tab: Callable[..., Tab]) -> None:
    page = tab(workers=2)
    page.open("/page/tabs/")

    def logs() -> list[list[dict[str, Any]]]:
        return page.js("logs()")

    def of(kind: str) -> list[list[dict[str, Any]]]:
        return [[entry for entry in log if entry["type"] == kind] for log in logs()]

    def opened(times: int) -> bool:
        return [len(entries) for entries in of("open")] == [times] * 50

    wait_until(lambda: opened(1), "fifty open", timeout=PATIENCE, pause=0.1)
    page.site.uwsgi.process.process.send_signal(signal.SIGHUP)
    wait_until(lambda: opened(2), "fifty back", timeout=PATIENCE, pause=0.1)
    assert [entries[0]["code"] for entries in of("close")] == [1012] * 50
    attempts = [entries[0]["at"] for entries in of("connecting")]  # the first of each after the reload
    assert max(attempts) - min(attempts) > 300, attempts  # ms; of 50 in a second
    publish(page.site, "welcome back")
    everybody = [["welcome back"]] * 50
    wait_until(
        lambda: [[entry["text"] for entry in entries] for entries in of("message")] == everybody,
        "everybody has the message",
        timeout=PATIENCE,
        pause=0.1,
    )
    page.site.uwsgi.assert_healthy()


def test_a_server_that_hangs_is_noticed_by_the_heartbeat(tab: Callable[..., Tab]) -> None:
    page = tab(settings={"WS4REDIS_HEARTBEAT": HEARTBEAT})
    page.open("/page/client/?clients=0")
    page.js(f"start('/ws/foo?subscribe-broadcast', {{ heartbeat: '{HEARTBEAT}' }})")
    page.until("clients[0].state === 'open'")
    group = page.site.uwsgi.process.process.pid  # of the workers too
    os.killpg(group, signal.SIGSTOP)
    try:
        page.until("clients[0].state === 'connecting'")  # 20 seconds, and no close frame will come
        assert page.js("log.at(-2).text") == "no heartbeat"
    finally:
        os.killpg(group, signal.SIGCONT)
    page.until("clients[0].state === 'open'")


@pytest.mark.parametrize("query", ["", "?jquery=1"], ids=["without jQuery", "with jQuery"])
def test_a_page_of_ws4redis_goes_on_working(tab: Callable[..., Tab], query: str) -> None:
    page = tab(settings={"WS4REDIS_HEARTBEAT": HEARTBEAT})
    page.open(f"/page/ws4redis/{query}")
    page.until("ws4redis.is_connected()")
    page.js("ws4redis.send_message('sent by the page')")
    page.until("received.join() === 'sent by the page'")
    page.site.redis.client.publish("broadcast:foo", HEARTBEAT)
    publish(page.site, "published")
    page.until("received.join() === 'sent by the page,published'")
    page.site.uwsgi.stop()
    page.until("!ws4redis.is_connected()")
    keep(page.site, AWAY)
    page.site.uwsgi.start()
    page.until(f"received.join() === 'sent by the page,published,{AWAY}'")
    told = page.js("told")
    assert told[:3] == ["connecting", "connected", "disconnected 1012"]
    assert told[-2:] == ["connecting", "connected"]
    page.js("ws4redis.close()")
    page.until("ws4redis.is_closed()")


def test_the_client_as_a_module(tab: Callable[..., Tab]) -> None:
    page = tab()
    page.open("/page/module/")
    page.until("window.client !== undefined")
    assert page.js("same")
    page.js("client.send('hello')")
    page.until("messages.join() === 'hello'")
