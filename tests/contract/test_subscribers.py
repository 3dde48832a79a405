"""J: what a subscriber class may override, and what it finds then."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.test_latecomers import log_in
from tests.support.modes import MODES, serve_in, stop
from tests.support.servers import RedisServer, wait_until
from tests.support.site import Site
from tests.support.wire import CLOSE, TEXT, Refused, close_frame, masked_frame
from uws4r._frames import wrap
from uws4r.mailbox import COST

pytestmark = pytest.mark.e2e


@pytest.fixture
def with_subscriber(served: Callable[..., Site]) -> Callable[[str], Site]:
    return lambda name, **arguments: served(
        settings={"WS4REDIS_SUBSCRIBER": f"testsite.subscribers.{name}"}, **arguments
    )


def test_j_parse_response_decides_what_the_client_gets(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Shout")
    client = site.connect("/ws/f?subscribe-broadcast&publish-broadcast")
    wait_until(lambda: site.redis.client.lrange("seen", 0, -1) == [b"subscribe broadcast:f"], "told of the channel")
    for message in ("hello", "drop me", "caf\u00e9", b"as it is: \xff", "as it is"):
        site.redis.client.publish("broadcast:f", message)
    assert [client.receive() for _ in range(4)] == ["HELLO!", "CAF\u00c9!", b"as it is: \xff", "as it is"]
    site.redis.client.publish("broadcast:f", wrap(b"as it is, binary", binary=True))
    assert client.receive() == b"as it is, binary"
    client.send("mine, changed")
    client.send("as it is mine")
    client.send("and the next")
    # What it changes is no longer the client's own message; what it leaves as it is remains withheld.
    assert [client.receive() for _ in range(2)] == ["MINE, CHANGED!", "AND THE NEXT!"]


def test_j_persisted_messages_do_not_go_through_parse_response(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Shout")
    site.redis.client.set("broadcast:f", "kept")
    assert site.connect("/ws/f?subscribe-broadcast").receive() == "kept"


def test_j_parse_response_sees_copies_and_they_come_once(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Shout")
    session = site.log_in("john")
    client = site.join("/ws/f?subscribe-broadcast&subscribe-user", session=session)
    pipeline = site.redis.client.pipeline(transaction=True)
    for message in ("as it is", "changed"):
        for channel in ("broadcast:f", "user:john:f"):
            pipeline.publish(channel, message)
    pipeline.execute()
    assert [client.receive() for _ in range(3)] == ["as it is", "CHANGED!", "CHANGED!"]


def test_j_a_client_whose_override_is_slower_than_the_messages_counts_as_slow(served: Callable[..., Site]) -> None:
    room = 5 * (1000 + COST)  # each that waits counts for more than its bytes
    site = served(settings={"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Patient", "UWS4R_MAX_QUEUE": room})
    client = site.connect("/ws/f?subscribe-broadcast")
    wait_until(lambda: site.redis.client.pubsub_numsub("broadcast:f")[0][1] == 1, "joined")
    for number in range(5):
        site.redis.client.publish("broadcast:f", f"{number}".zfill(1000))
    site.redis.client.rpush("go on", "")
    assert client.receive() == "0".zfill(1000)
    for _ in range(2):  # five messages wait, and one more is too many
        site.redis.client.publish("broadcast:f", "x" * 1000)
    close = client.receive_close()
    assert (close.close_code, close.payload[2:]) == (1013, b"too slow")
    site.redis.client.rpush("go on", *[""] * 6)  # what still waits does not hold up the worker's end


def test_j_a_publish_message_that_blocks_delays_nobody_else(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Slow")
    reader = site.join("/ws/f?subscribe-broadcast")
    sleepers = [site.connect("/ws/f?publish-broadcast") for _ in range(3)]
    sender = site.connect("/ws/f?publish-broadcast")
    begin = time.monotonic()
    for number, sleeper in enumerate(sleepers):
        sleeper.send("sleep")
        sleeper.send(f"after sleeping {number}")
    for number in range(50):
        sender.send(f"{number}")
        assert reader.receive() == f"{number}"
    sleepers[0].ping()
    assert time.monotonic() - begin < 2.5
    # And its own order is kept.
    late = [reader.receive() for _ in range(6)]
    assert 4.5 < time.monotonic() - begin < 9
    assert sorted(late) == sorted(["sleep"] * 3 + [f"after sleeping {number}" for number in range(3)])


def test_j_publish_message_may_use_the_database_and_publish_something_else(
    with_subscriber: Callable[[str], Site],
) -> None:
    site = with_subscriber("Author")
    john = site.connect("/ws/f?publish-broadcast&subscribe-broadcast", session=site.log_in("john"))
    reader = site.join("/ws/f?subscribe-broadcast")
    john.ping()
    john.send("hello")
    # He did not send these bytes, so that he gets them too, as he always did.
    assert reader.receive() == john.receive() == "john in chatters: hello"
    john.send(b"as it is")
    john.send("as it is")
    assert [reader.receive() for _ in range(2)] == [b"as it is", "as it is"]
    assert john.ping() == []
    assert site.redis.client.get("broadcast:f") == b"as it is"
    assert 3500 < site.redis.client.ttl("broadcast:f") <= 3600


def test_j_release_is_called_when_the_websocket_closes(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Author")
    john = site.connect("/ws/f?publish-broadcast", session=site.log_in("john"))
    reader = site.join("/ws/f?subscribe-broadcast")
    john.sock.close()
    assert reader.receive() == "john in chatters: gone"


def test_j_release_is_called_when_the_worker_stops(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Author")
    john = site.connect("/ws/f?publish-broadcast", session=site.log_in("john"))
    john.ping()
    # uWSGI leaves uwsgi.atexit out in a worker that is inside a request.
    wait_until(lambda: "GET /ws/f?publish-broadcast => generated" in site.uwsgi.log, "the request is over")
    site.uwsgi.stop()
    assert john.receive_close().close_code == 1012
    assert site.redis.client.get("broadcast:f") == b"john in chatters: gone"


def test_j_release_is_told_how_it_ended(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Last")
    endings = [
        (close_frame(1000, "that's all"), b"1000 that's all"),
        (close_frame(4321), b"4321 "),
        (masked_frame(CLOSE), b"1005 "),
        (masked_frame(TEXT, b"\xff"), b"1007 text that is not UTF-8"),
        (None, b"1006 "),
    ]
    for sent, said in endings:
        client = site.connect("/ws/f?subscribe-broadcast")
        if sent is None:
            client.sock.close()
        else:
            client.send_raw(sent)
            client.receive_close()
        assert site.redis.client.blpop(["ended"], timeout=10) == (b"ended", said)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*MODES, "runserver"])
def test_j_a_request_that_is_kept_can_be_used_later(
    tmp_path: Path, redis_server: RedisServer, database: Path, mode: str
) -> None:
    redis_server.client.flushall()
    settings = {"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Keeps"}
    site = serve_in(mode, tmp_path, redis_server, database, settings=settings, workers=1)
    try:
        cookies = f"theme=dark; sessionid={log_in(site, 'mary')}"
        client = site.connect("/ws/f?publish-broadcast&room=5", {"Cookie": cookies, "X-Mine": "yes"})
        for number in range(3):  # other requests come and go
            site.connect(f"/ws/other{number}").ping()
        client.send("what is it?")
        wait_until(lambda: site.redis.client.get("broadcast:f"), "published")
        seen = site.redis.client.get("broadcast:f")
        assert seen == b"127.0.0.1 localhost http://localhost/ws/f?publish-broadcast&room=5 5 dark yes mary"
    finally:
        stop(site)


def test_j_release_is_called_once_for_a_websocket_that_is_refused(served: Callable[..., Site]) -> None:
    subscriber = {"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Last"}
    site = served(settings={**subscriber, "UWS4R_MAX_CONNECTIONS_PER_IP": 1, "UWS4R_MAX_CHANNELS": 1})
    client = site.connect("/ws/f?subscribe-broadcast")
    for path, status in (("/ws/f", 429), ("/ws/f?subscribe-broadcast&publish-broadcast", 400)):
        with pytest.raises(Refused) as refused:
            site.connect(path)
        assert refused.value.response.status == status
        assert site.redis.client.blpop(["ended"], timeout=10) == (b"ended", b"1006 ")
    client.send_raw(close_frame(1000))
    assert site.redis.client.blpop(["ended"], timeout=10) == (b"ended", b"1000 ")
    assert site.redis.client.llen("ended") == 0


def test_j_an_error_in_an_override_ends_that_websocket_only(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Faulty")
    client, neighbour = (site.connect("/ws/f?publish-broadcast&subscribe-broadcast") for _ in range(2))
    neighbour.ping()
    client.send_raw(masked_frame(TEXT, b"one") + masked_frame(TEXT, b"two"))
    close = client.receive_close()
    assert close.close_code == 1011
    assert b"secret" not in close.payload
    assert client.ended()
    wait_until(lambda: site.redis.client.get("released") == b"1", "released")
    assert neighbour.ping() == []
    assert site.uwsgi.log.count("RuntimeError: secret reason") == 1


def test_j_a_client_faster_than_its_override_waits_and_loses_nothing(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Slow")
    reader = site.join("/ws/f?subscribe-broadcast")
    sender = site.connect("/ws/f?publish-broadcast")
    sender.send_raw(b"".join(masked_frame(TEXT, b"%d" % number) for number in range(5000)))
    assert [reader.receive() for _ in range(5000)] == [f"{number}" for number in range(5000)]
    sender.send("and on")
    assert reader.receive() == "and on"


def test_j_set_pubsub_channels_as_ws4redis_wrote_it(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("Copied")
    client = site.connect("/ws/f?subscribe-user&publish-broadcast", session=site.log_in("john"))
    client.ping()
    wait_until(lambda: site.redis.subscriptions("user:john:f") == 1, "subscribed")
    client.send("to all")
    client.ping()
    wait_until(lambda: site.redis.client.get("broadcast:f") == b"to all", "published")
    assert site.redis.subscriptions("broadcast:f") == 0


@pytest.mark.parametrize("persisted", [True, False])
def test_j_send_persisted_messages_under_its_misspelt_name(
    with_subscriber: Callable[[str], Site], persisted: bool
) -> None:
    site = with_subscriber("Greeting")
    if persisted:
        site.redis.client.set("broadcast:f", "kept")
    client = site.connect("/ws/f?subscribe-broadcast")
    assert client.receive() == "welcome"
    assert client.receive() == "kept" if persisted else client.ping() == []


def test_j_without_a_file_descriptor_it_does_not_listen(with_subscriber: Callable[[str], Site]) -> None:
    site = with_subscriber("WriteOnly")
    client = site.connect("/ws/f?subscribe-broadcast&publish-broadcast&echo")
    client.send("written")
    wait_until(lambda: site.redis.client.get("broadcast:f") == b"written", "published")
    assert client.ping() == []
    assert site.redis.subscriptions("broadcast:f") == 0


def test_j_the_subscribers_of_a_worker_share_one_descriptor() -> None:
    from uws4r.subscriber import RedisSubscriber

    subscriber = RedisSubscriber(object())
    assert subscriber.get_file_descriptor() is None
    subscriber._link_descriptor = lambda: 7
    assert subscriber.get_file_descriptor() == 7
