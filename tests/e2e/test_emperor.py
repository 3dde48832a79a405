"""The shipped emperor and vassals, exactly as they are in the tree."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.handshakes import half_requests
from tests.support.deployed import Emperor
from tests.support.servers import ROOT, SITE, RedisServer, wait_until
from tests.support.site import Site, site_env
from tests.support.wire import TEXT, masked_frame

pytestmark = pytest.mark.e2e


def emperor_at(directory: Path, redis: RedisServer, database: Path, files: Path = ROOT) -> Site:
    emperor = Emperor(directory, {**site_env(redis.url, database), "UWS4R_SITE": str(SITE)}, files)
    return Site(redis, emperor.env, emperor.uwsgi.address, emperor.uwsgi, workers=2)


@pytest.fixture(scope="module")
def _emperor(redis_server: RedisServer, database: Path) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as directory:  # short: it is the path of Unix sockets
        site = emperor_at(Path(directory), redis_server, database)
        yield site
        site.uwsgi.stop()


@pytest.fixture
def emperor(_emperor: Site) -> Iterator[Site]:
    _emperor.redis.client.flushall()
    yield _emperor
    _emperor.close_clients()
    _emperor.uwsgi.assert_healthy()


def test_pages_and_websockets_on_one_port(emperor: Site) -> None:
    session = emperor.log_in("john")
    his = emperor.join("/ws/foo?subscribe-user", session=session, channel="user:john:foo")
    everybody = emperor.join("/ws/foo?subscribe-broadcast")
    emperor.request("POST", "/publish/", "facility=foo&audience=user&message=to+john", session=session)
    emperor.request("POST", "/publish/", "facility=foo&audience=broadcast&message=to+all")
    assert his.receive() == "to john"
    assert everybody.receive() == "to all"


def test_clients_talk_to_each_other(emperor: Site) -> None:
    one = emperor.join("/ws/foo?subscribe-broadcast&publish-broadcast&echo")
    two = emperor.join("/ws/foo?subscribe-broadcast&publish-broadcast")
    one.send_raw(b"".join(masked_frame(TEXT, b"%d" % i) for i in range(100)))
    for client in (one, two):
        assert [client.receive() for _ in range(100)] == [str(i) for i in range(100)]
    two.send("x" * 300_000)
    assert one.receive() == "x" * 300_000
    assert two.ping() == []


def test_a_burst_reaches_every_worker(emperor: Site) -> None:
    clients = emperor.join_all_workers("/ws/foo?subscribe-broadcast")
    pipeline = emperor.redis.client.pipeline(transaction=False)
    for i in range(2000):
        pipeline.publish("broadcast:foo", f"{i}")
    pipeline.execute()
    for client in clients:
        assert [client.receive() for _ in range(2000)] == [f"{i}" for i in range(2000)]


def test_the_clients_address_is_in_the_log(emperor: Site) -> None:
    emperor.join("/ws/address?subscribe-broadcast")
    wait_until(lambda: " 127.0.0.1 - /ws/address open" in emperor.uwsgi.log, "logged")


def test_a_vassal_that_reloads_says_1012_and_the_next_client_is_served(emperor: Site) -> None:
    clients = emperor.join_all_workers("/ws/foo?subscribe-broadcast")
    vassal = ROOT / "vassals" / "wsserver.ini"
    before = vassal.stat()
    vassal.touch()  # the emperor reloads a vassal whose file is touched
    try:
        for client in clients:
            assert client.receive_close().close_code == 1012
            client.sock.close()
    finally:
        os.utime(vassal, ns=(before.st_atime_ns, before.st_mtime_ns))
    emperor.join("/ws/foo?subscribe-broadcast")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_of_the_emperor_says_1012_and_ends_everything(
    redis_server: RedisServer, database: Path, number: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as directory:
        site = emperor_at(Path(directory), redis_server, database)
        clients = [site.join("/ws/foo?subscribe-broadcast") for _ in range(20)]
        site.uwsgi.process.process.send_signal(number)
        for client in clients:
            assert client.receive_close().close_code == 1012
            client.sock.close()
        assert site.uwsgi.stop() == 0
        assert list((Path(directory) / "run").iterdir()) == []  # the sockets are gone


def test_a_vassal_whose_file_is_removed_says_1012(redis_server: RedisServer, database: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:
        directory = Path(name)
        for files in ("emperor", "vassals"):
            shutil.copytree(ROOT / files, directory / files)
        site = emperor_at(directory, redis_server, database, directory)
        clients = site.join_all_workers("/ws/foo?subscribe-broadcast")
        vassal = directory / "vassals" / "wsserver.ini"
        vassal.rename(directory / "away.ini")
        for client in clients:
            assert client.receive_close().close_code == 1012
        assert site.request("GET", "/visit/").status == 200  # the pages' vassal is still there
        (directory / "away.ini").rename(vassal)
        wait_until(lambda: site.uwsgi.log.count("is ready to accept requests") == 3, "the vassal is back")
        site.join("/ws/foo?subscribe-broadcast")
        site.close_clients()
        assert site.uwsgi.stop() == 0


@pytest.mark.parametrize("file", ["emperor/linger.py", "router/nodelay.py"])
def test_a_front_without_pcre_says_so_and_ends(tmp_path: Path, file: str) -> None:
    """uWSGI takes ``route =`` for an option it does not know, and ignores it. This one stands in for such a uWSGI."""
    (tmp_path / "uwsgi.py").write_text("")
    front = subprocess.run(
        [sys.executable, ROOT / file],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert front.returncode == 1
    assert "this uWSGI was compiled without PCRE" in front.stderr


@pytest.mark.slow
def test_half_a_request_does_not_keep_the_1012_from_the_others(redis_server: RedisServer, database: Path) -> None:
    """A worker of uWSGI's that is busy with a request leaves out uwsgi.atexit."""
    with tempfile.TemporaryDirectory(prefix="uws4r-") as directory:
        site = emperor_at(Path(directory), redis_server, database)
        clients = [site.join("/ws/foo?subscribe-broadcast") for _ in range(20)]
        with half_requests(site, 1):
            # The front has accepted one that came later, so it has the half one too.
            site.join("/ws/foo?subscribe-broadcast")
            site.uwsgi.process.process.send_signal(signal.SIGTERM)
            for client in clients:
                assert client.receive_close().close_code == 1012
        site.close_clients()
        assert site.uwsgi.stop() == 0


def test_the_websocket_vassal_has_none_of_the_options_that_end_busy_workers() -> None:
    text = (ROOT / "vassals" / "wsserver.ini").read_text()
    options = {line.split("=")[0].strip() for line in text.splitlines() if "=" in line and not line.startswith(";")}
    assert not options & {"max-requests", "cheaper", "harakiri", "idle", "reload-on-rss"}
    assert "max-fd" in options
