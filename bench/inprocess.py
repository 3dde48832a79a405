"""What is measured inside a process: the publisher, its import, and how often a message is compressed."""

import json
import resource
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace


def publish(port: int) -> dict[str, float]:
    """Microseconds of publish_message, and of the pipeline that it has to send, in turns."""
    import django
    import redis

    django.setup()
    from uws4r.publisher import RedisPublisher

    publisher = RedisPublisher(facility="bench", broadcast=True)
    client = redis.Redis(port=port)
    message = "." * 128

    def bare() -> None:
        with client.pipeline(transaction=True) as pipeline:
            pipeline.publish("broadcast:bench", message)
            pipeline.set("broadcast:bench", message, ex=3600)
            pipeline.execute()

    def timed(act: object, times: int = 200) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            act()  # type: ignore[operator]
        return (time.perf_counter() - begin) / times * 1e6

    def ours() -> None:
        publisher.publish_message(message)

    timed(bare), timed(ours)
    pairs = [(timed(ours), timed(bare)) for _ in range(15)]
    return {"ours": median(pair[0] for pair in pairs), "bare": median(pair[1] for pair in pairs)}


def imported() -> dict[str, float]:
    """Milliseconds of the import."""
    import django

    django.setup()
    begin = time.perf_counter()
    import uws4r.publisher  # noqa: F401

    return {"ms": (time.perf_counter() - begin) * 1000}


def deflate(port: int) -> dict[str, int]:
    """How often one message is compressed for a thousand clients who agreed on it."""
    from tests.support.hubs import Bench
    from tests.support.servers import wait_until
    from tests.support.wire import Client
    from uws4r.attachment import HubOptions

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = SimpleNamespace(port=port, client=None)
    bench = Bench(server, HubOptions())  # type: ignore[arg-type]
    try:
        clients: list[Client] = [bench.open("broadcast:deflate", window=15) for _ in range(1000)]
        loop = bench.hub.loop
        wait_until(
            lambda: bench.call(lambda: loop.count == 1000 and all(c.attachment is None for c in loop.connections)),
            "all have joined",
        )
        text = "something to compress, " * 100
        import redis

        redis.Redis(port=port).publish("broadcast:deflate", text)
        assert all(client.frame().payload.decode() == text for client in clients)
        return {"compressed": bench.hub.fanout.compressed}
    finally:
        bench.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    what, port = sys.argv[1], int(sys.argv[2])
    figures = {"publish": lambda: publish(port), "import": imported, "deflate": lambda: deflate(port)}[what]()
    print(json.dumps(figures))
