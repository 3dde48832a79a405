"""M: the bugs of ws4redis, which are not here. Those of runserver and of the browser client have files of their own."""

import os
import re
import signal
import time
import warnings
from collections.abc import Callable

import pytest
import redis
from django.conf import settings
from django.test import override_settings

from tests.support.servers import RedisServer, wait_until
from tests.support.site import Site, manage
from tests.support.wire import BINARY, CLOSE, TEXT, Client, Refused, close_frame, masked_frame
from tests.unit.test_names import Nobody, Request
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import redis_client
from uws4r.redis_store import SELF

pytestmark = pytest.mark.e2e

CALLBACK = "WS4REDIS_ALLOWED_CHANNELS"
ROOM = "/ws/f?subscribe-broadcast&publish-broadcast"


# ---------------------------------------------------------------- security


@pytest.mark.parametrize("callback", ["explode", "members_of_ws4redis_manual"])
def test_bug_s1_a_callback_that_fails_refuses(served: Callable[..., Site], callback: str) -> None:
    """Its AttributeError used to grant everything; a misspelt name is found at the start (test_serving)."""
    site = served(settings={CALLBACK: f"testsite.callbacks.{callback}"})
    with pytest.raises(Refused, match="500") as caught:
        site.connect(ROOM)
    assert b"secret" not in caught.value.response.body
    assert site.redis.channels() == []


def test_bug_s2_the_manuals_example_works_as_one_would_write_it_today(served: Callable[..., Site]) -> None:
    site = served(settings={CALLBACK: "testsite.callbacks.only_authenticated"})
    with pytest.raises(Refused, match="403"):
        site.connect(ROOM)
    client = site.join(ROOM, session=site.log_in("john"))
    site.redis.client.publish("broadcast:f", "m")
    assert client.receive() == "m"


def test_bug_s3_another_sites_page_cannot_connect_with_the_visitors_cookie(site: Site) -> None:
    session = site.log_in("john")
    with pytest.raises(Refused, match="403"):
        site.connect("/ws/f", {"Origin": "http://evil.example", "Cookie": f"sessionid={session}"})
    with pytest.raises(Refused, match="400"):
        site.connect("/ws/f", {"Host": "evil.example", "Origin": "http://evil.example"})


def test_bug_s4_nobody_has_no_channel_of_his_own(site: Site, store: redis.Redis) -> None:
    clients = [site.connect("/ws/f?subscribe-user&subscribe-group&subscribe-session&publish-user") for _ in range(2)]
    clients[0].send("to myself?")
    assert clients[1].ping() == clients[0].ping() == []
    RedisPublisher(facility="f", users=[SELF], groups=[SELF], sessions=[SELF], request=Nobody()).publish_message("m")
    assert store.keys() == []
    assert site.redis.channels() == []


def test_bug_s5_no_text_of_an_exception_reaches_a_client(served: Callable[..., Site]) -> None:
    site = served(settings={CALLBACK: "testsite.callbacks.explode"})
    with Client(site.address) as client:
        response = client.request(ROOM)
        assert response is not None
        assert response.status == 500
        assert response.body == b"The server could not open a websocket.\n"
        assert client.ended()


def test_bug_s6_fragments_of_one_client_never_reach_another(site: Site) -> None:
    one, two = (site.connect("/ws/f?publish-broadcast") for _ in range(2))
    reader = site.join("/ws/f?subscribe-broadcast")
    one.send_raw(masked_frame(TEXT, b"SECRET-OF-A", final=False))
    two.send_raw(masked_frame(0, b"|from-B"))
    assert two.receive_close().close_code == 1002
    one.send_raw(masked_frame(0, b" and its end"))
    assert reader.receive() == "SECRET-OF-A and its end"


def test_bug_s7_a_session_key_is_no_claim_of_the_client(site: Site) -> None:
    client = site.connect("/ws/f?subscribe-session&publish-session", session="a" * 32)
    client.send("m")
    assert client.ping() == []
    assert site.redis.client.keys() == []
    assert site.redis.channels() == []


@pytest.mark.parametrize("engine", ["file", "cached_db", "signed_cookies"])
def test_bug_s7_in_no_store(served: Callable[..., Site], engine: str) -> None:
    site = served(settings={"SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}"})
    real = site.log_in("john")
    made_up = [site.connect("/ws/f?subscribe-session&publish-session", session=key) for key in ("made-up-key", "k:y:s")]
    client = site.join("/ws/f?subscribe-session&subscribe-user&publish-session", session=real, channel="user:john:f")
    for each in (*made_up, client):
        each.send("m")
        assert each.ping() == []
    # Where a session is in its cookie nothing names it: the cookie is another one after each change.
    expected = set() if engine == "signed_cookies" else {f"session:{real}:f".encode()}
    assert {name for name in site.redis.channels() if name.startswith(b"session:")} == expected
    wait_until(lambda: set(site.redis.client.keys()) == expected, "published")
    assert "Traceback" not in site.uwsgi.log


# ---------------------------------------------------------------- lost, late, doubled


def test_bug_d1_frames_in_one_segment_all_count(site: Site) -> None:
    sender, reader = site.connect("/ws/f?publish-broadcast"), site.join("/ws/f?subscribe-broadcast")
    sender.send_raw(b"".join(masked_frame(TEXT, b"%d" % i) for i in range(5)))
    assert [reader.receive() for _ in range(5)] == ["0", "1", "2", "3", "4"]


def test_bug_d2_pipelined_publishes_come_at_once(site: Site) -> None:
    reader = site.join("/ws/f?subscribe-broadcast")
    pipeline = site.redis.client.pipeline(transaction=False)
    for i in range(5):
        pipeline.publish("broadcast:f", f"{i}")
    begin = time.monotonic()
    pipeline.execute()
    assert [reader.receive() for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert time.monotonic() - begin < 1


def test_bug_d4_a_reconnect_gets_the_last_message_once(site: Site) -> None:
    """One value for each channel is the contract; ``RedisMessage`` with ``expire=0`` is not sent again."""
    publisher = site.redis.client
    publisher.set("broadcast:f", "kept")
    client = site.connect("/ws/f?subscribe-broadcast")
    assert client.receive() == "kept"
    assert client.ping() == []


def test_bug_d5_a_reconnect_gets_what_was_kept_meanwhile(site: Site) -> None:
    site.join("/ws/f?subscribe-broadcast").sock.close()
    site.request("POST", "/publish/", "facility=f&audience=broadcast&message=meanwhile")
    assert site.connect("/ws/f?subscribe-broadcast").receive() == "meanwhile"


def test_bug_d7_websockets_outlive_their_redis(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis)
    client = site.join("/ws/f?subscribe-broadcast")
    own_redis.stop()
    own_redis.start()
    wait_until(lambda: own_redis.subscriptions("broadcast:f") == 1, "subscribed again")
    own_redis.client.publish("broadcast:f", "still here")
    assert client.receive() == "still here"
    site.uwsgi.stop()


# ---------------------------------------------------------------- protocol


def test_bug_p1_nothing_follows_the_close_frame(site: Site) -> None:
    client = site.connect(ROOM)
    client.send_raw(close_frame(1000))
    assert client.receive_close().close_code == 1000
    assert client.ended()


def test_bug_p2_binary_is_binary_and_text_is_text(site: Site) -> None:
    client = site.join("/ws/f?subscribe-broadcast")
    site.redis.client.publish("broadcast:f", b"\xff\x00")
    site.redis.client.publish("broadcast:f", "\u20ac")
    frames = [client.frame(), client.frame()]
    assert [(frame.opcode, frame.payload) for frame in frames] == [
        (BINARY, b"\xff\x00"),
        (TEXT, "\u20ac".encode()),
    ]


def test_bug_p3_a_pong_has_the_payload_of_its_ping(site: Site) -> None:
    client = site.connect("/ws/f")
    for payload in (b"", b"x", b"\xff" * 125):
        client.ping(payload)


def test_bug_p4_one_subprotocol_and_no_obsolete_headers(site: Site) -> None:
    client = site.connect("/ws/f", {"Sec-WebSocket-Protocol": "a, b", "Origin": "http://localhost"})
    assert client.response is not None
    assert client.response.headers["sec-websocket-protocol"] == "a"
    assert set(client.response.headers) == {"upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Sec-WebSocket-Version": "6", "Sec-WebSocket-Key": "abc"}, 426),
        ({"Sec-WebSocket-Key": "abc"}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "\u00e9" * 24}, 400),
    ],
)
def test_bug_p5_version_and_key_are_checked(site: Site, change: dict[str, str | None], status: int) -> None:
    with Client(site.address) as client:
        response = client.request("/ws/f", change)
        assert response is not None
        assert response.status == status
        assert (response.headers.get("sec-websocket-version") == "13") == (status == 426)


def test_bug_p6_close_codes_and_types_are_seen(site: Site) -> None:
    client = site.connect(ROOM)
    client.send_raw(masked_frame(CLOSE, (4321).to_bytes(2, "big") + b"bye"))
    assert client.receive_close().close_code == 4321
    wait_until(lambda: "closed: 4321 'bye'" in site.uwsgi.log, "logged")


# ---------------------------------------------------------------- resources


def test_bug_r1_one_connection_to_redis_for_all_websockets(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis)
    for _ in range(50):
        site.connect(f"{ROOM}&subscribe-user").ping()
    links = [client for client in own_redis.client.client_list() if client["name"] == "uws4r"]
    assert len(links) == 1
    site.uwsgi.stop()


def test_bug_r2_nothing_is_left_of_closed_websockets(served: Callable[..., Site]) -> None:
    site = served(module="testsite.old_wsgi:application")
    for _ in range(50):
        site.connect("/ws/f?subscribe-broadcast").ping()
    site.close_clients()
    wait_until(lambda: site.redis.subscriptions("broadcast:f") == 0, "unsubscribed")
    assert site.request("GET", "/websockets/").body == b"0"


def test_bug_r3_the_database_connection_is_given_back(served: Callable[..., Site]) -> None:
    site = served(settings={CALLBACK: "testsite.callbacks.only_members"})
    session = site.log_in("john")
    clients = [site.connect(ROOM, session=session) for _ in range(5)]
    assert [client.ping() for client in clients] == [[]] * 5

    def open_databases() -> int:
        count = 0
        for pid in re.findall(r"spawned uWSGI worker \d+ \(pid: (\d+)", site.uwsgi.log):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    count += os.readlink(f"/proc/{pid}/fd/{fd}") == site.env["TEST_DATABASE"]
                except FileNotFoundError:  # closed meanwhile
                    pass
        return count

    wait_until(lambda: open_databases() == 0, "closed")


def test_bug_r4_a_message_has_a_limit_and_a_client_that_does_not_read_too(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_MESSAGE_SIZE": 1000, "UWS4R_MAX_QUEUE": 100_000})
    client = site.connect(ROOM)
    client.send("x" * 1001)
    assert client.receive_close().close_code == 1009
    lazy, reader = (site.join("/ws/f?subscribe-broadcast") for _ in range(2))
    for _ in range(400):
        site.redis.client.publish("broadcast:f", "x" * 50_000)
        reader.receive()
    wait_until(lambda: "is slow" in site.uwsgi.log, "lazy client closed")
    frame = lazy.frame()
    while frame.opcode == TEXT:
        frame = lazy.frame()
    assert frame.close_code == 1013


def test_bug_r5_a_reload_does_not_wait_for_websockets(served: Callable[..., Site]) -> None:
    site = served()
    clients = [site.connect(ROOM) for _ in range(20)]
    assert [client.ping() for client in clients] == [[]] * 20
    begin = time.monotonic()
    assert site.uwsgi.process.process is not None
    site.uwsgi.process.process.send_signal(signal.SIGHUP)
    assert [client.receive_close().close_code for client in clients] == [1012] * 20
    assert time.monotonic() - begin < 5


# ---------------------------------------------------------------- Python 3, Django


@pytest.mark.parametrize("users", ["john", False, {"john"}, True])
def test_bug_b1_forms_of_names_on_python_3(store: redis.Redis, users: object) -> None:
    with warnings.catch_warnings(record=True):
        RedisPublisher(facility="f", users=users, request=Request())


@pytest.mark.parametrize("audience", ["any", "session", "user", "group", "broadcast"])
def test_bug_b4_fetching_for_a_request_without_session_and_user(store: redis.Redis, audience: str) -> None:
    store.set("broadcast:f", "m")
    expected = b"m" if audience in ("any", "broadcast") else None
    assert RedisPublisher().fetch_message(object(), "f", audience) == expected
    with pytest.raises(ValueError, match="not one of any"):
        RedisPublisher().fetch_message(object(), "f", "everybody")


def test_bug_b5_subscribe_session_without_a_session_stays_open(site: Site) -> None:
    client = site.join("/ws/f?subscribe-session&subscribe-broadcast")
    site.redis.client.publish("broadcast:f", "m")
    assert client.receive() == "m"


def test_bug_b7_decode_responses_does_no_harm(served: Callable[..., Site], redis_server: RedisServer) -> None:
    connection = {"host": "127.0.0.1", "port": redis_server.port, "decode_responses": True}
    site = served(settings={"WS4REDIS_CONNECTION": connection})
    client = site.join(ROOM)
    site.request("POST", "/publish/", "facility=f&audience=broadcast&message=m")
    assert client.receive() == "m"
    with override_settings(WS4REDIS_CONNECTION=connection):
        assert RedisPublisher().fetch_message(None, "f") == b"m"
        redis_client().connection_pool.disconnect()


def test_bug_b9_websocket_url_may_be_unset(site: Site) -> None:
    assert not hasattr(settings, "WEBSOCKET_URL")  # neither in the tests' site
    site.connect("/ws/f").ping()


# ---------------------------------------------------------------- sessions that end


def test_an_expired_session_is_none(site: Site) -> None:
    session = site.log_in("john")
    manage(
        site.env,
        "shell",
        "-c",
        "from django.contrib.sessions.models import Session; from django.utils import timezone;"
        f"Session.objects.filter(pk={session!r}).update(expire_date=timezone.now())",
    )
    client = site.connect("/ws/f?subscribe-user&subscribe-session&publish-user", session=session)
    client.send("m")
    assert client.ping() == []
    assert site.redis.channels() == []
    assert site.redis.client.keys() == []


def test_a_session_that_ends_while_the_websocket_is_open_does_no_harm(site: Site) -> None:
    session = site.log_in("john")
    client = site.join("/ws/f?subscribe-session&publish-broadcast", session=session, channel=f"session:{session}:f")
    site.request("POST", "/logout/", session=session)
    client.send("still open")
    assert client.ping() == []
    assert site.connect("/ws/other?subscribe-session", session=session).ping() == []
    assert site.redis.subscriptions(f"session:{session}:other") == 0
    site.uwsgi.assert_healthy()


def test_deliberate_breaks_are_logged_once(served: Callable[..., Site]) -> None:
    site = served()
    reader = site.join("/ws/f?subscribe-broadcast")
    for _ in range(3):
        site.connect("/ws/f?subscribe-user&subscribe-broadcast").ping()
        site.redis.client.publish("broadcast:f", b"\xff")
        assert reader.receive() == b"\xff"
    assert site.uwsgi.log.count("SELF in `users` is nobody") == 1
    assert site.uwsgi.log.count("a message is sent as binary") == 1


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["a:b", "50%", "with space", "Želko", "a@b+c-d.e_f"])
def test_names_with_any_characters(site: Site, store: redis.Redis, name: str) -> None:
    code = (
        "from django.contrib.auth.models import Group, User\n"
        f"user, made = User.objects.get_or_create(username={name!r})\n"
        f"user.set_password({name!r}); user.save()\n"
        f"user.groups.add(Group.objects.get_or_create(name={name!r})[0])"
    )
    manage(site.env, "shell", "-c", code)
    session = site.log_in(name)
    quoted = name.replace("%", "%25").replace(":", "%3A")
    client = site.join("/ws/b:c?subscribe-user&subscribe-group", session=session, channel=f"user:{quoted}:b:c")
    RedisPublisher(facility="b:c", users=[name]).publish_message("to the user")
    RedisPublisher(facility="b:c", groups=[name]).publish_message("to the group")
    assert [client.receive() for _ in range(2)] == ["to the user", "to the group"]


def test_a_facility_of_5000_characters_is_refused(served: Callable[..., Site]) -> None:
    site = served(options=("--buffer-size", "16384"))
    with pytest.raises(Refused, match="400: b'A facility has at most 1024 characters"):
        site.connect("/ws/" + "x" * 5000)
    site.uwsgi.assert_healthy()
