"""What clients find when they come: the last messages of their channels, however many and however long they are."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hubs import Bench
from tests.support.servers import RedisServer, wait_until
from tests.support.wire import CLOSE, PING, TEXT, masked_frame

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may set up as it wants."""
    server = RedisServer(tmp_path)
    yield server
    server.close()


def calls(server: RedisServer, command: str) -> int:
    statistics = server.client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
    return int(statistics["calls"])


def test_a_herd_does_not_cut_the_link(make: Callable[..., Bench], server: RedisServer) -> None:
    """60 MiB of last messages, where Redis cuts a subscriber's connection at 32."""
    bench = make(server, max_queue=2 * MIB)
    bystander = bench.join("broadcast:news")
    for number in range(60):
        server.client.set(f"broadcast:{number}", b"%d " % number + b"x" * MIB)
    with bench.held():
        clients = [bench.open(f"broadcast:{number}") for number in range(60)]
    for number in range(100):
        server.client.publish("broadcast:news", f"{number}")
    assert [bystander.receive() for _ in range(100)] == [f"{number}" for number in range(100)]
    for number, client in enumerate(clients):
        assert client.receive() == f"{number} " + "x" * MIB
    assert bench.hub.keeper.links == 1


def test_what_all_of_them_find_is_read_once(make: Callable[..., Bench], server: RedisServer) -> None:
    bench = make(server, max_queue=2 * MIB)
    server.client.set("broadcast:f", b"x" * MIB)
    server.client.set("user:7:f", b"for one of them")
    before = server.client.info("stats")["total_net_output_bytes"], calls(server, "eval")
    with bench.held():
        clients = [bench.open("broadcast:f", f"user:{number}:f") for number in range(100)]
    for number, client in enumerate(clients):
        assert client.receive() == "x" * MIB
        if number == 7:
            assert client.receive() == "for one of them"
    wait_until(lambda: all(connection.attachment is None for connection in bench.hub.loop.connections), "joined")
    after = server.client.info("stats")["total_net_output_bytes"], calls(server, "eval")
    assert after[0] - before[0] < 2 * MIB
    assert after[1] - before[1] <= 2


def test_more_than_one_read_brings_is_read_for_alone(make: Callable[..., Bench]) -> None:
    bench = make(max_queue=32 * MIB)
    names = [f"broadcast:{number}" for number in range(6)]
    for name in names:
        bench.redis.set(name, name.encode() + b" " + b"x" * MIB)
    bench.redis.set("broadcast:f", "small")
    with bench.held():
        large, small = bench.open(*names), bench.open("broadcast:f")
    assert small.receive() == "small"
    assert [str(large.receive()).split(" ")[0] for _ in names] == names


def test_what_is_too_long_to_be_fetched_is_left_out(
    make: Callable[..., Bench], server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(server, max_queue=64 * MIB)
    server.client.set("broadcast:long", b"x" * (17 * MIB))
    server.client.set("user:x:long", b"short")
    with caplog.at_level(logging.WARNING, "uws4r.link"):
        with bench.held():
            client, other = bench.open("user:x:long", "broadcast:long"), bench.open("user:x:long")
        assert client.receive() == other.receive() == "short"
        wait_until(lambda: bench.joined(bench.descriptors[client.sock]), "joined")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["broadcast:long" in warning for warning in warnings] == [True]
    server.client.publish("broadcast:long", "and so on")
    assert client.receive() == "and so on"
    assert bench.hub.keeper.links == 1


def test_whose_read_cuts_the_link_does_not_get_to_do_it_again_and_again(
    make: Callable[..., Bench], server: RedisServer
) -> None:
    server.client.config_set("client-output-buffer-limit", f"pubsub {MIB} {MIB} 60")
    server.client.set("broadcast:long", b"x" * (3 * MIB))
    bench = make(server, max_queue=64 * MIB)
    bystander = bench.join("broadcast:f")
    with bench.held():
        greedy, others = bench.open("broadcast:long"), [bench.open("broadcast:f") for _ in range(20)]
    frame = greedy.frame()
    assert (frame.opcode, frame.close_code) == (CLOSE, 1013)
    wait_until(lambda: all(bench.joined(bench.descriptors[client.sock]) for client in others), "all others have joined")
    assert bench.hub.keeper.links == 3  # the first, and one for each time
    bench.redis = server.client
    server.client.publish("broadcast:f", "news")
    assert [client.receive() for client in (bystander, *others)] == ["news"] * 21


def test_a_right_that_is_missing_closes_whoever_needs_it_and_nobody_else(
    make: Callable[..., Bench], server: RedisServer
) -> None:
    server.client.acl_setuser("default", enabled=True, reset_keys=True, keys=["broadcast:*"], nopass=True)
    server.client.set("broadcast:f", "kept")
    bench = make(server)
    with bench.held():
        refused, allowed = bench.open("other:f"), [bench.open("broadcast:f") for _ in range(3)]
    frame = refused.frame()
    assert (frame.opcode, frame.close_code, frame.payload[2:]) == (CLOSE, 1011, b"Redis refused")
    assert [client.receive() for client in allowed] == ["kept"] * 3


def test_what_is_no_string_is_no_message(bench: Bench) -> None:
    bench.redis.hset("broadcast:f", "a", "b")
    client = bench.join("broadcast:f")
    bench.redis.publish("broadcast:f", "a message")
    assert client.receive() == "a message"


def test_a_client_that_publishes_before_it_has_joined_does_not_get_it_back(bench: Bench) -> None:
    for number in range(20):
        name = f"broadcast:{number}"
        with bench.held():
            first = bench.open(name)
            clients = [bench.open(name, publish=(name,)) for _ in range(3)]
            for client in clients:
                client.send(f"of {client.sock.fileno()}")
        heard = [first.receive() for _ in range(3)]
        assert sorted(heard) == sorted(f"of {client.sock.fileno()}" for client in clients)
        for client in clients:
            own = f"of {client.sock.fileno()}"
            bench.redis.publish(name, "the end")
            received = []
            while (message := client.receive()) != "the end":
                received.append(message)
            assert own not in received
            for other in (first, *clients):
                if other is not client:
                    while other.receive() != "the end":
                        pass


def test_a_client_that_waits_for_its_place_answers_and_is_answered(
    make: Callable[..., Bench], server: RedisServer
) -> None:
    bench = make(server)
    client = bench.join("broadcast:f")
    server.client.execute_command("CLIENT", "PAUSE", "300", "ALL")  # Redis answers nobody
    waiting = [bench.open("broadcast:f") for _ in range(3)]
    wait_until(lambda: bench.hub.loop.count == 4, "open")
    client.ping()
    for each in waiting:
        each.send_raw(masked_frame(PING, b"here"))
        assert each.frame().payload == b"here"
    server.client.publish("broadcast:f", "news")
    for each in (client, *waiting):
        frame = each.frame()
        assert (frame.opcode, frame.payload) == (TEXT, b"news")


def test_a_client_that_leaves_while_it_waits_is_forgotten(make: Callable[..., Bench], server: RedisServer) -> None:
    bench = make(server)
    first = bench.join("broadcast:f")
    server.client.execute_command("CLIENT", "PAUSE", "300", "ALL")
    for _ in range(3):
        with bench.open("broadcast:g") as client:
            client.send_raw(masked_frame(TEXT, b"nobody hears it"))
    wait_until(lambda: bench.hub.loop.count == 1, "gone")
    server.client.publish("broadcast:f", "news")
    assert first.receive() == "news"
    wait_until(lambda: server.channels() == [b"broadcast:f"], "unsubscribed")
