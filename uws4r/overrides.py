"""
Methods that a subscriber class overrides, called for one open websocket on worker threads.

ws4redis called ``parse_response``, ``publish_message`` and ``release`` in the loop of their websocket. Here the
hub only hands over what they used to find; they may block without holding up anybody else. Their calls for
one websocket come in order, one after the other.
"""

import logging
from functools import partial
from typing import Any

from uws4r._connection import Connection
from uws4r._decoder import is_text
from uws4r._outbox import Outgoing
from uws4r.attachment import Attachment
from uws4r.conf import conf
from uws4r.hub import Hub
from uws4r.mailbox import Mailbox
from uws4r.quoting import harmless
from uws4r.redis_store import RedisMessage, RedisStore
from uws4r.rfc6455 import CloseCode, Opcode
from uws4r.subscriber import RedisSubscriber

logger = logging.getLogger("uws4r.subscriber")

CALLED_LATER = ("parse_response", "publish_message", "release")


def overrides(subscriber: RedisSubscriber, method: str) -> bool:
    """Whether the subscriber's class has a method of its own."""
    return method in vars(subscriber) or getattr(type(subscriber), method) is not getattr(RedisSubscriber, method)


def encoded(name: str | bytes) -> bytes:
    """Return the name of a channel as Redis has it."""
    return name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")


def opcode_of(text: bool) -> Opcode:
    """Return what a message is sent as."""
    return Opcode.TEXT if text else Opcode.BINARY


class SubscriberCalls:
    """
    What :class:`uws4r.attachment.Overrides` describes, for one subscriber.

    Args:
        room: Bytes of pushes that may wait for ``parse_response()``; beyond it the client is slow. With so many of its
            own messages waiting for ``publish_message()`` the client is not read.
    """

    def __init__(self, subscriber: RedisSubscriber, hub: Hub, room: int) -> None:
        self.takes_pushes = overrides(subscriber, "parse_response")
        self.takes_messages = overrides(subscriber, "publish_message")
        self._releases = overrides(subscriber, "release")
        self._subscriber = subscriber
        self._hub = hub
        self._connection: Connection | None = None  # None until it is open
        self._message: tuple[bytes, bool] | None = None  # (payload, text) that publish_message() is called with
        self._mailbox = Mailbox(hub.threads.submit, room, self._fail, self._go_on)
        self._failed = False

    # ------------------------------------------------------------ called by the hub

    def opened(self, hub: Hub, connection: Connection) -> None:
        self._connection = connection
        self._subscriber._subscription.sealed = True

    def joined(self, channels: list[bytes]) -> None:
        for number, channel in enumerate(channels, 1):
            self._mailbox.put(partial(self._parse, [b"subscribe", channel, number]))

    def pushed(self, channel: bytes, payload: bytes, text: bool, withheld: bool) -> bool:
        push = [b"message", channel, payload]
        return self._mailbox.offer(partial(self._parse, push, text, withheld), len(payload))

    def received(self, payload: bytes, text: bool) -> bool:
        return self._mailbox.receive(partial(self._publish_message, payload, text), len(payload))

    def left(self, under: tuple[bytes, ...]) -> None:
        self._mailbox.put(partial(self._leave, under))

    def closed(self, code: int, reason: str) -> None:
        self._mailbox.put(partial(self._release, code, reason))

    # ------------------------------------------------------------ called by the subscriber

    def publish(self, payload: bytes, expire: int | None, binary: bool) -> None:
        subscriber, hub = self._subscriber, self._hub
        own = self._message is not None and self._message[0] == payload
        if hub.draining or self._connection is None:  # the hub has no time left, or nothing to do with it yet
            RedisStore._publish(subscriber, payload, expire, binary)
            return
        names = tuple(sorted(map(encoded, subscriber._publishers)))
        if names:
            text = self._message[1] if own and self._message is not None else not binary and is_text(payload)
            expire = max(0, conf.WS4REDIS_EXPIRE if expire is None else expire)
            outgoing = Outgoing(self._connection, payload, text, names, expire, own)
            hub.call_soon(partial(hub.publish, outgoing))

    # ------------------------------------------------------------ on a worker thread

    def _fail(self, error: Exception) -> None:
        self._failed = True
        name = type(self._subscriber).__name__
        logger.error("%s: a method of %s failed", self._connection, name, exc_info=harmless(error))
        if self._connection is not None:
            self._hub.call_soon(partial(self._hub.fail, self._connection))

    def _go_on(self) -> None:
        if self._connection is not None:
            self._hub.call_soon(partial(self._hub.caught_up, self._connection))

    def _publish_message(self, payload: bytes, text: bool) -> None:
        message = RedisMessage(payload)
        if message is None or self._failed:  # None: the heartbeat, changed since the hub was started
            return
        self._message = payload, text
        try:
            self._subscriber.publish_message(message)
        finally:
            self._message = None

    def _parse(self, push: list[Any], text: bool = True, withheld: bool = False) -> None:
        if self._failed:
            return
        pushes = self._subscriber._subscription.pushes
        pushes.append(push)
        try:
            message = RedisMessage(self._subscriber.parse_response())
        finally:
            pushes.clear()
        payload = push[2] if push[0] == b"message" else None
        if not message or (withheld and message == payload) or self._connection is None:
            return
        answer = bytes(message)  # a RedisMessage is not what C code takes
        text = text if answer == payload else is_text(answer)
        self._hub.call_soon(partial(self._hub.send, self._connection, opcode_of(text), answer))

    def _leave(self, under: tuple[bytes, ...]) -> None:
        publishers = self._subscriber._publishers
        publishers -= {name for name in publishers if encoded(name).startswith(under)}

    def _release(self, code: int, reason: str) -> None:
        self._subscriber.close_code, self._subscriber.close_reason = code, reason
        try:
            if self._releases:
                self._subscriber.release()
        finally:
            self._subscriber._live = None  # the two hold each other


def calls_of(subscriber: RedisSubscriber, hub: Hub, attachment: Attachment) -> None:
    """Keep a subscriber with its websocket, where its class overrides what is called then."""
    if any(overrides(subscriber, method) for method in CALLED_LATER):
        subscriber._live = attachment.overrides = SubscriberCalls(subscriber, hub, hub.options.max_queue)


def release(subscriber: RedisSubscriber, hub: Hub) -> None:
    """Have a subscriber's ``release()`` called, whose websocket does not come to be."""
    if overrides(subscriber, "release"):
        SubscriberCalls(subscriber, hub, 0).closed(CloseCode.ABNORMAL, "")
