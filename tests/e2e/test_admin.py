"""``manage.py uws4r``: what an administrator sees and does."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.servers import SITE, RedisServer, wait_until
from tests.support.site import Site, manage
from tests.support.wire import Refused

pytestmark = pytest.mark.e2e


def status(site: Site) -> list[dict[str, Any]]:
    return json.loads(manage(site.env, "uws4r", "status", "--json"))


def fails(site: Site, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, SITE / "manage.py", "uws4r", *arguments],
        env={**os.environ, **site.env}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_status_tells_of_every_worker(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(workers=2, redis=own_redis)
    clients = site.join_all_workers("/ws/f?subscribe-broadcast")
    clients[0].send("dropped: it publishes nowhere")
    clients[0].ping()
    for _ in range(2):
        with pytest.raises(Refused):
            site.connect("/ws/f", {"Origin": "http://evil.example"})
    clients[1].send_raw(b"\x81\x02hi")
    clients[1].receive_close()
    left = len(clients) - 1
    wait_until(lambda: sum(each["connections"] for each in status(site)) == left, "one is closed", timeout=40)
    workers = status(site)
    assert len({worker["pid"] for worker in workers}) == len(workers) == 2
    assert sum(worker["messages_in"] for worker in workers) == 1
    assert sum(worker["messages_out"] for worker in workers) == len(clients)
    assert [worker["channels"] for worker in workers] == [min(1, worker["connections"]) for worker in workers]
    assert {worker["link"] for worker in workers} == {"up"}
    assert {worker["queued"] for worker in workers} == {0}
    refused = [worker["refused"].get("403 This Origin may not open websockets here", 0) for worker in workers]
    assert sum(refused) == 2
    assert sum(worker["closed"].get("1002 unmasked frame", 0) for worker in workers) == 1
    table = manage(site.env, "uws4r", "status")
    head, *rows = table.splitlines()
    assert head.split()[:4] == ["host", "pid", "uptime", "connections"]
    assert sum(int(row.split()[3]) for row in rows[:2]) == len(clients) - 1
    assert any(re.fullmatch(r"refused +2  403 This Origin may not open websockets here", row) for row in rows)


def test_status_of_a_site_without_websockets(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis)
    assert status(site) == []
    assert "No worker has a hub" in manage(site.env, "uws4r", "status")


def test_status_without_redis_says_so(served: Callable[..., Site], own_redis: RedisServer) -> None:
    site = served(redis=own_redis)
    own_redis.stop()
    said = fails(site, "status")
    assert f"Redis (127.0.0.1:{own_redis.port}, database 0; WS4REDIS_CONNECTION) cannot be reached" in said


def test_a_site_with_a_prefix_is_asked_alone(served: Callable[..., Site], redis_server: RedisServer) -> None:
    site = served(settings={"WS4REDIS_PREFIX": "mine"})
    site.connect("/ws/f?subscribe-broadcast").ping()
    assert [worker["connections"] for worker in status(site)] == [1]
    assert redis_server.client.pubsub_numsub("mine:uws4r:control")[0][1] == 1


def test_kick_closes_a_user_a_session_a_facility(site: Site) -> None:
    session = site.log_in("john")
    path = "/ws/f?subscribe-user"

    def opened() -> dict[str, Any]:
        return {
            "john": site.connect(path, session=session),
            "mary": site.connect(path, session=site.log_in("mary")),
            "visitor": site.connect("/ws/caf%C3%A9?subscribe-broadcast"),
        }

    for arguments, kicked in (
        (("--user", "john"), {"john"}),
        (("--session", session), {"john"}),
        (("--facility", "caf\u00e9"), {"visitor"}),
        (("--user", "john", "--user", "mary"), {"john", "mary"}),
        (("--everybody",), {"john", "mary", "visitor"}),
        (("--user", "nobody"), set()),
    ):
        clients = opened()
        said = manage(site.env, "uws4r", "kick", *arguments)
        for name in kicked:
            close = clients[name].receive_close()
            assert (close.close_code, close.payload[2:]) == (4403, b"closed by an administrator")
        for name in clients.keys() - kicked:
            clients[name].ping()
        assert said.startswith(f"{len(kicked)} closed, in ")
        site.close_clients()


def test_kick_may_ask_them_to_come_back(site: Site) -> None:
    client = site.connect("/ws/back?subscribe-broadcast")
    manage(site.env, "uws4r", "kick", "--facility", "back", "--code", "1012")
    assert client.receive_close().close_code == 1012


def test_kick_wants_to_know_whom(site: Site) -> None:
    assert "whom? --user, --session, --facility or --everybody" in fails(site, "kick")
    assert "--code must be" in fails(site, "kick", "--everybody", "--code", "999")


@pytest.mark.parametrize(
    "order",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"do": "fly"}',
        b'{"do": "close", "users": 5}',
        b'{"do": "close", "code": "x"}',
        b'{"do": "close", "code": 1e999}',
        b'{"do": "close", "everybody": true, "code": 5}',
        b'{"do": "close", "everybody": true, "code": 4000, "reason": "' + b"x" * 200 + b'"}',
        b'{"do": "status", "reply_to": "\\ud800"}',
        b"[" * 100_000,
    ],
    ids=lambda order: ascii(order[:50]),
)
def test_what_is_no_order_does_no_harm(site: Site, order: bytes) -> None:
    client = site.connect("/ws/f?subscribe-broadcast&publish-broadcast&echo")
    site.redis.client.publish("uws4r:control", order)
    client.send("all well")
    assert client.receive() == "all well"


# ---------------------------------------------------------------- shares


def test_an_address_has_its_share(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_CONNECTIONS_PER_IP": 3, "UWS4R_PROXIES": ["127.0.0.1"]})
    mine = {"X-Forwarded-For": "203.0.113.7"}
    clients = [site.connect("/ws/f", mine) for _ in range(3)]
    with pytest.raises(Refused, match="429: b'Too many websockets of this address"):
        site.connect("/ws/f", mine)
    site.connect("/ws/f", {"X-Forwarded-For": "203.0.113.8"}).ping()
    clients[0].sock.close()

    def may() -> bool:
        try:
            site.connect("/ws/f", mine)
        except Refused:
            return False
        return True

    wait_until(may, "room again")
    assert not may()


def test_what_is_not_kept_is_counted(served: Callable[..., Site], own_redis: RedisServer) -> None:
    settings = {"UWS4R_KEEP_RATE_PER_WORKER": 1, "UWS4R_MAX_MESSAGE_SIZE": 1000}
    site = served(redis=own_redis, settings=settings)
    clients = [site.connect(f"/ws/{n}?subscribe-broadcast&publish-broadcast&echo") for n in range(20)]
    for client in clients:
        client.send("x" * 1000)
        assert client.receive() == "x" * 1000
    kept = sum(site.redis.client.get(f"broadcast:{n}") is not None for n in range(20))
    assert 1 <= kept < 15
    (worker,) = json.loads(manage(site.env, "uws4r", "status", "--json"))
    assert worker["not_kept"] == {"more than UWS4R_KEEP_RATE_PER_WORKER": 20 - kept}
    assert f"not_kept {20 - kept:>7}  more than UWS4R_KEEP_RATE_PER_WORKER" in manage(site.env, "uws4r", "status")
    told = [line for line in site.uwsgi.log.splitlines() if "allows: delivered, and not kept" in line]
    assert len(told) == 1
    assert " 127.0.0.1 - /ws/" in told[0]


def test_a_user_has_his_share(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_CONNECTIONS_PER_USER": 2})
    john, mary = site.log_in("john"), site.log_in("mary")
    for _ in range(2):
        site.connect("/ws/f?subscribe-user", session=john)
    with pytest.raises(Refused, match="429: b'Too many websockets of this user"):
        site.connect("/ws/f?subscribe-user", session=john)
    site.connect("/ws/f?subscribe-user", session=mary).ping()
    for _ in range(3):  # nobody is no user
        site.connect("/ws/f?subscribe-broadcast").ping()


def test_handshakes_that_fail_later_do_not_count(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_CONNECTIONS_PER_IP": 2})
    for _ in range(5):
        with pytest.raises(Refused):
            site.connect("/ws/f", {"Origin": "http://evil.example"})
    for _ in range(2):
        site.connect("/ws/f").ping()


def test_a_websocket_has_so_many_channels_at_most(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_CHANNELS": 3, "WS4REDIS_SUBSCRIBER": "testsite.subscribers.Tags"})
    site.connect("/ws/f?subscribe-tags=a,b&publish-broadcast").ping()
    with pytest.raises(Refused, match="400: b'A websocket may have at most 3 channels"):
        site.connect("/ws/f?subscribe-tags=a,b,c&publish-broadcast")


def test_a_facility_has_so_many_characters_at_most(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_FACILITY_LENGTH": 5})
    site.connect("/ws/caf%C3%A9s").ping()
    with pytest.raises(Refused, match="400: b'A facility has at most 5 characters"):
        site.connect("/ws/facility")


def test_a_client_may_not_send_faster_than_the_settings_say(served: Callable[..., Site]) -> None:
    site = served(settings={"UWS4R_MAX_MESSAGE_RATE": 1})
    client = site.connect("/ws/f?publish-broadcast")
    for number in range(20):
        client.send(f"{number}")
    assert client.receive_close().close_code == 1008
