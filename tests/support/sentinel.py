"""A master, its replica, and the sentinels that promote the one when the other has gone."""

import shutil
import signal
from pathlib import Path
from typing import Any

import redis

from tests.support.servers import Process, RedisServer, free_port, wait_until

NAME = "mymaster"


class SentinelSetup:
    """All of it on loopback; three sentinels of which two have to agree."""

    def __init__(self, directory: Path) -> None:
        self.servers: list[RedisServer] = []
        for name in ("first", "second"):
            (directory / name).mkdir()
            self.servers.append(RedisServer(directory / name, options=("--repl-diskless-sync-delay", "0")))
        first, second = self.servers
        second.client.replicaof("127.0.0.1", str(first.port))
        wait_until(lambda: second.client.info("replication")["master_link_status"] == "up", "in sync")
        self.master, self.replica = first, second
        self.ports = [free_port() for _ in range(3)]
        self.clients = [redis.Redis(port=port, protocol=2) for port in self.ports]
        self.processes = []
        for port in self.ports:
            place = directory / f"sentinel-{port}"
            place.mkdir()
            config = place / "sentinel.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {place}\n"
                f"sentinel monitor {NAME} 127.0.0.1 {first.port} 2\n"
                f"sentinel down-after-milliseconds {NAME} 1000\n"
                f"sentinel failover-timeout {NAME} 5000\n"
            )
            program = shutil.which("redis-server") or "redis-server"
            self.processes.append(Process([program, config, "--sentinel"], place / "log"))
        wait_until(self._ready, "the sentinels know each other and the replica", timeout=30)

    def _ready(self) -> bool:
        try:
            states: Any = [client.sentinel_master(NAME) for client in self.clients]
        except redis.RedisError:
            return False
        return all(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 for state in states)

    @property
    def connection(self) -> dict[str, Any]:
        """What ``WS4REDIS_CONNECTION`` is."""
        return {"sentinels": [["127.0.0.1", port] for port in self.ports], "service_name": NAME}

    def promoted(self) -> bool:
        """Whether the other one is master now."""
        try:
            return bool(self.replica.client.info("replication")["role"] == "master")
        except redis.RedisError:
            return False

    def known(self) -> bool:
        """Whether a sentinel names the other one."""
        addresses: Any = [client.sentinel_get_master_addr_by_name(NAME) for client in self.clients]
        return any(address is not None and address[1] == self.replica.port for address in addresses)

    def kill_master(self) -> None:
        self.master.stop(signal.SIGKILL)

    def fail_over(self) -> None:
        """Have the sentinels make the replica the master, with nobody dead."""
        wait_until(self._fails_over, "a sentinel that takes the order")

    def _fails_over(self) -> bool:
        try:
            return bool(self.clients[0].sentinel_failover(NAME))
        except redis.ResponseError as error:  # INPROG, NOGOODSLAVE: just after another one
            return "INPROG" in str(error)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.stop(signal.SIGTERM)
        for server in self.servers:
            server.close()
