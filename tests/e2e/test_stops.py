"""Stops, reloads and crashes: what browsers see, and how long it takes."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.servers import wait_until
from tests.support.site import Site
from tests.support.wire import PING, PONG, Client, close_frame, masked_frame

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATH = "/ws/foo?subscribe-broadcast"


def pids(site: Site) -> list[int]:
    """Of the workers, as they were spawned."""
    return [int(pid) for pid in re.findall(r"spawned uWSGI worker \d+ \((?:new )?pid: (\d+)", site.uwsgi.log)]


def code_of(client: Client) -> int:
    while (frame := client.frame()).opcode != 8:
        pass
    return frame.close_code


def test_a_reload_with_5000_websockets_does_not_wait_for_them(served: Callable[..., Site]) -> None:
    site = served(workers=2, options=("--disable-logging", "--max-fd", "20000", "--worker-reload-mercy", "60"))
    clients: list[Client] = []
    try:
        while len(clients) < 5000:
            group = [Client(site.address) for _ in range(50)]
            clients += group
            for client in group:
                client.request(PATH, read=False)
            for client in group:
                assert client.read_response().status == 101
        wait_until(lambda: site.uwsgi.log.count(" open\n") == 5000, "all are open", timeout=30)
        begin = time.monotonic()
        site.uwsgi.process.process.send_signal(signal.SIGHUP)
        for client in clients:
            assert client.receive_close().close_code == 1012
            client.send_raw(close_frame(1012))  # as browsers do
        assert time.monotonic() - begin < 2
        # uWSGI itself looks once a second, and loads the site; worker-reload-mercy is a minute here.
        wait_until(lambda: len(pids(site)) == 4, "both have been replaced", timeout=5)
        site.connect(PATH).ping()
    finally:
        for client in clients:
            client.sock.close()


@pytest.mark.parametrize("way", ["touch-reload", "touch-chain-reload"])
def test_a_touched_file_reloads(served: Callable[..., Site], tmp_path: Path, way: str) -> None:
    file = tmp_path / "reload"
    file.touch()
    site = served(workers=2, options=(f"--{way}", str(file), "--lazy-apps"))
    # A worker that still loads the site does not hear that it shall end.
    wait_until(lambda: site.uwsgi.log.count("WSGI app 0") == 2, "both have loaded it")
    clients = [site.connect(PATH) for _ in range(20)]
    for client in clients:
        client.ping()
    os.utime(file, (time.time() + 5, time.time() + 5))
    assert [code_of(client) for client in clients] == [1012] * 20
    wait_until(lambda: len(pids(site)) == 4, "both have been replaced", timeout=20)
    wait_until(lambda: site.uwsgi.log.count("WSGI app 0") == 4, "loaded")
    wait_until(lambda: "chain" not in way or "chain reloading complete" in site.uwsgi.log, "complete")
    site.connect(PATH).ping()


def test_sigterm_without_die_on_term_is_a_reload(served: Callable[..., Site], tmp_path: Path) -> None:
    without = tmp_path / "without.ini"
    without.write_text("[uwsgi]\ndie-on-term = false\n")
    site = served(workers=2, options=("--ini", str(without)))
    clients = [site.connect(PATH) for _ in range(20)]
    for client in clients:
        client.ping()
    site.uwsgi.process.process.send_signal(signal.SIGTERM)
    assert [code_of(client) for client in clients] == [1012] * 20
    wait_until(lambda: len(pids(site)) == 4, "both have been replaced")
    site.connect(PATH).ping()


def test_a_worker_at_its_max_requests_says_1012(served: Callable[..., Site]) -> None:
    """It does not belong into a worker with websockets (uWSGI's log says so at the start), and yet nobody sees 1006."""
    # More than the handshakes, which are requests as well: all ten shall be in the worker that ends.
    site = served(options=("--max-requests", "20", "--min-worker-lifetime", "1"))
    assert "max-requests = 20 ends a worker" in site.uwsgi.log
    clients = [site.connect(PATH) for _ in range(10)]

    def replaced() -> bool:
        site.request("GET", "/visit/")  # it is only looked at after a request
        return len(pids(site)) > 1

    wait_until(replaced, "a new worker", pause=0.1)
    assert [code_of(client) for client in clients] == [1012] * 10


def test_cheaper_takes_a_worker_away_with_1012(served: Callable[..., Site]) -> None:
    site = served(workers=3, options=("--cheaper", "1", "--cheaper-initial", "3", "--cheaper-overload", "1"))
    assert "cheaper = 1 ends workers" in site.uwsgi.log
    clients = site.join_all_workers(PATH)
    wait_until(lambda: site.redis.subscriptions("broadcast:foo") == 1, "two workers are taken away", timeout=30)
    left = 0
    site.redis.client.publish("broadcast:foo", "to those who are left")
    for client in clients:
        frame = client.frame()
        if frame.opcode == 8:
            assert frame.close_code == 1012
        else:
            left += 1
    assert 0 < left < len(clients)


def test_harakiri_is_for_requests_and_not_for_websockets(served: Callable[..., Site]) -> None:
    site = served(options=("--harakiri", "1"), settings={"UWS4R_PING_INTERVAL": 1})
    client = site.connect(PATH)
    for _ in range(3):
        frame = client.frame()
        assert frame.opcode == PING
        client.send_raw(masked_frame(PONG, frame.payload))
    assert len(pids(site)) == 1
