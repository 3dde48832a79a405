"""Every way to reach Redis that docs/how-to/redis.md describes, with a real server behind it."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import override_settings

from tests.support.certificates import Certificates, make_certificates
from tests.support.sentinel import NAME, SentinelSetup
from tests.support.servers import ROOT, RedisServer, free_port, wait_until
from tests.support.site import Site
from uws4r import redis_probe
from uws4r.diagnosis import OK
from uws4r.errors import ConfigurationError, QueueError
from uws4r.publisher import RedisPublisher
from uws4r.redis_clients import site_client

HOW_TO = (ROOT / "docs" / "how-to" / "redis.md").read_text()
RECIPE = next(line for line in HOW_TO.splitlines() if line.startswith("ACL SETUSER mysite"))

Served = Callable[..., Site]


def talks(site: Site, facility: str = "f") -> None:
    """A publisher's message reaches a browser, and a browser's another; both are kept."""
    client = site.connect(f"/ws/{facility}?subscribe-broadcast&publish-broadcast&echo")
    client.send("from a browser")
    assert client.receive() == "from a browser"
    assert site.request("POST", "/publish/", f"facility={facility}&audience=broadcast&message=hello").status == 200
    assert client.receive() == "hello"
    late = site.connect(f"/ws/{facility}?subscribe-broadcast")
    assert late.receive() == "hello"
    site.close_clients()
    site.uwsgi.assert_healthy()


# ---------------------------------------------------------------- users with few rights


@pytest.fixture
def rights(own_redis: RedisServer) -> Iterator[Callable[..., dict[str, Any]]]:
    """Applies a line of the documentation; returns the connection of its user."""

    def apply(line: str) -> dict[str, Any]:
        own_redis.client.execute_command(*line.split())
        return {"host": "127.0.0.1", "port": own_redis.port, "username": "mysite", "password": "a-long-password"}

    yield apply
    own_redis.client.execute_command("ACL", "DELUSER", "mysite")


def test_the_recipe_for_a_user_is_enough(served: Served, own_redis: RedisServer, rights: Any) -> None:
    site = served(redis=own_redis, settings={"WS4REDIS_CONNECTION": rights(RECIPE), "WS4REDIS_PREFIX": "mysite"})
    talks(site)
    assert "NOPERM" not in site.uwsgi.log
    assert own_redis.client.acl_log() == [] or {entry["object"] for entry in own_redis.client.acl_log()} == {
        "client|setinfo"  # redis-py tells its version where it may
    }


def test_nothing_in_the_recipe_is_more_than_enough(own_redis: RedisServer, rights: Any) -> None:
    """Without any one of its rights something fails: what the doctor tries, or to connect at all."""
    *head, _, _ = RECIPE.partition("~")
    granted = RECIPE.removeprefix(head[0]).split()
    assert len(granted) == 10
    for missing in (None, *granted):
        own_redis.client.execute_command(*RECIPE.split())
        without = " ".join(right for right in granted if right != missing)
        connection = rights(f"{head[0]}{without}")
        with override_settings(WS4REDIS_CONNECTION=connection, WS4REDIS_PREFIX="mysite"):
            findings = [redis_probe.of_server(5), redis_probe.of_permissions("doctor", 5)]
            right = all(finding.state == OK for finding in findings)
            site_client().connection_pool.disconnect()
        assert right == (missing is None), (missing, findings)


def test_the_names_of_a_site_without_a_prefix(served: Served, own_redis: RedisServer, rights: Any) -> None:
    keys, channels = re.findall(r"\| no prefix \| `(.*?)` in place of `~mysite:\*`, `(.*?)` in place", HOW_TO)[0]
    line = RECIPE.replace("~mysite:*", keys).replace("&mysite:*", channels)
    site = served(redis=own_redis, settings={"WS4REDIS_CONNECTION": rights(line)})
    talks(site)
    assert "NOPERM" not in site.uwsgi.log
    assert own_redis.subscriptions("uws4r:control") == 1


def test_another_database_needs_one_right_more(served: Served, own_redis: RedisServer, rights: Any) -> None:
    more = re.findall(r"\| a database other than 0 \| `(.*?)` \|", HOW_TO)[0]
    connection = {**rights(f"{RECIPE} {more}"), "db": 3}
    talks(served(redis=own_redis, settings={"WS4REDIS_CONNECTION": connection, "WS4REDIS_PREFIX": "mysite"}))
    with redis.Redis(port=own_redis.port, db=3) as client:
        assert client.get("mysite:broadcast:f") == b"hello"


# ---------------------------------------------------------------- commands that are not there


@pytest.mark.parametrize("options", [("CLIENT", "CONFIG"), ("INFO", "PUBSUB")], ids=" ".join)
def test_what_somebody_who_runs_redis_for_others_takes_away(served: Served, tmp_path: Path, options: Any) -> None:
    renamed = [word for command in options for word in ("--rename-command", command, "")]
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(directory, options=tuple(renamed))
    try:
        site = served(redis=server)
        talks(site)
        assert "unknown command" not in site.uwsgi.log
        assert "refused" not in site.uwsgi.log
    finally:
        server.close()


def test_a_worker_does_not_start_with_a_redis_in_cluster_mode(
    served: Served, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Nothing would work but by chance: it is said before the first client comes."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(directory, options=("--cluster-enabled", "yes", "--cluster-port", str(free_port())))
    try:
        with pytest.raises(AssertionError, match="runs in cluster mode") as caught:
            served(settings={"WS4REDIS_CONNECTION": server.url})
        assert "WS4REDIS_CONNECTION: a Redis without cluster mode" in str(caught.value)
    finally:
        server.close()


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_port(own_redis: RedisServer, certificates: Certificates) -> int:
    """A port of the Redis where it speaks TLS, and to nobody whose certificate it does not know."""
    port = free_port()
    for name, value in (
        ("tls-ca-cert-file", certificates.ca),
        ("tls-cert-file", certificates.certificate),
        ("tls-key-file", certificates.key),
        ("tls-auth-clients", "yes"),
        ("tls-port", port),
    ):
        own_redis.client.config_set(name, str(value))
    return port


@pytest.mark.parametrize("form", ["dictionary", "url"])
def test_tls_with_a_ca_of_ones_own_and_a_certificate_for_the_client(
    served: Served, own_redis: RedisServer, tls_port: int, certificates: Certificates, form: str
) -> None:
    files = {
        "ssl_ca_certs": str(certificates.ca),
        "ssl_certfile": str(certificates.client_certificate),
        "ssl_keyfile": str(certificates.client_key),
    }
    url = f"rediss://localhost:{tls_port}/0"
    query = "&".join(f"{name}={value}" for name, value in files.items())
    site = served(
        redis=own_redis,
        settings={"WS4REDIS_CONNECTION": {"url": url, **files} if form == "dictionary" else f"{url}?{query}"},
    )
    talks(site)
    # Over an outage, too.
    client = site.connect("/ws/f?subscribe-broadcast&publish-broadcast&echo")
    assert client.receive() == "hello"
    own_redis.client.client_kill_filter(_type="pubsub")
    client.send("still there")
    assert client.receive() == "still there"


@pytest.mark.parametrize("wrong", ["no certificate of the client", "unknown CA", "another host"])
def test_tls_that_does_not_agree_is_a_clear_error(
    own_redis: RedisServer, tls_port: int, certificates: Certificates, wrong: str
) -> None:
    connection = {
        "host": "localhost",
        "port": tls_port,
        "ssl": True,
        "ssl_ca_certs": str(certificates.ca),
        "ssl_certfile": str(certificates.client_certificate),
        "ssl_keyfile": str(certificates.client_key),
    }
    if wrong == "unknown CA":
        del connection["ssl_ca_certs"]
    elif wrong == "another host":
        connection["host"] = "127.0.0.2"
        own_redis.client.config_set("bind", "127.0.0.1 127.0.0.2")
    else:
        del connection["ssl_certfile"], connection["ssl_keyfile"]
    with override_settings(WS4REDIS_CONNECTION=connection), pytest.raises(QueueError, match="cannot be reached"):
        RedisPublisher(facility="f", broadcast=True).publish_message("m")


# ---------------------------------------------------------------- the cache's Redis


@pytest.mark.parametrize("backend", ["django", "django with options", "django-redis"])
def test_the_redis_of_the_cache(served: Served, own_redis: RedisServer, backend: str) -> None:
    own_redis.client.config_set("requirepass", "secret")
    own_redis.client.connection_pool.connection_kwargs["password"] = "secret"  # noqa: S105
    address = f"127.0.0.1:{own_redis.port}"
    entry = {
        "django": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"redis://:secret@{address}/2, redis://replica:1/2",
        },
        "django with options": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": [f"redis://{address}"],
            "OPTIONS": {"db": 2, "password": "secret", "pool_class": "redis.BlockingConnectionPool"},
        },
        "django-redis": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://{address}/2",
            "OPTIONS": {"PASSWORD": "secret", "CONNECTION_POOL_KWARGS": {"socket_keepalive": True}},
        },
    }[backend]
    settings = {"WS4REDIS_CONNECTION": {"cache": "default"}, "WS4REDIS_PREFIX": "site", "CACHES": {"default": entry}}
    talks(served(redis=own_redis, settings=settings))
    with redis.Redis(port=own_redis.port, db=2, password="secret") as client:  # noqa: S106
        assert client.get("site:broadcast:f") == b"hello"


def test_arguments_beside_the_cache_and_an_entry_that_changes(own_redis: RedisServer) -> None:
    entry = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"redis://127.0.0.1:{own_redis.port}/2",
    }
    with override_settings(WS4REDIS_CONNECTION={"cache": "other"}, CACHES={"other": entry}):
        RedisPublisher(facility="f", broadcast=True).publish_message("two")
        with override_settings(WS4REDIS_CONNECTION={"cache": "other", "socket_timeout": 1, "db": 5}):
            arguments = site_client().connection_pool.connection_kwargs
            assert (arguments["socket_timeout"], arguments["db"]) == (1, 2)  # what the URL says comes first
        with override_settings(CACHES={"other": {**entry, "LOCATION": f"redis://127.0.0.1:{own_redis.port}/4"}}):
            RedisPublisher(facility="f", broadcast=True).publish_message("four")
    for number, message in ((2, b"two"), (4, b"four")):
        with redis.Redis(port=own_redis.port, db=number) as client:
            assert client.get("broadcast:f") == message


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}, "is no Redis"),
        ({"BACKEND": "no.such.Cache"}, "cannot be imported"),
        ({"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "localhost"}, "must be a URL"),
    ],
)
def test_a_cache_that_is_no_redis_is_named(entry: dict[str, Any], said: str) -> None:
    with (
        override_settings(WS4REDIS_CONNECTION={"cache": "default"}, CACHES={"default": entry}),
        pytest.raises(ConfigurationError, match=said),
    ):
        RedisPublisher()


# ---------------------------------------------------------------- Sentinel


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[SentinelSetup]:
    directory = tmp_path / "sentinel"
    directory.mkdir()
    made = SentinelSetup(directory)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["setting", "django-redis"])
def test_links_and_publishers_follow_the_sentinels(served: Served, setup: SentinelSetup, form: str) -> None:
    settings: dict[str, Any] = {"WS4REDIS_CONNECTION": setup.connection}
    if form == "django-redis":
        entry = {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://{NAME}/0",
            "OPTIONS": {
                "CLIENT_CLASS": "django_redis.client.SentinelClient",
                "SENTINELS": setup.connection["sentinels"],
            },
        }
        settings = {"WS4REDIS_CONNECTION": {"cache": "default"}, "CACHES": {"default": entry}}
    site = served(redis=setup.master, settings=settings)
    client = site.join("/ws/f?subscribe-broadcast&publish-broadcast&echo")
    assert site.request("POST", "/publish/", "facility=f&audience=broadcast&message=before").status == 200
    assert client.receive() == "before"
    setup.kill_master()
    client.send("meanwhile")
    wait_until(setup.promoted, "promoted", timeout=30)
    promoted = time.monotonic()
    assert client.receive() == "meanwhile"
    followed = time.monotonic() - promoted

    def published() -> bool:
        return site.request("POST", "/publish/", "facility=f&audience=broadcast&message=after").status == 200

    wait_until(published, "published", timeout=5)
    assert time.monotonic() - promoted < 5
    assert followed < 5
    assert client.receive() == "after"
    assert setup.replica.client.get("broadcast:f") == b"after"


@pytest.mark.slow
def test_sentinels_that_are_not_there_cost_a_second_each(setup: SentinelSetup) -> None:
    """And the next time the one is asked first that has known the master."""
    silent = free_port()
    with (
        redis.Redis(port=setup.ports[0]) as first,
        override_settings(
            WS4REDIS_CONNECTION={
                **setup.connection,
                "sentinels": [("127.0.0.1", silent), *map(tuple, setup.connection["sentinels"])],
            }
        ),
    ):
        first.execute_command("CLIENT", "PAUSE", "20000")  # answers nobody for 20 s
        publisher = RedisPublisher(facility="f", broadcast=True)
        begin = time.monotonic()
        publisher.publish_message("m")
        assert 0.9 < time.monotonic() - begin < 2.5
        site_client().connection_pool.disconnect()
        begin = time.monotonic()
        publisher.publish_message("m")
        assert time.monotonic() - begin < 0.5


def test_no_sentinel_is_a_clear_error_within_a_bounded_time() -> None:
    connection = {"sentinels": [("127.0.0.1", free_port()), ("127.0.0.1", free_port())], "service_name": "no"}
    begin = time.monotonic()
    with (
        override_settings(WS4REDIS_CONNECTION=connection),
        pytest.raises(QueueError, match="the sentinels' master 'no'"),
    ):
        RedisPublisher(facility="f", broadcast=True).publish_message("m")
    assert time.monotonic() - begin < 3
