"""Every way to serve websockets without anything in front."""

import signal
from pathlib import Path
from typing import Any

from tests.support.native import native
from tests.support.runserver import RunServer
from tests.support.servers import RedisServer
from tests.support.site import Site, serve

MODES: dict[str, dict[str, Any]] = {
    "prefork": {},
    "threads": {"options": ("--threads", "4")},
    "websockets only": {"module": "uws4r.wsgi:application"},
    "gevent": {"options": ("--gevent", "50")},
    "gevent, patched": {"options": ("--gevent", "50"), "module": "testsite.patched_wsgi:application"},
    "native": {},
}


def serve_in(
    mode: str,
    directory: Path,
    redis: RedisServer,
    database: Path,
    *,
    workers: int = 2,
    settings: dict[str, Any] | None = None,
    options: tuple[str, ...] = (),
    slots: int = 1000,
) -> Site:
    """
    The site of the tests in a mode, or in ``runserver``.

    Args:
        slots: Of a worker in native mode.
    """
    if mode == "runserver":
        return RunServer(directory, redis, database, "--noreload", settings=settings)
    arguments = {**(native(slots) if mode == "native" else MODES[mode])}
    arguments["settings"] = {**arguments.get("settings", {}), **(settings or {})}
    arguments["options"] = (*arguments.get("options", ()), *options)
    return serve(directory, redis, database, workers=workers, **arguments)


def stop(site: Site) -> None:
    """End what :func:`serve_in` has started."""
    site.close_clients()
    if isinstance(site, RunServer):
        site.process.stop(signal.SIGTERM)
    else:
        site.uwsgi.stop()
