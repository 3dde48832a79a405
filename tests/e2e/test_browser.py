"""The example chat in headless Chromium, on the emperor as shipped and behind NGiNX, two people side by side."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.support.browser import browsers
from tests.support.deployed import Emperor, Nginx, chat_site
from tests.support.servers import ROOT, RedisServer, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ARTEFACTS = ROOT / "tests" / "artefacts"


class Window:
    """One person's browser, with cookies of its own."""

    def __init__(self, url: str, driver: Chrome) -> None:
        self.url = url
        self.driver = driver

    def open(self, path: str) -> None:
        """Open a page of the chat and wait for its websocket."""
        self.driver.get(self.url + path)
        if self.driver.find_elements(By.ID, "state"):
            self.wait_open()

    def wait_open(self) -> None:
        wait_until(lambda: self.driver.find_element(By.ID, "state").text == "open", "websocket open", timeout=20)

    def log_in(self, name: str, password: str = "secret") -> None:  # noqa: S107
        self.open("/login/")
        self.driver.find_element(By.NAME, "username").send_keys(name)
        self.driver.find_element(By.NAME, "password").send_keys(password)
        self.driver.find_element(By.CSS_SELECTOR, "form.card button").click()
        answered = "#user, .error"
        wait_until(lambda: self.driver.find_elements(By.CSS_SELECTOR, answered), "login answered", timeout=20)

    def send(self, text: str, to: str | None = None) -> None:
        if to is not None:
            Select(self.driver.find_element(By.NAME, "to")).select_by_visible_text(to)
        self.driver.find_element(By.NAME, "text").send_keys(text)
        self.driver.find_element(By.CSS_SELECTOR, "form.compose button").click()

    @property
    def messages(self) -> list[str]:
        items = self.driver.find_elements(By.CSS_SELECTOR, "#messages li")
        return [item.text.replace("\n", ": ") for item in items]

    def shows(self, *messages: str) -> None:
        wait_until(lambda: self.messages == list(messages), f"{messages}, not {self.messages}")

    def screenshot(self, name: str) -> None:
        ARTEFACTS.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(ARTEFACTS / f"{name}.png"))


@pytest.fixture(scope="module")
def fronts(redis_server: RedisServer) -> Iterator[dict[str, Emperor | Nginx]]:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:
        emperor = chat_site(Path(name), redis_server)
        nginx = Nginx(Path(name), emperor)
        yield {"emperor": emperor, "nginx": nginx}
        nginx.stop()
        emperor.stop()
        emperor.uwsgi.assert_healthy()


@pytest.fixture(params=["emperor", "nginx"])
def front(request: pytest.FixtureRequest, fronts: dict[str, Emperor | Nginx], redis_server: RedisServer) -> str:
    for key in redis_server.client.keys("chat:*"):
        redis_server.client.delete(key)
    return fronts[request.param].url


@pytest.fixture
def window(front: str) -> Iterator[Callable[[], Window]]:
    with browsers() as start:
        yield lambda: Window(front, start())


def test_the_lobby_is_everybodys(window: Callable[[], Window]) -> None:
    one, two = window(), window()
    one.open("/")
    two.open("/")
    one.send("hello, is anybody there?")
    two.shows("guest: hello, is anybody there?")
    two.send("yes, me")
    for either in (one, two):
        either.shows("guest: hello, is anybody there?", "guest: yes, me")
    one.screenshot("lobby")


def test_a_message_is_text_and_never_markup(window: Callable[[], Window]) -> None:
    one, two = window(), window()
    one.open("/")
    two.open("/")
    attack = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
    one.send(attack)
    two.shows(f"guest: {attack}")
    assert "owned" not in two.driver.title
    assert two.driver.find_elements(By.CSS_SELECTOR, "#messages li img") == []


def test_people_get_what_is_for_them_in_all_their_windows_and_nobody_else_does(window: Callable[[], Window]) -> None:
    john, johns_phone, mary, admin = (window() for _ in range(4))
    for browser, name in ((john, "john"), (johns_phone, "john"), (mary, "mary"), (admin, "admin")):
        browser.log_in(name)
        browser.open("/people/")
    mary.send("dinner at eight?", to="john")
    for browser in (john, johns_phone, mary):
        browser.shows("mary: dinner at eight?")
    john.send("gladly", to="mary")
    for browser in (john, johns_phone, mary):
        browser.shows("mary: dinner at eight?", "john: gladly")
    assert admin.messages == []
    john.screenshot("people-john")
    mary.screenshot("people-mary")


def test_the_group_is_among_itself(window: Callable[[], Window]) -> None:
    john, mary, admin = (window() for _ in range(3))
    for browser, name in ((john, "john"), (mary, "mary"), (admin, "admin")):
        browser.log_in(name)
        browser.open("/group/")
    john.send("only for chatters")
    for browser in (john, mary):
        browser.shows("john: only for chatters")
    assert admin.messages == []
    mary.screenshot("group")


def test_a_session_is_one_browser(window: Callable[[], Window]) -> None:
    mine, other = window(), window()
    for browser in (mine, other):
        browser.open("/session/")
    first = mine.driver.current_window_handle
    mine.driver.switch_to.new_window("tab")
    mine.open("/session/")
    mine.send("seen in both tabs")
    mine.shows("me: seen in both tabs")
    mine.driver.switch_to.window(first)
    mine.shows("me: seen in both tabs")
    assert other.messages == []


def test_notes_come_back_to_who_wrote_them(window: Callable[[], Window]) -> None:
    john, mary = window(), window()
    john.log_in("john")
    mary.log_in("mary")
    for browser in (john, mary):
        browser.open("/notes/")
    john.send("buy milk")
    john.shows("john: buy milk")
    assert mary.messages == []
    john.open("/notes/")
    john.shows("john: buy milk")  # the last message is kept
    john.screenshot("notes")


def test_a_wrong_password_and_a_page_that_wants_a_login(window: Callable[[], Window]) -> None:
    somebody = window()
    somebody.open("/people/")
    assert "/login/?next=/people/" in somebody.driver.current_url
    somebody.log_in("john", "wrong")
    assert "Please enter a correct username and password" in somebody.driver.find_element(By.CLASS_NAME, "error").text
    somebody.screenshot("login")
    somebody.log_in("john")
    wait_until(lambda: somebody.driver.find_elements(By.ID, "user"), "logged in")


def test_a_form_without_its_csrf_token_is_refused(window: Callable[[], Window]) -> None:
    john = window()
    john.log_in("john")
    john.open("/notes/")
    john.driver.execute_script("document.querySelector('form.compose [name=csrfmiddlewaretoken]').remove()")
    john.send("forged")
    john.shows("the server: refused (403)")


def test_the_page_comes_back_after_a_reload_of_the_server(
    window: Callable[[], Window], fronts: dict[str, Emperor | Nginx]
) -> None:
    one = window()
    one.open("/")
    one.send("before")
    one.shows("guest: before")
    emperor = fronts["emperor"]
    assert isinstance(emperor, Emperor)
    reloads = emperor.uwsgi.log.count("closed: 1012")
    (ROOT / "vassals" / "wsserver.ini").touch()
    wait_until(lambda: emperor.uwsgi.log.count("closed: 1012") > reloads, "reloaded")
    wait_until(lambda: one.messages == ["guest: before", "guest: before"], "back, with the kept message", timeout=30)
    one.wait_open()
    one.send("after")
    one.shows("guest: before", "guest: before", "guest: after")
