"""Clients that publish while Redis is away, or slower than they are: what waits in the worker has a bound in bytes."""

import time
from typing import Any

from tests.soak.fragments import code_of
from tests.support.process import allocated, pss, worker_pid
from tests.support.servers import wait_until
from tests.support.site import Site
from tests.support.wire import BINARY, Client, masked_frame

PATH = "/ws/waiting?publish-broadcast"
MESSAGE = 1 << 19  # bytes
BUFFER = 16 << 20  # UWS4R_PUBLISH_BUFFER_SIZE's default


def redis_away(site: Site, clients: int) -> dict[str, Any]:
    """So many clients publish messages of half a MiB while Redis is away; what is too much closes with 1013."""
    pid = worker_pid(site)
    opened: list[Client] = [site.connect(PATH) for _ in range(clients)]
    for client in opened:
        client.ping()
    before, kib = allocated(site), pss(pid)
    site.redis.stop()
    try:
        wait_until(lambda: "the link to Redis is lost" in site.uwsgi.log, "no link")
        begin = time.monotonic()
        data = masked_frame(BINARY, b"x" * MESSAGE)
        for _ in range(3):
            for client in opened:
                try:
                    client.send_raw(data)
                except OSError:
                    pass  # closed already
        codes = [code_of(client) for client in opened]
        took = time.monotonic() - begin
        grown, grown_kib = allocated(site) - before, pss(pid) - kib
    finally:
        site.redis.start()
    assert set(codes) <= {0, 1013}, codes
    assert codes.count(1013) > clients // 2, codes
    assert grown < BUFFER + (4 << 20), f"{grown} bytes wait"
    site.close_clients()
    site.uwsgi.assert_healthy()
    return {
        "clients": clients,
        "sent MiB": 3 * clients * MESSAGE >> 20,
        "waits MiB": round(grown / (1 << 20), 1),
        "in PSS": grown_kib >> 10,
        "closed with 1013": codes.count(1013),
        "seconds": round(took, 1),
    }
