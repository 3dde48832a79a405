"""What the tests share: a Redis, a database with users, a served site."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest

from tests.support.servers import RedisServer
from tests.support.site import Site, manage, serve, site_env

USERS = """
from django.contrib.auth.models import Group, User
chatters = Group.objects.create(name="chatters")
for name in ("john", "mary", "admin"):
    user = User.objects.create_user(name, password=name)
    if name != "admin":
        user.groups.add(chatters)
"""


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests that leave it in peace."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may stop and restart."""
    server = RedisServer(tmp_path)
    yield server
    server.close()


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with john and mary, who are chatters, and admin; each one's password is his name."""
    path = tmp_path_factory.mktemp("database") / "db.sqlite3"
    env = site_env("redis://localhost:1/0", path)
    manage(env, "migrate", "-v0")
    manage(env, "shell", "-c", USERS)
    return path


@pytest.fixture(scope="session")
def _shared_site(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, database: Path) -> Iterator[Site]:
    site = serve(tmp_path_factory.mktemp("site"), redis_server, database, workers=2)
    yield site
    site.uwsgi.stop()


@pytest.fixture
def site(_shared_site: Site) -> Iterator[Site]:
    """A site with the default settings and two workers, shared by the tests; Redis is empty."""
    _shared_site.redis.client.flushall()
    yield _shared_site
    _shared_site.close_clients()
    _shared_site.uwsgi.assert_healthy()


@pytest.fixture
def served(tmp_path: Path, database: Path, redis_server: RedisServer) -> Iterator[Callable[..., Site]]:
    """``served(settings={…}, workers=1, redis=…, options=(…))``: a site of the test's own."""
    sites: list[Site] = []

    def start(redis: RedisServer | None = None, **arguments: Any) -> Site:
        (redis or redis_server).client.flushall()
        sites.append(serve(tmp_path, redis or redis_server, database, **arguments))
        return sites[-1]

    yield start
    for site in sites:
        site.close_clients()
        site.uwsgi.stop()


def ready_for_signals() -> None:
    """
    Have what the tests start get its signals, where a shell or nohup ignores them for all that it starts.

    Who handles one itself hands its default on: that of SIGHUP would end the tests with the terminal.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


def pytest_configure(config: pytest.Config) -> None:
    ready_for_signals()
    sessions = tempfile.TemporaryDirectory(prefix="uws4r-sessions-")
    config.add_cleanup(sessions.cleanup)
    os.environ["TEST_SESSIONS"] = sessions.name
    os.environ["DJANGO_SETTINGS_MODULE"] = "testsite.settings"
    django.setup()
    del os.environ["DJANGO_SETTINGS_MODULE"]  # the servers of the tests get theirs from the fixtures
