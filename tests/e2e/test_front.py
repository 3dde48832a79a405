"""The emperor's plugin (plugin/front): a request reaches uWSGI when it is whole, and has a time to become that."""

import hashlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.soak.heads import dripping, page_after, upload_head
from tests.support.deployed import Emperor
from tests.support.native import PLUGINS
from tests.support.servers import ROOT, SITE, RedisServer, wait_until
from tests.support.site import Site, site_env
from tests.support.wire import Client, Response

pytestmark = pytest.mark.e2e

BUFFER = 32768  # buffer-size in emperor/uwsgi.ini


@pytest.fixture(scope="module")
def emperors(redis_server: RedisServer, database: Path) -> Iterator[Callable[..., Site]]:
    """``emperors(("a shipped line", "another in its place"), …)``: the site behind the shipped emperor, so changed."""
    sites: list[Site] = []
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name:  # short: it is the path of Unix sockets

        def emperor(*changes: tuple[str, str], plugins: Path = PLUGINS) -> Site:
            directory = Path(name) / str(len(sites))
            for files in ("emperor", "vassals"):
                shutil.copytree(ROOT / files, directory / files)
            ini = directory / "emperor" / "uwsgi.ini"
            for shipped, changed in changes:
                assert shipped in ini.read_text()
                ini.write_text(ini.read_text().replace(shipped, changed))
            spool = directory / "spool"
            spool.mkdir()
            env = site_env(redis_server.url, database)
            place = {"UWS4R_SITE": str(SITE), "UWS4R_PLUGINS": str(plugins), "TMPDIR": str(spool)}
            server = Emperor(directory, {**env, **place}, directory)
            sites.append(Site(redis_server, server.env, server.uwsgi.address, server.uwsgi, workers=2))
            return sites[-1]

        yield emperor
        for site in sites:
            site.uwsgi.stop()


@pytest.fixture(scope="module")
def _emperor(emperors: Callable[..., Site]) -> Site:
    return emperors(("front-body-space = 1024", "front-body-space = 1"))


@pytest.fixture(scope="module")
def _impatient(emperors: Callable[..., Site]) -> Site:
    return emperors(
        ("front-head-timeout = 10", "front-head-timeout = 1"), ("front-body-timeout = 30", "front-body-timeout = 1")
    )


@pytest.fixture
def emperor(_emperor: Site) -> Iterator[Site]:
    """It has no more than a MiB for all bodies."""
    yield _emperor
    _emperor.close_clients()
    _emperor.uwsgi.assert_healthy()


@pytest.fixture
def impatient(_impatient: Site) -> Iterator[Site]:
    """It waits a second for a head, or for the next bytes of a body."""
    yield _impatient
    _impatient.uwsgi.assert_healthy()


def send(site: Site, *parts: bytes) -> Response:
    """Send a request piece by piece, each a packet of its own; return the answer."""
    with Client(site.address) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            client.send_raw(part)
        return client.read_response()


def digest(body: bytes) -> str:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"


def front_worker(site: Site) -> int:
    """The emperor's own worker: that child of it which listens on the site's port with a thread of ours."""
    pid = site.uwsgi.process.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (worker,) = [
        int(child) for child in children if any("eventfd" in link for link in descriptors(int(child)).values())
    ]
    return worker


def descriptors(pid: int) -> dict[str, str]:
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found[path.name] = os.readlink(path)
    return found


HEAD = len(upload_head(10_000))  # as long as any other upload of five digits


@pytest.mark.parametrize(
    "size", [0, 1, 10_000, BUFFER - HEAD - 1, BUFFER - HEAD, BUFFER - HEAD + 1, BUFFER, 2 * BUFFER, 99_999]
)
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_an_upload_arrives_whole(emperor: Site, size: int, pieces: int) -> None:
    body = random.randbytes(size)
    request = upload_head(size) + body
    cuts = sorted(random.randrange(len(request)) for _ in range(pieces - 1))
    parts = [request[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(request)], strict=True)]
    assert send(emperor, *parts).body.decode() == digest(body)


def test_a_large_upload_arrives_whole_and_soon(emperors: Callable[..., Site]) -> None:
    site = emperors()
    body = random.randbytes(100 << 20)
    begin = time.monotonic()
    assert send(site, upload_head(len(body)), body).body.decode() == digest(body)
    print(f"{time.monotonic() - begin:.2f} s for 100 MiB")
    site.uwsgi.assert_healthy()


def test_what_stands_behind_an_upload_is_not_part_of_it(emperor: Site) -> None:
    for size in (10, 100_000):
        assert send(emperor, upload_head(size) + b"a" * size + b"more").body.decode() == digest(b"a" * size)


def test_an_upload_that_the_view_does_not_read_is_answered(emperor: Site) -> None:
    for size in (10, 900_000):
        assert send(emperor, upload_head(size, "/unread/"), b"x" * size).body == b"no, thanks"


def test_a_client_that_expects_it_is_told_to_continue(emperor: Site) -> None:
    with Client(emperor.address) as client:
        client.send_raw(upload_head(50_000, more="Expect: 100-continue\r\n"))
        assert client.read_response().status == 100
        client.send_raw(b"x" * 50_000)
        assert client.read_response().body.decode() == digest(b"x" * 50_000)


def test_a_page_is_streamed(emperor: Site) -> None:
    with Client(emperor.address) as client:
        client.request("/stream/", {"Upgrade": None, "Connection": "close"}, read=False)
        assert client.read_response().status == 200
        while not client.buffer:
            client._fill()
        assert client.buffer == b"first"
        rest = b""
        while data := client.sock.recv(1 << 20):
            rest += data
        assert rest == b"x" * 5_000_000


@pytest.mark.parametrize("length", ["-1", "+5", "5x", "", "0x5", "5, 5", "1" * 16, "5\r\n 6"])
def test_a_length_that_is_no_number_is_refused(emperor: Site, length: str) -> None:
    assert send(emperor, f"POST /digest/ HTTP/1.1\r\nContent-Length: {length}\r\n\r\nhello".encode()).status == 400


@pytest.mark.parametrize("twin", ["Content-Length", "content-length", "Content_Length", "CONTENT_LENGTH"])
def test_two_lengths_are_refused(emperor: Site, twin: str) -> None:
    assert send(emperor, upload_head(5, more=f"{twin}: 5\r\n") + b"hello").status == 400


def test_a_head_that_is_too_large_is_refused(emperor: Site) -> None:
    assert send(emperor, b"GET / HTTP/1.1\r\nCookie: " + b"x" * BUFFER).status == 431


def test_an_upload_for_which_there_is_no_space_is_refused(emperor: Site) -> None:
    assert send(emperor, upload_head((1 << 20) + 1)).status == 413


def test_when_the_space_is_full_the_largest_upload_goes(emperor: Site) -> None:
    with Client(emperor.address) as large, Client(emperor.address) as small:
        large.send_raw(upload_head(1_000_000) + b"x" * 900_000)
        worker = front_worker(emperor)
        spool = str(emperor.env["TMPDIR"])

        def spooled() -> int:
            links = descriptors(worker)
            return sum(Path(f"/proc/{worker}/fd/{fd}").stat().st_size for fd in links if links[fd].startswith(spool))

        wait_until(lambda: spooled() > 900_000, "kept")
        body = b"y" * 500_000
        small.send_raw(upload_head(len(body)) + body)
        assert small.read_response().body.decode() == digest(body)
        assert large.read_response().status == 503
    wait_until(lambda: "1 for which there was no space" in emperor.uwsgi.log, "logged", 15)


def test_a_client_that_leaves_in_the_middle_leaves_nothing(emperor: Site) -> None:
    page_after(emperor)
    worker = front_worker(emperor)
    before = len(descriptors(worker))
    for begin in (b"", b"GET / HT", upload_head(20_000) + b"x", upload_head(600_000) + b"x" * 500_000):
        for _ in range(20):
            with Client(emperor.address) as client:
                client.send_raw(begin)
    wait_until(lambda: len(descriptors(worker)) <= before, "nothing is left")


def test_uploads_while_no_worker_listens_end_and_leave_nothing(emperors: Callable[..., Site]) -> None:
    site = emperors()
    worker = front_worker(site)
    before = len(descriptors(worker))
    listener = Path(site.env["UWS4R_RUN"]) / "django.socket"
    listener.rename(listener.with_name("away"))
    for size in (10, 100_000):
        with Client(site.address) as client:
            client.send_raw(upload_head(size) + b"x" * size)
            assert client.ended()
    listener.with_name("away").rename(listener)
    assert send(site, upload_head(100_000), b"x" * 100_000).status == 200
    wait_until(lambda: len(descriptors(worker)) <= before, "nothing is left")


def test_a_head_has_a_time_in_all(impatient: Site) -> None:
    begin = time.monotonic()
    with Client(impatient.address) as client:
        client.send_raw(b"GET / HTTP/1.1\r\n")
        with dripping(impatient, 5):
            assert client.read_response().status == 408
        assert 0.9 < time.monotonic() - begin < 3
    wait_until(lambda: re.search(r"given up: [1-9]\d* heads not whole after 1 s", impatient.uwsgi.log), "logged", 15)


def test_a_client_that_says_nothing_is_ended_without_an_answer(impatient: Site) -> None:
    with Client(impatient.address) as client:
        assert client.ended()


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_a_body_may_not_pause(impatient: Site, size: int) -> None:
    with Client(impatient.address) as client:
        client.send_raw(upload_head(size) + b"x" * 10_000)
        assert client.read_response().status == 408


@pytest.mark.slow
@pytest.mark.parametrize("size", [20_000, 200_000])
def test_a_body_that_trickles_is_ended(emperors: Callable[..., Site], size: int) -> None:
    """And one that comes as fast as it has to is not, however long it takes."""
    site = emperors(("front-body-timeout = 30", "front-body-timeout = 2"))
    with (
        dripping(site, 1, upload_head(size), b"x" * 100) as trickle,
        dripping(site, 1, upload_head(size), b"x" * 1000) as slow,
    ):
        wait_until(lambda: trickle.ended == 2, "ended, twice", 15)
        assert slow.ended == 0


def test_the_oldest_go_when_there_are_too_many(emperors: Callable[..., Site]) -> None:
    site = emperors(("max-fd = 65536", "max-fd = 400"))
    silent = [socket.create_connection(site.address, 10) for _ in range(500)]
    try:
        assert page_after(site) < 1
        with site.connect("/ws/foo?subscribe-broadcast") as client:
            client.ping()
        assert silent[0].recv(1) == b""
    finally:
        for client_socket in silent:
            client_socket.close()
    wait_until(lambda: re.search(r"[1-9]\d* too many at a time", site.uwsgi.log), "logged", 15)
    site.uwsgi.assert_healthy()


def test_without_the_plugin_the_emperor_serves_and_says_what_is_missing(
    emperors: Callable[..., Site], tmp_path: Path
) -> None:
    site = emperors(plugins=tmp_path)
    assert "uws4r_front_plugin.so is not there, so slow clients can keep others waiting" in site.uwsgi.log
    assert send(site, upload_head(100_000), b"x" * 100_000).body.decode() == digest(b"x" * 100_000)
    with site.connect("/ws/foo?subscribe-broadcast") as client:
        client.ping()


def test_a_plugin_for_another_uwsgi_does_not_start(emperors: Callable[..., Site], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "plugin" / "front", tmp_path / "front")
    source = tmp_path / "front" / "front.c"
    source.write_text(source.read_text().replace("UWSGI_VERSION", '"1.9"'))
    command = [Path(sys.executable).with_name("uwsgi"), "--build-plugin", tmp_path / "front"]
    env = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    with pytest.raises(AssertionError, match=r"was built for uWSGI 1\.9, and this is another"):
        emperors(plugins=tmp_path)
