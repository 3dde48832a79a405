"""A site written for ws4redis is switched by the commands of the documentation, and works."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import ROOT, RedisServer
from tests.support.site import Site, serve
from tests.support.wire import Refused

pytestmark = pytest.mark.e2e

PAGE = ROOT / "docs" / "how-to" / "switch.md"


@pytest.fixture
def switched(
    tmp_path: Path, redis_server: RedisServer, database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    site = tmp_path / "site"
    shutil.copytree(Path(__file__).parent / "old_site", site)
    (switch,) = re.findall(r"^python (-m uws4r\.switch .*--write)", PAGE.read_text(), re.M)
    subprocess.run([sys.executable, *switch.split()], cwd=site, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    redis_server.client.flushall()
    env = {
        "DJANGO_SETTINGS_MODULE": "oldsite.settings",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{site}",
        "PYTHONDEVMODE": "",
        "TEST_REDIS": redis_server.url,
        "TEST_DATABASE": str(database),
    }
    monkeypatch.setattr("tests.support.site.site_env", lambda *arguments: env)
    running = serve(tmp_path, redis_server, database, module="oldsite.wsgi:application")
    yield running
    running.close_clients()
    running.uwsgi.stop()


def test_a_switched_site_works(switched: Site) -> None:
    checked = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=switched.env["PYTHONPATH"].split(os.pathsep)[1],
        env={**os.environ, **switched.env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.stdout == "System check identified no issues (0 silenced).\n", checked.stdout + checked.stderr

    page = switched.request("GET", "/page/").body.decode()
    assert "uri: 'ws://localhost/ws/foobar?subscribe-broadcast&publish-broadcast&echo'" in page
    assert 'heartbeat_msg: "--heartbeat--"' in page
    assert 'src="/static/js/ws4redis.js"' in page

    with pytest.raises(Refused, match="403"):
        switched.connect("/ws/foobar?subscribe-broadcast")
    session = switched.request("POST", "/login/", "username=john").headers["set-cookie"]
    session = session.split("sessionid=")[1].split(";")[0]
    john = switched.join(
        "/ws/foobar?subscribe-broadcast&subscribe-user&publish-broadcast&echo", session=session,
        channel="old:broadcast:foobar",
    )  # fmt: skip
    john.send("from the browser")
    assert john.receive() == "FROM THE BROWSER"
    assert switched.request("GET", "/to-myself/", session=session).body == b"to myself"
    assert john.receive() == "to myself"

    typical = switched.join(
        "/ws/unique-named-facility?subscribe-broadcast", session=session,
        channel="old:broadcast:unique-named-facility",
    )  # fmt: skip
    switched.request("GET", "/typical/")
    assert typical.receive() == "A message passed to all browsers listening on the named facility"
    assert switched.redis.client.ttl("old:broadcast:unique-named-facility") > 7000
