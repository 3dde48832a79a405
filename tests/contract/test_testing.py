"""The kit for the tests of sites."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis
from django.test import override_settings

from tests.support.servers import ROOT
from tests.support.site import site_env
from tests.unit.test_names import Request
from uws4r.orders import tell
from uws4r.publisher import RedisPublisher
from uws4r.redis_store import RedisMessage, RedisStore
from uws4r.testing import Published, capture


def test_capture_records_without_redis() -> None:
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": 1}, WS4REDIS_PREFIX="p"):
        before = RedisPublisher(facility="f", users=["john"], broadcast=True)
        with capture() as published:
            assert before.publish_message({"price": 5}) == 0
            RedisPublisher(facility="f", broadcast=True).publish_message(RedisMessage("x"), expire=0)
            thread = threading.Thread(target=before.publish_message, args=(b"text?",), kwargs={"binary": True})
            thread.start()
            thread.join()
            assert RedisPublisher().fetch_message(Request(), "f") == b"text?"
            with capture() as inner:
                assert RedisPublisher().fetch_message(None, "f") is None
                before.publish_message("inner", expire=7)
        channels = frozenset({"p:user:john:f", "p:broadcast:f"})
        assert published == [
            Published(channels, b'{"price": 5}', False, 3600),
            Published(frozenset({"p:broadcast:f"}), b"x", False, 0),
            Published(channels, b"text?", True, 3600),
        ]
        assert published[0].json() == {"price": 5}
        assert published[1].text == "x"
        assert [(message.text, message.expire) for message in inner] == [("inner", 7)]


def test_capture_takes_orders_to_workers_and_does_not_record_them(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": 1}):
        with capture() as published:
            tell(do="close", users=["john"])
        assert (published, caplog.records) == ([], [])
        tell(do="close", users=["john"])
    assert "no worker could be told to close" in caplog.text


def test_capture_ends_with_its_block_and_leaves_own_connections_alone(store: redis.Redis) -> None:
    own = RedisStore(store)
    own._publishers = {"broadcast:own"}
    with capture() as published:
        own.publish_message("to redis")
    RedisPublisher(facility="f", broadcast=True).publish_message("to redis")
    assert published == []
    assert store.get("broadcast:own") == store.get("broadcast:f") == b"to redis"


@capture()
def test_capture_is_a_decorator() -> None:
    RedisPublisher(facility="f", broadcast=True).publish_message("x")


LIVE = """
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from django.contrib.auth.models import User
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.test import Client as Browser

from tests.support.wire import connect
from uws4r.publisher import RedisPublisher
from uws4r.testing import WebsocketLiveServerTestCase


class LiveTest(WebsocketLiveServerTestCase, StaticLiveServerTestCase):
    def open(self, facility, query, session=None):
        url = urlsplit(self.websocket_url(facility))
        headers = {"Cookie": f"sessionid={session}"} if session else {}
        client = connect((url.hostname, url.port), f"{url.path}?{query}", headers)
        self.addCleanup(client.sock.close)
        return client

    def joined(self, *arguments):
        client = self.open(*arguments)
        assert client.receive() == "kept"
        return client

    def test_many_clients_at_a_time(self):
        RedisPublisher(facility="f", broadcast=True).publish_message("kept")
        with ThreadPoolExecutor(20) as pool:
            clients = list(pool.map(lambda _: self.joined("f", "subscribe-broadcast&publish-broadcast"), range(200)))
        assert RedisPublisher(facility="f", broadcast=True).publish_message("hello") == 1
        assert [client.receive() for client in clients] == ["hello"] * 200
        clients[0].send("from one of them")
        assert [client.receive() for client in clients[1:]] == ["from one of them"] * 199

    def test_users_of_the_tests_database(self):
        user = User.objects.create_user("live")
        browser = Browser()
        browser.force_login(user)
        RedisPublisher(facility="f", users=["live"]).publish_message("kept")
        self.joined("f", "subscribe-user", browser.cookies["sessionid"].value)

    def test_redis_is_empty_at_the_start_of_each_test(self):
        assert self.open("f", "subscribe-broadcast").ping() == []
        assert RedisPublisher().fetch_message(None, "f") is None


class SecondTest(LiveTest):
    '''Another class has a hub and a Redis of its own.'''
"""


@pytest.mark.e2e
def test_a_live_server_with_many_simultaneous_clients(tmp_path: Path) -> None:
    """In a process of its own, as ``manage.py test`` runs it."""
    env = site_env("redis://localhost:1/0", tmp_path / "unused.sqlite3", {"STATIC_URL": "/static/"})
    (tmp_path / "live_tests.py").write_text(LIVE)
    done = subprocess.run(
        [sys.executable, "-X", "dev", ROOT / "tests/site/manage.py", "test", "live_tests"],
        cwd=tmp_path,
        env={**env, "PATH": "/usr/bin:/bin", "PYTHONPATH": f"{env['PYTHONPATH']}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 6 tests" in done.stderr
    assert "ResourceWarning" not in done.stderr
