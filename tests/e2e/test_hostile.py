"""A server that hostile clients cannot hurt: the small form of ``./build.sh soak``, of the same functions."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.soak import (
    churn,
    fragments,
    greedy,
    handshakes,
    heads,
    herd,
    keep,
    marks,
    names,
    noise,
    slow,
    vanishing,
    volume,
    waiting,
    windows,
)
from tests.support.modes import serve_in, stop
from tests.support.servers import ROOT, RedisServer
from tests.support.site import Site

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def fronts(redis_server: RedisServer, database: Path) -> Iterator[dict[str, Site]]:
    with handshakes.fronts(redis_server, database) as sites:
        yield sites


@pytest.mark.malloc
def test_a_client_that_does_not_read_costs_its_queue_and_nothing_when_it_is_closed(served: Callable[..., Site]) -> None:
    print(slow.queue_limit(served(options=slow.OPTIONS), messages=2400))


def test_nobody_waits_for_slow_clients(served: Callable[..., Site]) -> None:
    print(slow.latencies(served(options=slow.OPTIONS), rounds=5, messages=200))


def test_clients_that_go_without_a_word_are_found_out_and_dropped(served: Callable[..., Site]) -> None:
    print(vanishing.ways_to_go(served))


def test_fragments_of_two_hundred_clients_do_not_meet(served: Callable[..., Site]) -> None:
    print(marks.marked_messages(served(), clients=200, messages=5000, seed=random.randrange(1 << 32)))


def test_random_frames_hurt_nobody_else(served: Callable[..., Site]) -> None:
    print(noise.random_frames(served(), seconds=5, seed=random.randrange(1 << 32)))


@pytest.mark.malloc
def test_a_message_without_end_is_1009_and_its_memory_is_free_again(served: Callable[..., Site]) -> None:
    print(fragments.endless(served(), clients=20))


@pytest.mark.malloc
def test_fragments_of_one_byte_cost_at_most_twice_their_number(served: Callable[..., Site]) -> None:
    print(fragments.one_byte_fragments(served(), clients=500))


@pytest.mark.parametrize(("addresses", "each"), [(1, 4), (8, 1)])
@pytest.mark.parametrize("forwarded", [False, True], ids=["directly", "through a proxy"])
def test_strangers_do_not_fill_redis(
    served: Callable[..., Site], own_redis: RedisServer, addresses: int, each: int, forwarded: bool
) -> None:
    site = served(redis=own_redis, settings=keep.PROXY if forwarded else {}, options=("--disable-logging",))
    print(keep.flood(site, 4, random.randrange(1 << 32), addresses, each, forwarded))


def test_strangers_do_not_fill_redis_through_a_subscriber_class(
    served: Callable[..., Site], own_redis: RedisServer
) -> None:
    settings = {"WS4REDIS_SUBSCRIBER": "testsite.subscribers.Slow"}
    print(keep.flood(served(redis=own_redis, settings=settings), 4, random.randrange(1 << 32)))


def test_a_message_for_several_audiences_counts_for_each(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, workers=2, options=("--disable-logging",))
    print(keep.flood(site, 4, random.randrange(1 << 32), session=site.log_in("john")))


@pytest.mark.malloc
def test_a_compressed_message_without_end_takes_what_was_sent_and_has_a_deadline(served: Callable[..., Site]) -> None:
    print(fragments.compressed_without_end(served(settings=fragments.DEADLINE), clients=100))


@pytest.mark.malloc
def test_unfinished_messages_have_a_budget(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_RECEIVE_BUFFER": 16 << 20})
    print(fragments.unfinished(site, clients=40, budget=16 << 20))


@pytest.mark.alone
@pytest.mark.parametrize("kind", list(greedy.kinds()))
def test_nobody_waits_for_clients_that_send_all_the_time(served: Callable[..., Site], kind: str) -> None:
    site = served(settings=greedy.PINGS, options=("--disable-logging",))
    print(greedy.beside(site, kind, clients=50, seconds=5))


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["gevent", "native"])
def test_nor_in_any_other_mode(tmp_path: Path, redis_server: RedisServer, database: Path, mode: str) -> None:
    site = serve_in(mode, tmp_path, redis_server, database, workers=1, settings=greedy.PINGS)
    try:
        print(greedy.beside(site, "messages", clients=50, seconds=5))
    finally:
        stop(site)


@pytest.mark.alone
def test_nor_in_front_of_them(fronts: dict[str, Site]) -> None:
    print(volume.through(fronts["nginx"], clients=100, seconds=5))


def test_a_herd_does_not_cut_the_link(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, settings=herd.SETTINGS)
    print(herd.herd(site, facilities=60, clients=120, rounds=2))


@pytest.mark.malloc
def test_what_waits_for_redis_has_a_bound_in_bytes(served: Callable[..., Site], own_redis: RedisServer) -> None:
    print(waiting.redis_away(served(redis=own_redis), clients=60))


@pytest.mark.malloc
def test_three_thousand_connections_leave_nothing(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis, options=("--disable-logging",))
    print(churn.churn(site, connections=3000, seed=random.randrange(1 << 32)))


def test_whatever_windows_are_asked_for_a_message_is_compressed_twice(
    served: Callable[..., Site], own_redis: RedisServer
) -> None:
    print(windows.every_window(served(redis=own_redis), messages=20))


@pytest.mark.malloc
def test_no_name_of_a_handshake_is_kept(served: Callable[..., Site]) -> None:
    print(names.new_names(served(settings=names.SETTINGS, options=names.OPTIONS), handshakes=3000))


@pytest.mark.parametrize("front", ["emperor", "nginx"])
def test_half_sent_handshakes_do_not_keep_a_new_client_waiting(fronts: dict[str, Site], front: str) -> None:
    print(handshakes.half_sent_handshakes(fronts[front], halves=500, idle=500))


@pytest.mark.parametrize("front", ["emperor", "nginx"])
def test_request_heads_that_drip_do_not_keep_a_new_client_waiting(fronts: dict[str, Site], front: str) -> None:
    print(heads.dripping_heads(fronts[front], count=1200, seconds=2))


@pytest.mark.parametrize("count", [2, 20, 200])
@pytest.mark.parametrize("front", ["emperor", "nginx"])
def test_slow_uploads_do_not_either(fronts: dict[str, Site], front: str, count: int) -> None:
    print(heads.slow_uploads(fronts[front], count, seconds=2))


def test_on_a_bare_http_socket_they_do_for_the_socket_timeout(served: Callable[..., Site]) -> None:
    print(handshakes.bare_http_socket(served, seconds=1))
    print(handshakes.bare_http_socket(served, seconds=4))


@pytest.mark.parametrize("name", ["emperor/uwsgi.ini", "vassals/wsserver.ini", "vassals/runserver.ini"])
def test_the_shipped_files_bound_the_time_of_a_half_sent_request(name: str) -> None:
    assert "\nsocket-timeout = 4\n" in (ROOT / name).read_text()
