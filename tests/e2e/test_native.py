"""Native mode: every websocket is a request of uWSGI's async engine. What other modes do too is in test_modes.py."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.soak import marks, noise, slow
from tests.soak.clients import reset
from tests.soak.quiet import CRASHING, churn_beside
from tests.support.deployed import Emperor, Nginx
from tests.support.native import PLUGINS, native
from tests.support.process import descriptors, worker_pid
from tests.support.servers import ROOT, SITE, RedisServer, Uwsgi, free_port, wait_until
from tests.support.site import Site, serve, site_env
from tests.support.wire import BINARY, TEXT, Client, Refused, close_frame, masked_frame

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATH = "/ws/foo?subscribe-broadcast"
ECHO = "/ws/foo?subscribe-broadcast&publish-broadcast&echo"
NATIVE = native()["options"]


@pytest.fixture(scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, database: Path) -> Iterator[Site]:
    site = serve(tmp_path_factory.mktemp("native"), redis_server, database, **native())
    yield site
    site.uwsgi.stop()


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """A site in native mode with one worker, shared by the tests; Redis is empty."""
    _site.redis.client.flushall()
    yield _site
    _site.close_clients()
    _site.uwsgi.assert_healthy()


# ---------------------------------------------------------------- the shield


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (CRASHING, 1002),
        (masked_frame(0, b"continues nothing"), 1002),
        (masked_frame(TEXT, b"x", reserved=4), 1002),
        (b"\x81\x02hi", 1002),
        (masked_frame(TEXT, b"\xff"), 1007),
        (b"\x81\xff" + (1 << 62).to_bytes(8, "big") + b"mask", 1009),
    ],
    ids=["six bytes", "continuation", "reserved bit", "unmasked", "no UTF-8", "too long"],
)
@pytest.mark.parametrize("early", [False, True], ids=["afterwards", "with the handshake"])
def test_what_harms_uwsgis_parser_does_not_reach_it(site: Site, attack: bytes, code: int, early: bool) -> None:
    neighbours = [site.connect(ECHO) for _ in range(3)]
    if early:
        attacker = Client(site.address)
        site.opened.append(attacker)
        response = attacker.request(ECHO, after=attack)
        assert response is not None
        assert response.status == 101
    else:
        attacker = site.connect(ECHO)
        attacker.send_raw(attack)
    assert attacker.receive_close().close_code == code
    for neighbour in neighbours:
        assert neighbour.ping() == []
    neighbours[0].send("all well")
    assert {neighbour.receive() for neighbour in neighbours} == {"all well"}


def test_fragments_of_two_clients_do_not_meet(site: Site) -> None:
    one, other = site.connect("/ws/one?publish-broadcast&subscribe-broadcast&echo"), site.connect(ECHO)
    one.send_raw(masked_frame(TEXT, b"secret-of-one ", final=False))
    other.send_raw(masked_frame(TEXT, b"of the ", final=False))
    one.send_raw(masked_frame(0, b"stays with one"))
    other.send_raw(masked_frame(0, b"other"))
    assert one.receive() == "secret-of-one stays with one"
    assert other.receive() == "of the other"


def test_who_leaves_between_two_fragments_takes_nothing_along(site: Site) -> None:
    stays = site.connect(ECHO)
    stays.send_raw(masked_frame(BINARY, b"\xff begun ", final=False))
    for end in (reset, socket.socket.close):
        leaves = site.connect(ECHO)
        leaves.send_raw(masked_frame(TEXT, b"unfinished ", final=False))
        leaves.ping()
        end(leaves.sock)
        site.opened.remove(leaves)
    stays.send_raw(masked_frame(0, b"and ended"))
    assert stays.receive() == b"\xff begun and ended"


def test_what_comes_with_the_handshake_is_not_lost(site: Site) -> None:
    client = Client(site.address)
    site.opened.append(client)
    client.request(ECHO, after=masked_frame(TEXT, b"early ", final=False))
    client.send_raw(masked_frame(0, b"and late"))
    assert client.receive() == "early and late"


def test_uwsgis_own_pings_are_answered_inside(site: Site) -> None:
    """It sends one while it waits for a large message, and gives up where no answer is there after 3 s."""
    client = site.connect(ECHO)
    for wait in (0, 5, 5):
        time.sleep(wait)
        client.send("x" * 1_000_000)
        assert client.receive() == "x" * 1_000_000  # and no frame of anybody else's before it


def test_a_subprotocol_is_chosen_whatever_is_offered(served: Callable[..., Site]) -> None:
    """uWSGI would repeat the whole list, and browsers refuse that."""
    site = served(**native(UWS4R_SUBPROTOCOLS=["chat.v2"]))
    for offer, answer in (("chat.v3, chat.v2", "chat.v2"), ("chat.v1, chat.v0", "chat.v1"), (None, None)):
        client = site.connect(PATH, {"Sec-WebSocket-Protocol": offer})
        assert client.response is not None
        assert client.response.headers.get("sec-websocket-protocol") == answer


def test_churn_leaves_quiet_clients_alone_and_nothing_behind(served: Callable[..., Site]) -> None:
    site = served(**native(2000, UWS4R_PING_INTERVAL=0))  # the quiet ones do not even answer
    site.request("GET", "/visit/")  # opens the database
    before = descriptors(worker_pid(site))
    print(churn_beside(site, 30, random.randrange(1 << 32)))
    site.close_clients()
    wait_until(lambda: descriptors(worker_pid(site)) <= before, "all descriptors are back")


def test_random_frames_hurt_nobody_else(served: Callable[..., Site]) -> None:
    print(noise.random_frames(served(**native()), seconds=5, seed=random.randrange(1 << 32)))


def test_fragments_of_two_hundred_clients_do_not_meet(served: Callable[..., Site]) -> None:
    print(marks.marked_messages(served(**native()), clients=200, messages=2000, seed=random.randrange(1 << 32)))


@pytest.mark.malloc
def test_a_client_that_does_not_read_costs_its_queue(served: Callable[..., Site]) -> None:
    way = native(100, *slow.OPTIONS)
    print(slow.queue_limit(served(**way), messages=2400))


# ---------------------------------------------------------------- the pilot


def test_the_pilot_leaves_and_nobody_misses_a_message(site: Site) -> None:
    """Whoever is the pilot leaves, in every way, while somebody publishes without a pause."""
    pilots = [site.join(PATH)]
    last = site.join(PATH)
    pilots += [site.connect(PATH) for _ in range(30)]
    count = 0

    def publish(number: int) -> None:
        nonlocal count
        for _ in range(number):
            site.redis.client.publish("broadcast:foo", f"{count}")
            count += 1

    for index, pilot in enumerate(pilots):
        publish(3)
        if index % 3 == 0:
            reset(pilot.sock)
        elif index % 3 == 1:
            pilot.sock.close()
        else:
            pilot.send_raw(close_frame(1000))
        publish(3)
    assert [last.receive() for _ in range(count)] == [f"{number}" for number in range(count)]


def test_every_client_may_be_the_pilot_that_leaves(site: Site) -> None:
    clients = [site.join(PATH) for _ in range(10)]
    for _ in range(len(clients) - 1):
        clients.pop(0).sock.close()
        site.redis.client.publish("broadcast:foo", "still here")
        for client in clients:
            assert client.receive() == "still here"


def test_the_last_one_to_leave_ends_the_subscription(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, **native())
    clients = [site.join(PATH) for _ in range(3)]
    assert len(own_redis.links()) == 1
    for client in clients:
        client.sock.close()
    wait_until(lambda: not own_redis.links() and not own_redis.channels(), "nobody is subscribed")
    again = site.join(PATH)
    own_redis.client.publish("broadcast:foo", "again")
    assert again.receive() == "again"
    assert len(own_redis.links()) == 1


def test_what_the_last_one_has_published_arrives(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, **native())
    listener = own_redis.client.pubsub()
    listener.subscribe("broadcast:foo")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    for number in range(20):
        with site.connect("/ws/foo?publish-broadcast") as client:
            client.send_raw(b"".join(masked_frame(TEXT, b"%d" % part) for part in range(100)))
            client.send_raw(close_frame(1000))
        for part in range(100):
            message = listener.get_message(timeout=5)
            assert message is not None, f"{number} {part}"
            assert message["data"] == b"%d" % part
    listener.close()


def test_one_faster_than_redis_waits(site: Site) -> None:
    client = site.connect(ECHO)
    frames = b"".join(masked_frame(TEXT, b"%d" % number) for number in range(5000))
    client.send_raw(frames)
    assert [client.receive() for _ in range(5000)] == [f"{number}" for number in range(5000)]


def test_redis_goes_and_comes_back(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, **native())
    clients = [site.join(PATH) for _ in range(20)]
    own_redis.stop(signal.SIGKILL)
    clients.pop(0).sock.close()  # the pilot, in the meantime
    with pytest.raises(Refused, match="503"):
        site.connect(PATH)
    own_redis.start()
    wait_until(lambda: own_redis.client.publish("broadcast:foo", "back") > 0, "subscribed again")
    for client in clients:
        assert client.receive() == "back"
    site.join(PATH)


def test_new_ones_wait_for_redis(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, **native())
    own_redis.stop()
    waiting = [Client(site.address) for _ in range(5)]
    for client in waiting:
        client.request(PATH, read=False)
        site.opened.append(client)
    wait_until(lambda: "Redis cannot be reached, trying again" in site.uwsgi.log, "they wait")
    own_redis.start()
    for client in waiting:
        assert client.read_response().status == 101
        client.ping()


# ---------------------------------------------------------------- the shipped files


def test_nothing_is_left_of_those_who_have_waited_in_vain(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, **native())
    assert own_redis.process is not None
    own_redis.process.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Refused, match="503"):
            site.connect("/ws/f?subscribe-broadcast")
    finally:
        own_redis.process.process.send_signal(signal.SIGCONT)
    own_redis.client.connection_pool.disconnect()
    own_redis.client.ping()  # on a connection that is younger than those of the worker
    wait_until(lambda: not own_redis.links() and not own_redis.client.pubsub_channels(), "no connection is left")
    site.connect("/ws/f?subscribe-broadcast").ping()
    assert len(own_redis.links()) == 1


def test_the_shipped_emperor_and_nginx(redis_server: RedisServer, database: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="uws4r-") as name, ExitStack() as stack:  # short: sockets are in it
        env = {**site_env(redis_server.url, database, {"UWS4R_MODE": "native"}), "UWS4R_SITE": str(SITE)}
        emperor = Emperor(Path(name), env, ini="native.ini")
        stack.callback(emperor.stop)
        nginx = Nginx(Path(name), emperor)
        stack.callback(nginx.stop)
        sites = [
            Site(redis_server, env, ("127.0.0.1", port), emperor.uwsgi, workers=2)
            for port in (emperor.port, nginx.port)
        ]
        clients = [site.join(ECHO) for site in sites for _ in range(10)]
        for site in sites:
            stack.callback(site.close_clients)
            assert site.request("GET", "/visit/").status == 200
        clients[0].send("x" * 300_000)
        assert {client.receive() for client in clients} == {"x" * 300_000}
        clients[-1].send_raw(close_frame(4000, "bye"))
        assert clients.pop().receive_close().close_code == 4000
        emperor.uwsgi.process.process.send_signal(signal.SIGTERM)
        for client in clients:
            assert client.receive_close().close_code == 1012


# ---------------------------------------------------------------- descriptors and slots


def test_three_descriptors_for_each_and_none_afterwards(site: Site) -> None:
    pid = worker_pid(site)
    first = site.join(PATH)
    first.ping()
    before = descriptors(pid)
    clients = [site.join(PATH) for _ in range(50)]
    assert descriptors(pid) == before + 150
    for client in clients:
        client.sock.close()
    wait_until(lambda: descriptors(pid) == before, "closed")
    first.ping()


def test_no_slot_left_is_503(served: Callable[..., Site]) -> None:
    site = served(**native(20))
    clients = [site.connect(PATH) for _ in range(12)]
    with pytest.raises(Refused, match="503: b'The server is full"):
        site.connect(PATH)
    assert site.request("GET", "/visit/").status == 200  # pages have slots left
    clients[0].sock.close()

    def room() -> bool:
        try:
            return bool(site.connect(PATH))
        except Refused:
            return False

    wait_until(room, "room again")


GREENLETS_ONLY = "--async", "100", "--plugins-dir", str(PLUGINS), "--plugin", "greenlet", "--greenlet"


@pytest.mark.parametrize(
    ("options", "settings", "error"),
    [
        ((), {}, 'UWS4R_MODE = "native" needs async = 2000'),
        (GREENLETS_ONLY, {}, 'UWS4R_MODE = "native" needs two plugins of uWSGI, in this order'),
        ((*NATIVE, "--max-fd", "3000"), {}, "async = 1000 needs 3 descriptors for each websocket, and there are 3000"),
        (NATIVE, {"UWS4R_MAX_MESSAGE_SIZE": 2 << 20}, "set websocket-max-size = 2048"),
        (NATIVE, {"UWS4R_MODE": "detached"}, 'leave it out, or set UWS4R_MODE = "native"'),
    ],
    ids=["not async", "no plugin", "max-fd", "websocket-max-size", "the other mode"],
)
def test_what_would_not_work_is_an_error_at_the_start(
    tmp_path: Path,
    database: Path,
    redis_server: RedisServer,
    options: tuple[str, ...],
    settings: dict[str, object],
    error: str,
) -> None:
    log = start_failing(tmp_path, database, redis_server, (*options, "--single-interpreter"), settings)
    assert error in log


def test_several_interpreters_are_an_error_at_the_start(
    tmp_path: Path, database: Path, redis_server: RedisServer
) -> None:
    assert "needs single-interpreter = true" in start_failing(tmp_path, database, redis_server, NATIVE, {})


def start_failing(
    directory: Path, database: Path, redis: RedisServer, options: tuple[str, ...], settings: dict[str, object]
) -> str:
    port = free_port()
    env = site_env(redis.url, database, {"UWS4R_MODE": "native", **settings})
    command = ["--module", "uws4r.wsgi:application", "--http-socket", f"127.0.0.1:{port}", "--master", "--need-app"]
    try:
        uwsgi = Uwsgi(directory, [*command, "--enable-threads", "--virtualenv", sys.prefix, *options], env, port)
    except AssertionError as error:
        return str(error)
    uwsgi.stop()
    raise AssertionError(f"started:\n{uwsgi.log}")


# ---------------------------------------------------------------- uWSGI's plugin

# With a 404 it counts as ready.
MIRROR = """
def application(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [environ["PATH_INFO"].encode()]
"""
TICKING = """
import threading, time, uwsgi

ticks = []

def tick():
    while True:
        time.sleep(0.01)
        ticks.append(1)

uwsgi.post_fork_hook = lambda: threading.Thread(target=tick, daemon=True).start()

def application(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [b"%d" % len(ticks)]
"""


def serve_page(directory: Path, application: str, *plugins: str, place: Path = PLUGINS) -> Uwsgi:
    """uWSGI's async engine with a small application."""
    (directory / "page.py").write_text(application)
    port = free_port()
    options: list[str | Path] = ["--plugins-dir", place]
    for plugin in plugins:
        options += ["--need-plugin", plugin]
    if "greenlet" in plugins:
        options.append("--greenlet")
    options += ["--async", "20", "--http-socket", f"127.0.0.1:{port}", "--wsgi-file", directory / "page.py"]
    options += ["--virtualenv", sys.prefix, "--master", "--single-interpreter", "--enable-threads"]
    return Uwsgi(directory, options, {"PYTHONPATH": ""}, port)


def ask_for(server: Uwsgi, path: str) -> bytes:
    with socket.create_connection(server.address, 5) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while data := client.recv(4096):
            answer += data
    return answer.partition(b"\r\n\r\n")[2]


def page_after_half_a_request(server: Uwsgi) -> bytes:
    """What a client gets to see that comes after one who has left in the middle of his head."""
    with Client(server.address) as client:
        client.send_raw(b"GET /secret HTTP/1.1\r\nHost: localhost\r\nX-Half: ")
    wait_until(lambda: "client closed connection" in server.log, "uWSGI has noticed")
    return ask_for(server, "/mine")


@pytest.mark.parametrize(
    ("plugins", "page"),
    [(("greenlet",), b"/secret"), (("greenlet", "uws4r"), b"/mine")],
    ids=["without the plugin", "with it"],
)
def test_nobody_gets_the_page_of_one_who_left_in_the_middle(
    tmp_path: Path, plugins: tuple[str, ...], page: bytes
) -> None:
    """uWSGI 2.0.31 puts half a head in front of the next client's: request smuggling."""
    server = serve_page(tmp_path, MIRROR, *plugins)
    try:
        assert page_after_half_a_request(server) == page
    finally:
        server.stop()


def test_threads_run_while_the_loop_waits(tmp_path: Path) -> None:
    server = serve_page(tmp_path, TICKING, "greenlet", "uws4r")
    try:
        before = int(ask_for(server, "/"))
        time.sleep(1)
        assert int(ask_for(server, "/")) - before > 50  # of 100; with the GIL kept it is 1
    finally:
        server.stop()


@pytest.mark.parametrize("plugins", [("uws4r",), ("uws4r", "greenlet")], ids=["alone", "in the wrong order"])
def test_the_plugin_wants_the_other_one_before_it(tmp_path: Path, plugins: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError, match="needs greenlet = true, and the greenlet plugin before it"):
        serve_page(tmp_path, MIRROR, *plugins)


def test_a_plugin_for_another_python_does_not_start(tmp_path: Path) -> None:
    """Built with headers that say so, wherever there is no other Python."""
    headers = tmp_path / "include"
    headers.mkdir()
    for path in Path(sysconfig.get_path("include")).iterdir():
        (headers / path.name).symlink_to(path)
    version = (headers / "patchlevel.h").read_text()
    (headers / "patchlevel.h").unlink()
    (headers / "patchlevel.h").write_text(re.sub(r"(#define PY_MINOR_VERSION\s+)\d+", r"\g<1>99", version))
    subprocess.run(
        [sys.executable, ROOT / "plugin" / "build.py", tmp_path],
        env={**os.environ, "CFLAGS": f"-I{headers}"},
        check=True,
        capture_output=True,
    )
    with pytest.raises(AssertionError, match=r"built for Python 3\.99, and this is 3\."):
        serve_page(tmp_path, MIRROR, "greenlet", "uws4r", place=tmp_path)


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_stop_and_reload_closes_with_1012(served: Callable[..., Site], number: int) -> None:
    site = served(workers=2, **native())
    clients = [site.connect(ECHO) for _ in range(50)]
    for client in clients:
        client.ping()
    begin = time.monotonic()
    site.uwsgi.process.process.send_signal(number)
    for client in clients:
        assert client.receive_close().close_code == 1012
        client.sock.close()
    assert time.monotonic() - begin < 2
    if number == signal.SIGHUP:
        wait_until(lambda: site.uwsgi.log.count("spawned uWSGI worker 2") == 2, "reloaded")
        site.join_all_workers(PATH)  # none is about to begin when uWSGI is stopped
    assert "Traceback" not in site.uwsgi.log


def test_the_sites_own_atexit_still_runs(served: Callable[..., Site], tmp_path: Path) -> None:
    script = tmp_path / "own_atexit.py"
    script.write_text("import uwsgi\nuwsgi.atexit = lambda: print('the site says goodbye', flush=True)\n")
    site = served(**native(1000, "--shared-import", str(script)))
    client = site.connect(PATH)
    client.ping()
    site.uwsgi.process.process.send_signal(signal.SIGTERM)
    assert client.receive_close().close_code == 1012
    wait_until(lambda: "the site says goodbye" in site.uwsgi.log, "the site's own atexit")
