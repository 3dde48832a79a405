"""Many websockets, what is published to them all the time, and an account of every message."""

import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from django.test import override_settings

from tests.soak.clients import frames_in
from tests.support.servers import wait_until
from tests.support.site import Site
from tests.support.wire import CLOSE, PING, PONG, TEXT, Client, masked_frame
from uws4r.errors import QueueError, QueueRefused
from uws4r.orders import ask
from uws4r.publisher import RedisPublisher

FLAGS = "subscribe-broadcast&publish-broadcast&echo"
END = b"the end"
MARGIN = 0.25  # seconds before a fault in which Redis may not have passed on what it has taken
KEPT = 1.2  # seconds for which a worker may keep a browser's message after an outage
PATIENCE = 15.0  # seconds for what is to come at the end


class Figures(NamedTuple):
    """A row of the table."""

    clients: int
    kept: int
    resubscribed: float  # seconds from Redis being back, the longest of all
    published: int  # messages: taken by Redis for a publisher, or sent by a browser
    delivered: int  # of those, to all listeners that were there
    lost: int  # of those, not to all
    duplicated: int  # deliveries of a message to one listener beyond the first
    zombies: int  # open at the end, and deaf
    disordered: int
    unexcused: int  # lost though published while everything was subscribed, or of a browser and not counted as lost
    refused: int  # publishers got an error and know that it is not published
    perhaps: int  # publishers got an error, and it may be published
    more: dict[str, Any]  # what else there is to say


class Message:
    __slots__ = ("begin", "end", "facility", "state")

    def __init__(self, facility: int) -> None:
        self.facility = facility
        self.begin = time.monotonic()
        self.end = 0.0
        self.state = "perhaps"


class Listener:
    """An open websocket, and what it has received."""

    def __init__(self, number: int, client: Client, facility: int) -> None:
        self.number = number
        self.client = client
        self.facility = facility
        self.buffer = bytearray(client.buffer)  # what came with the 101
        self.received: Counter[bytes] = Counter()
        self.sequence: list[bytes] = []
        self.since = 0.0  # heard something
        self.open = True
        self.code: int | None = None

    def take(self, data: bytes) -> None:
        self.buffer += data
        for first, payload in frames_in(self.buffer):
            if first == 0x80 | TEXT:
                self._message(payload)
            elif first == 0x80 | PING:
                self.client.send_raw(masked_frame(PONG, payload))
            elif first == 0x80 | CLOSE:
                self.code = int.from_bytes(payload[:2], "big")

    def _message(self, payload: bytes) -> None:
        self.since = self.since or time.monotonic()
        self.received[payload] += 1
        if self.received[payload] == 1:
            self.sequence.append(payload)

    def disordered(self, messages: dict[bytes, Message]) -> int:
        """How many came behind a later one of the same sender; what may be published late does not count."""
        latest: dict[bytes, int] = {}
        count = 0
        for name in self.sequence:
            if name in messages and messages[name].state != "perhaps":
                sender, _, number = name.partition(b" ")
                count += int(number) < latest.get(sender, -1)
                latest[sender] = max(latest.get(sender, -1), int(number))
        return count


class Crowd:
    """
    Websockets in so many facilities; used as a context manager, for the time in which it talks.

    Args:
        redis: Returns a client for the Redis that is there now, other than the site's own.
        connection: What ``WS4REDIS_CONNECTION`` is, for the publisher in this process.
        rate: Messages a second of the publisher; browsers send half as many.
    """

    def __init__(
        self,
        site: Site,
        redis: Callable[[], Any],
        connection: Any,
        clients: int = 200,
        facilities: int = 20,
        rate: float = 100.0,
    ) -> None:
        self.site = site
        self.redis = redis
        self.rate = rate
        self.names = [f"broadcast:{number}" for number in range(facilities)]
        self.messages: dict[bytes, Message] = {}
        self.windows: list[tuple[float, float]] = []  # in which messages may be lost
        self.took: list[float] = []  # seconds until all was subscribed to again
        self.notes: dict[str, Any] = {}
        self._settings = override_settings(WS4REDIS_CONNECTION=connection)
        self._poll = select.epoll()
        self._by_fd: dict[int, Listener] = {}
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._opened = 0
        self.workers_die = False  # and messages of browsers with them
        self.listeners = self.open([number % facilities for number in range(clients)])
        self.clients = clients
        self._threads = [threading.Thread(target=f) for f in (self._read, self._publish, self._send)]

    def open(self, facilities: list[int]) -> list[Listener]:
        """Websockets in these facilities, many at once: a worker that is busy with one leaves the next to another."""
        opened = []
        for begin in range(0, len(facilities), 20):
            burst = [Client(self.site.dial()) for _ in facilities[begin : begin + 20]]
            self.site.opened += burst
            for client, facility in zip(burst, facilities[begin:], strict=False):
                client.request(f"/ws/{facility}?{FLAGS}", read=False)
            for client, facility in zip(burst, facilities[begin:], strict=False):
                response = client.read_response()
                assert response.status == 101, response
                self._opened += 1
                opened.append(listener := Listener(self._opened, client, facility))
                self._by_fd[client.sock.fileno()] = listener
                self._poll.register(client.sock, select.EPOLLIN)
        return opened

    def __enter__(self) -> "Crowd":
        self._settings.enable()
        for thread in self._threads:
            thread.start()
        wait_until(lambda: all(each.since for each in self.listeners), "everybody hears", timeout=30)
        self.subscribed = self._subscriptions()
        assert 0 not in self.subscribed
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._stopping.set()
        for thread in self._threads[1:]:
            thread.join()
        try:
            if kind is None:
                self._await_the_end()
        finally:
            self._ended.set()
            self._threads[0].join()
            self._poll.close()
            self._settings.disable()

    # ------------------------------------------------------------ what it does all the time

    def _read(self) -> None:
        while not self._ended.is_set():
            for fd, _ in self._poll.poll(0.1):
                listener = self._by_fd[fd]
                try:
                    data = listener.client.sock.recv(1 << 16)
                    listener.take(data)
                except OSError:
                    data = b""
                if not data:
                    listener.open = False
                    self._poll.unregister(fd)

    def _publish(self) -> None:
        publishers = [RedisPublisher(facility=str(number), broadcast=True) for number in range(len(self.names))]
        number = 0
        while not self._stopping.wait(1 / self.rate):
            facility = number % len(publishers)
            name = b"p%d %d" % (facility, number)
            message = self.messages[name] = Message(facility)
            try:
                publishers[facility].publish_message(name)
                message.state = "published"
            except QueueRefused:
                message.state = "refused"
            except QueueError as error:
                refused = isinstance(error.__cause__, redis.ConnectionError) and "111" in str(error)  # ECONNREFUSED
                message.state = "refused" if refused else "perhaps"
            message.end = time.monotonic()
            number += 1

    def _send(self) -> None:
        number = 0
        while not self._stopping.wait(2 / self.rate):
            listeners = self.listeners  # as they are now
            listener = listeners[number % len(listeners)]
            name = b"b%d %d" % (listener.number, number)
            if listener.open:
                message = self.messages[name] = Message(listener.facility)
                message.state = "sent"
                message.end = message.begin + KEPT
                try:
                    listener.client.send_raw(masked_frame(TEXT, name))
                except OSError:  # it has just ended
                    del self.messages[name]
            number += 1

    # ------------------------------------------------------------ around a fault

    def _subscriptions(self) -> list[int]:
        return [count for _, count in self.redis().pubsub_numsub(*self.names)]

    def is_subscribed(self) -> bool:
        try:
            return self._subscriptions() == self.subscribed
        except (redis.RedisError, OSError):
            return False

    @contextmanager
    def fault(self, lag: float = 0.0) -> Iterator[None]:
        """
        Something fails at the beginning of the block and is right again at its end; all is subscribed again then.

        Args:
            lag: Seconds for which publishers may go on with a Redis that is there and not the right one any more.
        """
        begin = time.monotonic()
        yield
        back = time.monotonic()
        wait_until(self.is_subscribed, "subscribed again", timeout=30, pause=0.002)
        end = time.monotonic()
        self.took.append(end - back)
        self.windows.append((begin - MARGIN, end + lag))

    # ------------------------------------------------------------ the account

    def _await_the_end(self) -> None:
        wait_until(lambda: sum(each["waiting_publishes"] for each in ask(do="status")) == 0, "nothing waits")
        for number in range(len(self.names)):
            self.redis().publish(self.names[number], END)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and any(each.open and not each.received[END] for each in self.listeners):
            time.sleep(0.01)
        self.workers = ask(do="status")

    def figures(self) -> Figures:
        """Return the account; the crowd has ended."""
        present = [each for each in self.listeners if each.open]
        by_facility: dict[int, list[Listener]] = {}
        for listener in present:
            by_facility.setdefault(listener.facility, []).append(listener)
        lost, unexcused, unheard, published = 0, 0, 0, 0
        for name, message in self.messages.items():
            if message.state not in ("published", "sent"):
                continue
            published += 1
            entitled = [each for each in by_facility.get(message.facility, ()) if each.since < message.begin]
            heard = sum(each.received[name] > 0 for each in entitled)
            if heard == len(entitled):
                continue
            lost += 1
            if message.state == "sent" and not heard:
                unheard += 1
            elif not any(begin <= message.end and message.begin <= end for begin, end in self.windows):
                unexcused += 1
        counted = sum(worker["lost_publishes"] for worker in self.workers)
        states = Counter(message.state for message in self.messages.values())
        more = {"messages of browsers that nobody got": unheard, "counted as lost": counted, **self.notes}
        return Figures(
            clients=self.clients,
            kept=sum(each.open for each in self.listeners[: self.clients]),
            resubscribed=max(self.took, default=0.0),
            published=published,
            delivered=published - lost,
            lost=lost,
            duplicated=sum(sum(each.received.values()) - len(each.received) for each in self.listeners),
            zombies=sum(not each.received[END] for each in present),
            disordered=sum(each.disordered(self.messages) for each in self.listeners),
            unexcused=unexcused + (0 if self.workers_die else max(0, unheard - counted)),
            refused=states["refused"],
            perhaps=states["perhaps"],
            more={key: value for key, value in more.items() if value},
        )
