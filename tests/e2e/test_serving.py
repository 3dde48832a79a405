"""Workers, links, logs, sessions, starts and stops: what an operator sees."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.certificates import self_signed
from tests.support.servers import SITE, FakeRedis, RedisServer, Uwsgi, free_port, wait_until
from tests.support.site import PLAIN, Site, manage, site_env
from tests.support.wire import Client, Refused, close_frame, connect

pytestmark = pytest.mark.e2e


def test_one_link_for_each_worker_however_many_websockets(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, workers=2)
    clients = site.join_all_workers("/ws/foo?subscribe-broadcast")
    clients += [site.join("/ws/foo?subscribe-broadcast") for _ in range(1000 - len(clients))]
    assert len(site.redis.links()) == 2
    others = [c for c in site.redis.client.client_list() if c["name"] != "uws4r"]
    assert len(others) == 1, others  # the test's own
    assert site.redis.client.publish("broadcast:foo", "to all") == 2
    assert [client.receive() for client in clients] == ["to all"] * 1000


def test_a_connection_is_logged_when_it_opens_and_when_it_closes(site: Site) -> None:
    session = site.log_in("john")
    client = site.join("/ws/log?subscribe-user&publish-user&echo", session=session, channel="user:john:log")
    client.send("hello")
    assert client.receive() == "hello"
    client.send_raw(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
    client.receive_close()
    pattern = (
        r"INFO uws4r.hub (#\d+ 127.0.0.1 john /ws/log) open\n(?s:.*)INFO uws4r.hub \1 closed: 1000 '' "
        r"after \d+\.\d s, in 1 messages 19 bytes, out 2 messages 19 bytes\n"
    )
    wait_until(lambda: re.search(pattern, site.uwsgi.log), "both lines")


@pytest.mark.parametrize("engine", ["db", "file", "signed_cookies", "cached_db"])
def test_any_session_engine_serves(served: Callable[..., Site], engine: str, tmp_path: Path) -> None:
    """Also the database-backed ones, which ws4redis forbade: the session is loaded in an ordinary request."""
    settings = {
        "SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}",
        "SESSION_FILE_PATH": str(tmp_path),
    }
    site = served(settings=settings)
    session = site.log_in("mary")
    client = site.join("/ws/foo?subscribe-user", session=session, channel="user:mary:foo")
    site.request("POST", "/publish/", "facility=foo&audience=user&message=hi", session=session)
    assert client.receive() == "hi"


def test_callbacks_may_use_the_database(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.only_members"})
    client = site.join("/ws/foo?subscribe-broadcast", session=site.log_in("john"))
    site.redis.client.publish("broadcast:foo", "members")
    assert client.receive() == "members"
    for session in (None, site.log_in("admin")):
        with pytest.raises(Refused, match="403"):
            site.connect("/ws/foo?subscribe-broadcast", session=session)
    site.uwsgi.assert_healthy()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--threads", "4"), id="request threads"),
        pytest.param(("--lazy-apps",), id="lazy-apps"),
        pytest.param(("--thunder-lock", "--reuse-port"), id="reuse-port"),
    ],
)
def test_ways_to_run_workers(served: Callable[..., Site], options: tuple[str, ...]) -> None:
    site = served(workers=2, options=options)
    talk(site)


def test_behind_uwsgis_own_router(tmp_path: Path, redis_server: RedisServer, database: Path) -> None:
    redis_server.client.flushall()
    port = free_port()
    env = site_env(redis_server.url, database)
    uwsgi = Uwsgi(
        tmp_path,
        ["--http", f"127.0.0.1:{port}", "--http-websockets", "--module", "testsite.wsgi:application", *PLAIN],
        env,
        port,
    )
    site = Site(redis_server, env, uwsgi.address, uwsgi)
    try:
        talk(site)
    finally:
        site.close_clients()
        uwsgi.stop()


def talk(site: Site) -> None:
    """Two clients hear each other and the site, in all sizes."""
    one, two = (site.join("/ws/foo?subscribe-broadcast&publish-broadcast&echo") for _ in range(2))
    for message in ("short", "x" * 70_000, b"\xff" * 300):
        one.send(message)
        assert one.receive() == two.receive() == message
    site.request("POST", "/publish/", "facility=foo&audience=broadcast&message=from+a+view")
    assert one.receive() == two.receive() == "from a view"
    one.send_raw(close_frame(1000))
    assert one.receive_close().close_code == 1000
    assert one.ended()
    site.uwsgi.assert_healthy()


def test_a_site_below_a_path(served: Callable[..., Site]) -> None:
    """``mount``: its pages name the address where its websockets are."""
    site = served(options=("--mount", "/app=testsite/wsgi.py", "--manage-script-name", "--chdir", str(SITE)))
    with closing(HTTPConnection(*site.address)) as connection:
        connection.request("GET", "/app/page/ws4redis/")
        page = connection.getresponse().read().decode()
    (path,) = re.findall(r"uri: 'ws://[^/]+(/[^']+)'", page)
    assert path.startswith("/app/ws/foo?")
    client = site.connect(path)
    client.send("to all below the path")
    assert client.receive() == "to all below the path"
    with pytest.raises(Refused, match="404"):
        site.connect("/app/foo")


@pytest.mark.parametrize("module", ["testsite.wsgi:application", "uws4r.wsgi:application"])
def test_a_balancer_asks_how_a_worker_is(served: Callable[..., Site], own_redis: RedisServer, module: str) -> None:
    site = served(redis=own_redis, module=module, settings={"ALLOWED_HOSTS": ["www.example.com"]})
    assert site.request("GET", "/ws/health").body == b"OK.\n"
    with closing(HTTPConnection(*site.address)) as connection:
        connection.request("HEAD", "/ws/health")
        assert connection.getresponse().status == 200
    assert site.request("POST", "/ws/health").status == 400
    assert site.request("GET", "/ws/health/").status == 400
    client = site.connect("/ws/health?subscribe-broadcast", {"Host": "www.example.com"})  # a facility like any other
    assert client.ping() == []
    own_redis.stop()
    wait_until(lambda: site.request("GET", "/ws/health").status == 503, "503 while Redis is away")
    assert b"The message queue cannot be reached" in site.request("GET", "/ws/health").body
    own_redis.start()
    wait_until(lambda: site.request("GET", "/ws/health").status == 200, "200 when it is back")
    (worker,) = json.loads(manage(site.env, "uws4r", "status", "--json"))
    assert {reason[:3] for reason in worker["refused"]} == {"400"}  # of those that asked otherwise


def test_channels_that_are_not_granted_are_dropped_silently(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.only_broadcast"})
    client = site.join("/ws/foo?subscribe-broadcast&publish-broadcast")
    client.send("not published")
    client.ping()
    assert site.redis.client.keys() == []
    site.redis.client.publish("broadcast:foo", "received")
    assert client.receive() == "received"


def test_prefix_and_expiry(served: Callable[..., Site]) -> None:
    site = served(settings={"WS4REDIS_PREFIX": "ws", "WS4REDIS_EXPIRE": 100, "WEBSOCKET_URL": "/socket/"})
    client = site.join("/socket/foo?subscribe-broadcast&publish-broadcast&echo", channel="ws:broadcast:foo")
    client.send("kept")
    assert client.receive() == "kept"
    assert 90 < site.redis.client.ttl("ws:broadcast:foo") <= 100
    again = site.connect("/socket/foo?subscribe-broadcast")
    assert again.receive() == "kept"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_stop_and_reload_closes_with_1012(served: Callable[..., Site], number: int) -> None:
    site = served(workers=2)
    clients = [site.connect("/ws/foo?subscribe-broadcast") for _ in range(50)]
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
        site.join_all_workers("/ws/foo?subscribe-broadcast")  # none is about to begin when uWSGI is stopped
    assert "Traceback" not in site.uwsgi.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_inside_a_request_closes_with_1012_too(served: Callable[..., Site], number: int) -> None:
    """uWSGI calls no uwsgi.atexit then."""
    site = served()
    clients = [site.connect("/ws/foo?subscribe-broadcast") for _ in range(20)]
    clients[0].ping()
    with Client(site.address) as busy:
        busy.request("/sleep/", {"Upgrade": None, "Connection": "close"}, read=False)
        wait_until(lambda: "a request sleeps" in site.uwsgi.log, "busy")
        site.uwsgi.process.process.send_signal(number)
        for client in clients:
            assert client.receive_close().close_code == 1012
            assert client.ended()


def test_the_sites_own_atexit_still_runs(served: Callable[..., Site], tmp_path: Path) -> None:
    script = tmp_path / "own_atexit.py"
    script.write_text("import uwsgi\nuwsgi.atexit = lambda: print('the site says goodbye', flush=True)\n")
    site = served(options=("--shared-import", str(script)))
    client = site.connect("/ws/foo")
    wait_until(lambda: "GET /ws/foo" in site.uwsgi.log, "the request is over")  # within one, uWSGI calls no hook
    site.uwsgi.process.process.send_signal(signal.SIGTERM)
    assert client.receive_close().close_code == 1012
    wait_until(lambda: "the site says goodbye" in site.uwsgi.log, "the site's own atexit")


def test_a_worker_killed_with_9_takes_only_its_own_clients(served: Callable[..., Site]) -> None:
    site = served(workers=2)
    clients = site.join_all_workers("/ws/foo?subscribe-broadcast")
    pid = int(re.findall(r"spawned uWSGI worker 1 \(pid: (\d+)", site.uwsgi.log)[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.redis.subscriptions("broadcast:foo") == 1, "one worker left")
    site.redis.client.publish("broadcast:foo", "to those who are left")
    left = [client for client in clients if not client.ended()]
    assert 0 < len(left) < len(clients)
    assert [client.receive() for client in left] == ["to those who are left"] * len(left)
    for _ in range(5):
        site.connect("/ws/foo").ping()


# ---------------------------------------------------------------- Redis


@pytest.mark.slow
def test_redis_not_there_at_the_start(served: Callable[..., Site], own_redis: RedisServer) -> None:
    own_redis_stopped = own_redis
    site = served(redis=own_redis)
    site.uwsgi.stop()
    own_redis_stopped.stop()
    port = free_port()
    uwsgi = Uwsgi(
        own_redis.directory,
        ["--http-socket", f"127.0.0.1:{port}", "--module", "testsite.wsgi:application", *PLAIN],
        site.env,
        port,
    )
    try:
        assert "Redis cannot be reached now, websockets are answered 503 until it can" in uwsgi.log
        begin = time.monotonic()
        with pytest.raises(Refused, match="503"):
            connect(uwsgi.address, "/ws/foo")
        assert 3 < time.monotonic() - begin < 8  # new clients wait up to 5 s
        begin = time.monotonic()
        with pytest.raises(Refused, match="503: b'The message queue cannot be reached"):
            connect(uwsgi.address, "/ws/foo")
        assert time.monotonic() - begin < 1
        own_redis.start()
        wait_until(lambda: "linked to Redis" in uwsgi.log, "linked")
        own_redis.client.set("broadcast:foo", "joined")
        with connect(uwsgi.address, "/ws/foo?subscribe-broadcast") as client:
            assert client.receive() == "joined"
            own_redis.client.publish("broadcast:foo", "m")
            assert client.receive() == "m"
        assert "Traceback" not in uwsgi.log
    finally:
        uwsgi.stop()


def test_a_restart_of_redis_costs_no_websocket(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, workers=2)
    clients = site.join_all_workers("/ws/foo?subscribe-broadcast")
    own_redis.stop(signal.SIGKILL)
    own_redis.start()
    wait_until(lambda: own_redis.subscriptions("broadcast:foo") == 2, "both workers resubscribed")
    own_redis.client.publish("broadcast:foo", "back")
    assert [client.receive() for client in clients] == ["back"] * len(clients)
    assert len(own_redis.links()) == 2
    assert "Traceback" not in site.uwsgi.log


@pytest.fixture(params=[b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n", b"-NOPROTO sorry\r\n"])
def old_redis(request: pytest.FixtureRequest) -> Iterator[FakeRedis]:
    server = FakeRedis(request.param)
    yield server
    server.close()


def start_failing(
    tmp_path: Path, database: Path, url: str, *options: str, settings: dict[str, object] | None = None
) -> str:
    """Start a uWSGI that must not start; return its log."""
    port = free_port()
    arguments = ["--module", "uws4r.wsgi:application", *options, "--http-socket", f"127.0.0.1:{port}"]
    try:
        uwsgi = Uwsgi(tmp_path, [*arguments], site_env(url, database, settings), port)
    except AssertionError as error:
        return str(error)
    uwsgi.stop()
    raise AssertionError(f"started:\n{uwsgi.log}")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"UWS4R_ALLOWED_ORIGINS": "https://example.com"}, "UWS4R_ALLOWED_ORIGINS = 'https://example.com' is no list"),
        ({"WS4REDIS_ALLOWED_CHANNELS": "testsite.callbacks.no_such_function"}, "(uws4r.E007)"),
        ({"WS4REDIS_SUBSCRIBER": "ws4redis.subscriber.RedisSubscriber"}, "Write 'uws4r.subscriber.RedisSubscriber'"),
    ],
)
def test_a_wrong_setting_is_an_error_at_the_start(
    tmp_path: Path, database: Path, redis_server: RedisServer, settings: dict[str, object], error: str
) -> None:
    """BUG-S1: a misspelt callback used to allow everything."""
    assert error in start_failing(tmp_path, database, redis_server.url, *PLAIN, settings=settings)


def test_a_redis_before_6_is_an_error_at_the_start(tmp_path: Path, database: Path, old_redis: FakeRedis) -> None:
    log = start_failing(tmp_path, database, f"redis://127.0.0.1:{old_redis.port}/0", *PLAIN)
    assert "uws4r.errors.RedisUnfit: uws4r needs Redis 6 or newer" in log


@pytest.mark.parametrize("option", ["--async=10"])
def test_engines_that_starve_threads_are_an_error_at_the_start(
    tmp_path: Path, database: Path, redis_server: RedisServer, option: str
) -> None:
    log = start_failing(tmp_path, database, redis_server.url, *PLAIN, option)
    assert "uws4r's hub runs in a thread" in log


@pytest.mark.parametrize("option", ["fastcgi-socket", "scgi-socket"])
def test_sockets_that_cannot_be_detached_are_an_error_at_the_start(
    tmp_path: Path, database: Path, redis_server: RedisServer, option: str
) -> None:
    log = start_failing(tmp_path, database, redis_server.url, *PLAIN, f"--{option}", f"127.0.0.1:{free_port()}")
    assert f"websockets cannot be detached from {option}" in log
    assert "https = " in log


@pytest.mark.parametrize("first", ["testsite/wsgi.py", "plain.py"])
def test_interpreters_of_their_own_are_an_error_at_the_start(
    tmp_path: Path, database: Path, redis_server: RedisServer, first: str
) -> None:
    """Two applications in one uWSGI: the second is loaded by another interpreter, where nothing of C's can be twice."""
    (tmp_path / "plain.py").write_text("def application(environ, start_response): ...")
    path = SITE / first if first.startswith("testsite") else tmp_path / first
    arguments = ("--mount", f"/a={path}", "--mount", f"/b={SITE / 'testsite' / 'wsgi.py'}", "--manage-script-name")
    port = free_port()
    options = ("--enable-threads", "--need-app", "--die-on-term", "--http-socket", f"127.0.0.1:{port}")
    with pytest.raises(AssertionError) as caught:
        Uwsgi(tmp_path, [*arguments, *options], site_env(redis_server.url, database), port).stop()
    assert "set single-interpreter = true" in str(caught.value)


@pytest.mark.parametrize("options", [("--add-header", "Connection: close"), ("--route-run", "chunked:")])
def test_options_that_spoil_the_101_are_named_at_the_start(
    served: Callable[..., Site], options: tuple[str, ...]
) -> None:
    site = served(options=options)
    name, value = options[0].removeprefix("--"), options[1]
    assert f"{name} = {value} changes the answer to a handshake" in site.uwsgi.log


def test_a_socket_whose_connections_uwsgi_keeps(served: Callable[..., Site]) -> None:
    """``http11-socket``: uWSGI would read the client's frames as its next request."""
    port = free_port()
    site = served(options=("--http11-socket", f"127.0.0.1:{port}"))
    with connect(("127.0.0.1", port), "/ws/f?subscribe-broadcast&publish-broadcast&echo") as client:
        for number in range(20):
            client.send(f"message {number}")
            assert client.receive() == f"message {number}"
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        for _ in range(2):
            connection.request("GET", "/ws/health")
            assert connection.getresponse().read() == b"OK.\n"
    site.uwsgi.assert_healthy()


def test_https_socket_is_an_error_at_the_start(tmp_path: Path, database: Path, redis_server: RedisServer) -> None:
    certificate, key = self_signed(tmp_path)
    address = f"127.0.0.1:{free_port()},{certificate},{key}"
    log = start_failing(tmp_path, database, redis_server.url, *PLAIN, "--https-socket", address)
    assert "websockets cannot be detached from https-socket" in log


def test_the_worker_is_full(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_CONNECTIONS": 3})
    clients = [site.connect("/ws/foo") for _ in range(3)]
    for client in clients:
        client.ping()
    with pytest.raises(Refused, match="503: b'The server is full"):
        site.connect("/ws/foo")
    clients[0].sock.close()

    def room() -> bool:
        try:
            return bool(site.connect("/ws/foo"))
        except Refused:
            return False

    wait_until(room, "room again")


def test_running_out_of_descriptors_is_503_and_not_a_crash(served: Callable[..., Site]) -> None:
    site = served(options=("--max-fd", "160"))
    clients: list[Client] = []
    while True:
        clients.append(Client(site.address))
        response = clients[-1].request("/ws/foo?subscribe-broadcast")
        assert response is not None
        if response.status != 101:
            break
    assert response.status == 503
    assert response.body.startswith(b"The server is full")
    site.opened += clients
    assert 40 < len(clients) < 100
    wait_until(lambda: site.redis.client.publish("broadcast:foo", "m"), "subscribed")
    assert clients[0].receive() == "m"
    site.uwsgi.assert_healthy()
