"""Publishing to and reading from Redis in any process: :class:`RedisMessage`, :data:`SELF`, :class:`RedisStore`."""

import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import SynchronousOnlyOperation
from django.utils.functional import Promise

from uws4r._frames import wrap
from uws4r.channels import SELF, channels_for
from uws4r.conf import conf
from uws4r.errors import QueueTimeout
from uws4r.offloop import MOST_THREADS, in_event_loop, off_loop
from uws4r.redis_clients import SOCKET_TIMEOUT, carried_out, follow_master, redis_client, where

__all__ = ["SELF", "RedisMessage", "RedisStore"]

logger = logging.getLogger("uws4r.publisher")

Result = TypeVar("Result")


def is_heartbeat(payload: bytes | bytearray) -> bool:
    """Whether these bytes are ``WS4REDIS_HEARTBEAT``, which stands for no message."""
    heartbeat = conf.WS4REDIS_HEARTBEAT
    return heartbeat is not None and payload == heartbeat.encode()


def raw(message: Any) -> Any:
    """Return a text as bytes, a lazy one as what it says in the language of this moment; anything else as it is."""
    if isinstance(message, Promise):
        message = str(message)
    return message.encode() if isinstance(message, str) else message


class RedisMessage(bytes):
    """
    A message as Redis has it: ``RedisMessage("text")`` and ``RedisMessage(b"bytes")`` make one.

    Calling the class returns None for the heartbeat and for what is no message: a pub/sub reply other
    than ``[b"message", channel, data]``, and values of other types.
    """

    def __new__(cls, value: Any) -> "RedisMessage | None":  # type: ignore[misc]
        value = raw(value)
        if isinstance(value, list):
            if len(value) < 3 or value[0] != b"message":
                return None
            value = value[2]
        if not isinstance(value, (bytes, bytearray)) or is_heartbeat(value):
            return None
        return super().__new__(cls, value)


def to_payload(message: Any) -> bytes:
    """
    Return the bytes to publish for ``message``: str as UTF-8, bytes as they are, anything else as JSON.

    A lazy text is the one in the language that is active now.

    Raises:
        ValueError: None, which :class:`RedisMessage` returns for what is no message; the heartbeat; or no
            JSON can say it: NaN and Infinity, for instance, which no browser reads.
    """
    message = raw(message)
    if isinstance(message, (bytes, bytearray, memoryview)):
        payload = bytes(message)
        if is_heartbeat(payload):
            raise ValueError(f"{message!r} is WS4REDIS_HEARTBEAT, which no client takes for a message")
        return payload
    if message is None:
        raise ValueError("message object is not of type RedisMessage: None is no message")
    from django.core.serializers.json import DjangoJSONEncoder  # loads the ORM

    try:
        return json.dumps(message, cls=DjangoJSONEncoder, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"message object is not of type RedisMessage, and not JSON: {error}") from error


class RedisStore:
    """
    Publishes messages to a set of channels, and keeps the last one of each.

    Args:
        connection: A ``redis.Redis``, or something that behaves like one; None for the site's.
    """

    def __init__(self, connection: Any = None) -> None:
        self._given = connection
        self._publishers: set[str] = set()
        self._addressed = True  # some audience was named, even if nobody is in it

    @property
    def _connection(self) -> Any:
        # Asked for at each use: the object may be older than a change of the setting.
        return redis_client() if self._given is None else self._given

    @_connection.setter
    def _connection(self, connection: Any) -> None:
        self._given = connection

    @property
    def _expire(self) -> int:
        return conf.WS4REDIS_EXPIRE

    def publish_message(self, message: Any, expire: int | None = None, *, binary: bool = False) -> int:
        """
        Publish ``message`` on every channel of this object, as one event.

        Args:
            message: str, bytes, :class:`RedisMessage`, or anything that Django's JSON encoder takes.
            expire: Seconds for which it is also stored; None for ``WS4REDIS_EXPIRE``, 0 for not at all.
            binary: Send it as a binary message even if its bytes are valid UTF-8.
        Returns:
            How many workers it reached. With several channels Redis cannot tell who listens to more than one
            of them: then it is the largest number that one channel reached.
        Raises:
            ValueError: ``message`` is nothing that can be sent.
            QueueError: Redis did not take it; a ``redis.RedisError``, too.
        """
        return self._publish(to_payload(message), expire, binary)

    async def apublish_message(self, message: Any, expire: int | None = None, *, binary: bool = False) -> int:
        """
        The same as :meth:`publish_message`, in a coroutine: the event loop goes on while Redis is asked.

        Who is cancelled may have published, as after a :class:`~uws4r.errors.QueueTimeout`.

        Raises:
            ValueError, QueueError: See :meth:`publish_message`.
        """
        payload = to_payload(message)
        await self._find_names()
        return await self._asked(partial(self._publish, payload, expire, binary))

    async def _find_names(self) -> None:
        """Find out whom SELF means, where that has been left for later."""

    async def _asked(self, act: Callable[[], Result]) -> Result:
        """Return what ``act`` returns, which asks Redis, without blocking the event loop."""
        client = self._connection
        arguments = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})

        def late() -> QueueTimeout:
            waiting = f"{MOST_THREADS} others already wait for Redis ({where(client)}), which does not answer in time"
            return QueueTimeout(f"{waiting}: it was not asked")

        return await off_loop(act, arguments.get("socket_timeout", SOCKET_TIMEOUT), late)

    def pipeline_publish_message(self, message: Any, expire: int | None = None, transaction: bool = True) -> int:
        """The same as :meth:`publish_message`, which is always one transaction; kept for its name."""
        return self._publish(to_payload(message), expire, False)

    def publish_on_commit(
        self, message: Any, expire: int | None = None, *, binary: bool = False, using: str | None = None
    ) -> None:
        """
        Publish when the present transaction of the database commits, at once where there is none.

        What is rolled back is not published. The arguments are those of :meth:`publish_message`.

        Args:
            using: The database; None for the default one.
        Raises:
            ValueError: ``message`` is nothing that can be sent. What Redis says comes after the commit.
            SynchronousOnlyOperation: This is a coroutine, where Django has no transactions.
        """
        from django.db import transaction  # a publisher without a database does not load it

        payload = to_payload(message)
        if in_event_loop():
            raise SynchronousOnlyOperation(
                "a coroutine has no transaction: call publish_on_commit() in the function that has it, which "
                "sync_to_async() runs; or await apublish_message()"
            )
        transaction.on_commit(lambda: self._publish(payload, expire, binary), using=using)

    def _publish(self, payload: bytes, expire: int | None, binary: bool) -> int:
        data = wrap(payload, binary)
        expire = self._expire if expire is None else expire
        if not self._publishers:
            if not self._addressed:
                logger.warning("published to nobody: name an audience (broadcast=True, users=…, groups=…, sessions=…)")
            return 0
        # PUBLISH and SET as one transaction: a client that connects now gets the message once, from either.
        client = self._connection

        def publish() -> list[Any]:
            pipeline = client.pipeline(transaction=True)
            for name in self._publishers:
                pipeline.publish(name, data)
                if expire and expire > 0:
                    pipeline.set(name, data, ex=expire)
            return pipeline.execute()

        follow_master(client, stores=bool(expire and expire > 0))
        return max(reply for reply in carried_out(client, publish) if type(reply) is int)

    @staticmethod
    def get_prefix() -> str:
        """Return what stands in front of every name, its colon included."""
        prefix = conf.WS4REDIS_PREFIX
        return f"{prefix}:" if prefix else ""

    def _get_message_channels(
        self,
        request: Any = None,
        facility: str = "{facility}",
        broadcast: bool = False,
        groups: Any = (),
        users: Any = (),
        sessions: Any = (),
    ) -> set[str]:
        channels = channels_for(
            facility,
            prefix=conf.WS4REDIS_PREFIX,
            request=request,
            broadcast=bool(broadcast),
            groups=groups,
            users=users,
            sessions=sessions,
        )
        return {channel.name.decode("utf-8", "surrogatepass") for channel in channels}
