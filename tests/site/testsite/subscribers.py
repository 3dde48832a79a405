"""Subscriber classes as sites write them."""

import time
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest

from uws4r.redis_store import SELF, RedisMessage
from uws4r.subscriber import RedisSubscriber, facility_of


class Tags(RedisSubscriber):
    """Flags of its own: ``?subscribe-tags=python,redis``."""

    subscription_channels = [*RedisSubscriber.subscription_channels, "subscribe-tags"]  # noqa: RUF012

    def set_pubsub_channels(self, request: HttpRequest, channels: list[str]) -> None:
        super().set_pubsub_channels(request, channels)
        if "subscribe-tags" in channels:
            for tag in request.GET["subscribe-tags"].split(","):
                self._subscription.subscribe(f"{self.get_prefix()}tag:{tag}:{facility_of(request.path_info)}")


class Copied(RedisSubscriber):
    """Written as ws4redis' own class was: it makes its subscription itself."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._subscription = None  # type: ignore[assignment]

    def set_pubsub_channels(self, request: HttpRequest, channels: list[str]) -> None:
        facility = request.path_info.replace("/ws/", "", 1)
        self._subscription = self._connection.pubsub()
        for key in self._get_message_channels(
            request=request,
            facility=facility,
            broadcast="subscribe-broadcast" in channels,
            users=("subscribe-user" in channels and [SELF]) or [],
        ):
            self._subscription.subscribe(key)
        self._publishers = self._get_message_channels(
            request=request, facility=facility, broadcast="publish-broadcast" in channels
        )


class Greeting(RedisSubscriber):
    """Under the misspelt name."""

    def send_persited_messages(self, websocket: Any) -> None:
        websocket.send("welcome")
        super().send_persited_messages(websocket)


class ReadOnly(RedisSubscriber):
    publish_channels = []  # noqa: RUF012


class WriteOnly(RedisSubscriber):
    def get_file_descriptor(self) -> None:
        return None


class Shout(RedisSubscriber):
    """Changes what it is given, and drops some of it."""

    def parse_response(self) -> Any:
        response = super().parse_response()
        if response[0] != b"message":
            self._connection.rpush("seen", b" ".join(response[:2]))
            return None
        if response[2] == b"drop me":
            return None
        if response[2].startswith(b"as it is"):
            return response
        return response[2].decode().upper() + "!"


class Slow(RedisSubscriber):
    """Blocks for five seconds with ``sleep``; a client says when."""

    def publish_message(self, message: RedisMessage, expire: int | None = None, **options: Any) -> int:
        if message == b"sleep":
            time.sleep(5)
        return super().publish_message(message, expire, **options)


class Patient(RedisSubscriber):
    """Lets a message through when somebody says so."""

    def parse_response(self) -> Any:
        response = super().parse_response()
        if response[0] == b"message":
            self._connection.blpop(["go on"], timeout=30)
        return response


class Author(RedisSubscriber):
    """Reacts on messages with the database, and publishes something else."""

    def set_pubsub_channels(self, request: HttpRequest, channels: list[str]) -> None:
        super().set_pubsub_channels(request, channels)
        self.user = request.user.get_username()

    def publish_message(self, message: RedisMessage, expire: int | None = None, **options: Any) -> int:
        if message.startswith(b"as it is"):
            return super().publish_message(message, expire, **options)
        user = User.objects.get(username=self.user)
        return super().publish_message(RedisMessage(f"{user.username} in {user.groups.get().name}: {message.decode()}"))

    def release(self) -> None:
        super().release()
        self.publish_message(RedisMessage("gone"))


class Faulty(RedisSubscriber):
    def publish_message(self, message: RedisMessage, expire: int | None = None, **options: Any) -> int:
        raise RuntimeError("secret reason")

    def release(self) -> None:
        self._connection.incr("released")


class Last(RedisSubscriber):
    def release(self) -> None:
        self._connection.rpush("ended", f"{self.close_code} {self.close_reason}")


class Keeps(RedisSubscriber):
    """Keeps its request, and looks at it when that is long over."""

    def set_pubsub_channels(self, request: HttpRequest, channels: list[str]) -> None:
        super().set_pubsub_channels(request, channels)
        self.request = request

    def publish_message(self, message: RedisMessage, expire: int | None = None, **options: Any) -> int:
        request = self.request
        address = f"{request.META['REMOTE_ADDR']} {request.get_host()} {request.build_absolute_uri()}"
        seen = f"{address} {request.GET['room']} {request.COOKIES['theme']} {request.headers['X-Mine']} {request.user}"
        return super().publish_message(RedisMessage(seen))


class Waiting(RedisSubscriber):
    """Takes its time for facilities called slow, when it knows the channels: until Redis has something for it."""

    def set_pubsub_channels(self, request: HttpRequest, channels: list[str]) -> None:
        super().set_pubsub_channels(request, channels)
        if facility_of(request.path_info) == "slow":
            self._connection.rpush("waiting", "here")
            while self._connection.blpop("go", timeout=1) is None:
                pass
