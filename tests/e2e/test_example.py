"""The example site, and what starts it: no stranger's Host, no secret on the terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployed import CHAT, chat_manage
from tests.support.servers import ROOT, RedisServer, free_port

pytestmark = pytest.mark.e2e

SECRET = "sesame"  # noqa: S105


def serve(**environment: str) -> str:
    """Start the example where it cannot start; return what it says."""
    env = {**os.environ, "UWS4R_PORT": str(free_port()), **environment}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "serve.py"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://:{}@localhost:{free}/0", "cannot be reached (Connection refused)"),
        ("redis://{}@localhost:{free}/0", "cannot be reached (Connection refused)"),
        ("redis://localhost:{free}/0?password={}", "cannot be reached (Connection refused)"),
        ("redis://localhost:{free}/0?health_check_interval={}", "is no URL of a Redis"),
        ("redis://localhost:{free}/0?nonsense={}", "is no URL of a Redis"),
        ("redis://:a/{}@localhost:{free}/0", "is no URL of a Redis"),
        ("redis://:1/{}@localhost", "is no URL of a Redis"),
        ("redis://:#{}@localhost", "is no URL of a Redis"),
        ("redis://{}/0", "cannot be reached"),
        ("redis://localhost:{}", "is no URL of a Redis"),
        ("{}", "is no URL of a Redis"),
        ("http://:{}@localhost", "is no URL of a Redis"),
        ("unix:///no/{}.socket", "cannot be reached"),
        ("redis://mary:{}@localhost:{redis}/0", "refuses the login"),
    ],
)
def test_a_redis_url_is_shown_to_nobody(url: str, reason: str, redis_server: RedisServer) -> None:
    url = url.replace("{free}", str(free_port())).replace("{redis}", str(redis_server.port)).replace("{}", SECRET)
    said = serve(UWS4R_REDIS=url)
    assert said.startswith("UWS4R_REDIS ")
    assert reason in said
    assert SECRET not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "hosts"),
    [
        ({}, []),
        ({"UWS4R_HOST": "0.0.0.0"}, []),
        ({"UWS4R_HOST": "192.0.2.1"}, ["192.0.2.1"]),
        ({"CHAT_HOSTS": "chat.example.com, 192.0.2.7"}, ["chat.example.com", "192.0.2.7"]),
    ],
)
def test_the_example_is_served_under_its_own_names_only(
    environment: dict[str, str], hosts: list[str], tmp_path: Path
) -> None:
    assert (CHAT / "manage.py").exists()
    env = {"UWS4R_HOST": "", "CHAT_DATABASE": str(tmp_path / "chat.sqlite3"), **environment}
    script = "import json; from django.conf import settings; print(json.dumps(settings.ALLOWED_HOSTS))"
    said = chat_manage(env, "shell", "--verbosity", "0", "-c", script)
    assert json.loads(said.splitlines()[-1]) == ["localhost", "127.0.0.1", "[::1]", *hosts]
