"""The examples of publishing from elsewhere, each started as its first lines say."""

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.deployed import CHAT, chat_manage
from tests.support.servers import ROOT, Process
from tests.support.site import Site

pytestmark = pytest.mark.e2e

PUBLISHING = ROOT / "examples" / "publishing"


@pytest.fixture
def env(site: Site) -> dict[str, str]:
    """The example's settings, on the tests' Redis and with their channel names."""
    return {
        **site.env,
        "DJANGO_SETTINGS_MODULE": "chat.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(CHAT)]),
        "UWS4R_REDIS": site.redis.url,
    }


def listen(site: Site, facility: str) -> Callable[[], str]:
    """What the example publishes under its prefix, as a client of the example site would see it."""
    pubsub = site.redis.client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(f"chat:broadcast:{facility}")
    assert pubsub.get_message(timeout=10) is None

    def receive() -> str:
        message = pubsub.get_message(timeout=10)
        assert message is not None
        return message["data"].decode()

    return receive


def test_a_worker_without_the_web_part(site: Site, env: dict[str, str]) -> None:
    receive = listen(site, "lobby")
    subprocess.run([sys.executable, PUBLISHING / "worker.py", "report", "ready"], env={**os.environ, **env}, check=True)
    assert receive() == '{"from": "the worker", "text": "report ready"}'


def test_manage_py_shell(site: Site, env: dict[str, str]) -> None:
    receive = listen(site, "lobby")
    chat_manage(
        env,
        "shell",
        "-c",
        "from uws4r.publisher import RedisPublisher\n"
        "RedisPublisher(facility='lobby', broadcast=True).publish_message('from the shell')",
    )
    assert receive() == "from the shell"


def test_a_push_on_a_timer_with_apscheduler(site: Site, env: dict[str, str], tmp_path: object) -> None:
    receive = listen(site, "clock")
    log = ROOT / str(tmp_path) / "scheduler.log"
    process = Process([sys.executable, PUBLISHING / "scheduler.py"], log, {**env, "PYTHONDEVMODE": ""})
    try:
        assert re.fullmatch(r"\d\d:\d\d:\d\d", receive())
        receive()
    finally:
        process.stop(2)


def test_a_push_on_uwsgis_timer(served: Callable[..., Site]) -> None:
    site = served(workers=2, options=("--pythonpath", str(PUBLISHING), "--import", "uwsgi_timer"))
    client = site.join("/ws/clock?subscribe-broadcast")
    told = [str(client.receive()) for _ in range(3)]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", each) for each in told)
    assert len(set(told)) > 1  # on a busy machine two pushes may come within the same second


def test_sessions_in_redis(served: Callable[..., Site]) -> None:
    site = served()
    settings = {
        "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
        "CACHES": {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": site.redis.url}},
    }
    site = served(settings=settings, workers=2)
    session = site.log_in("mary")
    assert site.redis.client.keys(f"*{session}*")
    client = site.join("/ws/foo?subscribe-user&subscribe-session", session=session, channel="user:mary:foo")
    site.request("POST", "/publish/", "facility=foo&audience=session&message=mine", session=session)
    assert client.receive() == "mine"
