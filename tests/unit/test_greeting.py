"""How a connection to Redis begins: its name costs nothing where it cannot be told, a cluster is refused in words."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import override_settings
from redis.crc import key_slot

from tests.support.servers import RedisServer, free_port, wait_until
from uws4r import redis_probe
from uws4r.diagnosis import FAILED, OK
from uws4r.errors import ConfigurationError, QueueRefused, RedisUnfit
from uws4r.link import open_connection, require_master
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import link_connection, site_client
from uws4r.worker import reach_redis

Start = Callable[..., RedisServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[RedisServer] = []

    def begin(*options: str) -> RedisServer:
        directory = tmp_path / str(len(servers))
        directory.mkdir()
        servers.append(RedisServer(directory, options=options))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def publishes() -> None:
    with site_client().pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("broadcast:f")
        listener.get_message(timeout=5)
        assert RedisPublisher(facility="f", broadcast=True).publish_message("m") == 1
    assert RedisPublisher().fetch_message(None, "f") == b"m"


def name_of_a_link() -> tuple[bytes | str | None, Any]:
    connection = link_connection()
    open_connection(connection)
    require_master(connection)
    connection.send_command("CLIENT", "GETNAME")
    try:
        return connection.read_response(), connection
    except redis.ResponseError:
        return None, connection


# ---------------------------------------------------------------- without CLIENT


@pytest.mark.parametrize("client_name", [None, "mysite"])
@pytest.mark.parametrize("without", ["rename-command", "ACL"])
def test_a_redis_without_client_is_as_good_as_any(start: Start, without: str, client_name: str | None) -> None:
    """CLIENT is needed for nothing but a name; some who run Redis for others take it away."""
    server = start(*(("--rename-command", "CLIENT", "") if without == "rename-command" else ()))
    connection: dict[str, Any] = {"host": "127.0.0.1", "port": server.port}
    if without == "ACL":
        server.client.execute_command("ACL", "SETUSER", "few", "on", ">x", "~*", "&*", "+@all", "-client")
        connection.update(username="few", password="x")  # noqa: S106
    if client_name is not None:
        connection["client_name"] = client_name
    with override_settings(WS4REDIS_CONNECTION=connection):
        with pytest.raises(redis.ResponseError):
            site_client().client_list()
        name, link = name_of_a_link()
        assert name is None
        link.disconnect()
        reach_redis()
        publishes()
        assert redis_probe.of_server(5).state == OK
        assert redis_probe.of_permissions("doctor", 5).state == OK
        site_client().connection_pool.disconnect()


def test_the_name_is_told_where_it_can_be(own_redis: RedisServer) -> None:
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": own_redis.port, "client_name": "mysite"}):
        name, link = name_of_a_link()
        assert name == b"uws4r"
        assert [client["name"] for client in own_redis.links()] == ["uws4r"]
        link.disconnect()
        assert site_client().client_getname() in (b"mysite", "mysite")
        site_client().connection_pool.disconnect()
        assert site_client().client_getname() in (b"mysite", "mysite")  # of a connection made anew, too
        site_client().connection_pool.disconnect()


def test_a_name_that_redis_does_not_take_costs_nothing(own_redis: RedisServer) -> None:
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": own_redis.port, "client_name": "my site"}):
        publishes()
        site_client().connection_pool.disconnect()


def test_what_a_site_does_when_a_connection_begins_is_done(own_redis: RedisServer) -> None:
    begun = []

    def begin(connection: Any) -> None:
        begun.append(connection)
        connection.on_connect()

    setting = {"host": "127.0.0.1", "port": own_redis.port, "redis_connect_func": begin}
    with override_settings(WS4REDIS_CONNECTION=setting):
        _, link = name_of_a_link()
        assert begun == [link]
        link.disconnect()
        publishes()
        assert len(begun) > 1
        site_client().connection_pool.disconnect()


# ---------------------------------------------------------------- cluster mode


def node(start: Start) -> RedisServer:
    return start("--cluster-enabled", "yes", "--cluster-port", str(free_port()))


def cluster(start: Start) -> RedisServer:
    """A cluster of one node, which has all slots."""
    server = node(start)
    server.client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))

    def up() -> bool:
        try:
            return not server.client.exists("some")
        except redis.ResponseError:
            return False

    wait_until(up, "the cluster is up")
    return server


def test_cluster_mode_is_said_at_the_start_and_by_the_doctor(start: Start) -> None:
    server = cluster(start)
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": server.port}):
        with pytest.raises(ConfigurationError, match=r"runs in cluster mode.*Change: WS4REDIS_CONNECTION"):
            reach_redis()
        finding = redis_probe.of_server(5)
        assert finding.state == FAILED
        assert "cluster mode" in finding.means
        assert "WS4REDIS_PREFIX" in finding.change
        with pytest.raises(QueueRefused, match="cluster mode") as caught:
            RedisPublisher(facility="f", broadcast=True, users=["a", "b"]).publish_message("secret")
        assert "secret" not in str(caught.value)
        site_client().connection_pool.disconnect()


def test_a_database_in_cluster_mode_is_said_too(start: Start) -> None:
    """SELECT fails before anything else can be asked."""
    server = cluster(start)
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": server.port, "db": 1}):
        with pytest.raises(ConfigurationError, match="runs in cluster mode"):
            reach_redis()
        assert "cluster mode" in redis_probe.of_server(5).means


def test_a_hash_tag_keeps_all_names_on_one_node(start: Start) -> None:
    server = cluster(start)
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": server.port}, WS4REDIS_PREFIX="{mysite}"):
        reach_redis()
        assert redis_probe.of_server(5).state == OK
        assert redis_probe.of_permissions("doctor", 5).state == OK
        RedisPublisher(facility="f", broadcast=True, users=["a", "b"], groups=["c"]).publish_message("m")
        assert RedisPublisher().fetch_message(None, "f") == b"m"
        site_client().connection_pool.disconnect()


def test_the_node_has_to_be_the_one_that_has_them(start: Start) -> None:
    slot = key_slot(b"mysite")
    server = node(start)
    other = node(start)
    bus = int(other.client.config_get("cluster-port")["cluster-port"])
    server.client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
    other.client.execute_command("CLUSTER", "ADDSLOTS", slot)
    server.client.execute_command("CLUSTER", "ADDSLOTS", *(number for number in range(16384) if number != slot))

    def served() -> bool:
        try:
            other.client.get("{mysite}:x")
            server.client.get("{mysite}:x")
        except redis.ResponseError as error:
            return type(error).__name__ == "MovedError" or "MOVED" in str(error)
        return False

    wait_until(served, "the nodes know each other", timeout=30)
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": server.port}, WS4REDIS_PREFIX="{mysite}"):
        with pytest.raises(RedisUnfit, match=f"not the one that has the names of this site.*{other.port}"):
            reach_redis()
        assert str(other.port) in redis_probe.of_server(5).seen
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": other.port}, WS4REDIS_PREFIX="{mysite}"):
        reach_redis()


@pytest.mark.parametrize("prefix", ["", "mysite", "{}mysite", "my{site", "my}site{"])
def test_braces_without_anything_in_them_are_no_hash_tag(start: Start, prefix: str) -> None:
    server = node(start)
    with (
        override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": server.port}, WS4REDIS_PREFIX=prefix),
        pytest.raises(RedisUnfit, match="cluster mode"),
    ):
        reach_redis()
