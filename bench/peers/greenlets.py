"""The greenlet-per-client application: uWSGI's own websockets under gevent, one connection to Redis for all."""

import os
from collections import defaultdict, deque

from gevent import monkey  # patched before anything else is imported

monkey.patch_all()

import redis  # noqa: E402
import uwsgi  # noqa: E402
from gevent import get_hub, spawn  # noqa: E402
from gevent.event import Event  # noqa: E402

PORT = int(os.environ["REDIS_PORT"])
client = redis.Redis(connection_pool=redis.BlockingConnectionPool(port=PORT, max_connections=100))
subscription = client.pubsub()
subscription.subscribe("bench:none")  # without any channel listen() would end
listeners = defaultdict(set)


class Listener:
    def __init__(self):
        self.messages = deque()
        self.ready = Event()


def listen():
    for push in subscription.listen():
        if push["type"] == "message":
            for listener in listeners[push["channel"].decode()]:
                listener.messages.append(push["data"])
                listener.ready.set()


spawn(listen)


def application(environ, start_response):
    uwsgi.websocket_handshake()
    channel = "broadcast:" + environ["PATH_INFO"].removeprefix("/ws/")
    listener = Listener()
    watcher = get_hub().loop.io(uwsgi.connection_fd(), 1)
    watcher.start(listener.ready.set)
    if not listeners[channel]:
        subscription.subscribe(channel)
    listeners[channel].add(listener)
    try:
        while True:
            listener.ready.wait()
            listener.ready.clear()
            while listener.messages:
                uwsgi.websocket_send(listener.messages.popleft())
            while message := uwsgi.websocket_recv_nb():
                client.publish(channel, message)
    except OSError:
        pass  # the client has left
    finally:
        watcher.stop()
        listeners[channel].discard(listener)
        if not listeners[channel]:
            subscription.unsubscribe(channel)
    return []
