"""Many clients send fragments at the same time; each byte has to arrive where it belongs."""

import hashlib
import random
import select
import time
from typing import Any

from tests.soak.clients import frames_in
from tests.support.site import Site
from tests.support.wire import PING, PONG, TEXT, Client, masked_frame

READERS = 2  # of the facility that half of the clients share
WINDOW = 500  # messages under way: fewer than a queue holds, so that nobody is slow


class Marked:
    """A client whose messages can be told from all others', byte for byte."""

    def __init__(self, number: int, client: Client, own: bool, seed: int) -> None:
        self.number = number
        self.client = client
        self.own = own  # alone in its facility, where it hears itself; the others are heard by the readers
        self.mark = hashlib.sha256(f"{seed} {number}".encode()).hexdigest().encode()
        self.sent = 0
        self.waiting = b""  # bytes of the message that is going out

    def message(self, number: int) -> bytes:
        """Between 12 and 3,000 bytes, and every now and then 100,000."""
        size = (number * 7919 + self.number * 104729) % 3000
        if (number * 31 + self.number) % 997 == 0:
            size = 100_000
        return b"%03d %07d " % (self.number, number) + (self.mark * (size // 64 + 1))[:size]

    def begin(self, chance: random.Random) -> None:
        """The next message, in fragments, pings with the mark between them."""
        payload = self.message(self.sent)
        cuts = sorted(chance.randrange(len(payload) + 1) for _ in range(chance.randrange(6)))
        pieces = [payload[start:end] for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        frames = []
        for index, piece in enumerate(pieces):
            mask = chance.randbytes(4)
            frames.append(masked_frame(0 if index else TEXT, piece, final=index == len(cuts), mask=mask))
            if chance.random() < 0.1:
                frames.append(masked_frame(PING, self.mark, mask=mask))
        self.waiting = b"".join(frames)
        self.sent += 1

    def send_some(self, chance: random.Random) -> bool:
        """Send a part of what waits, which ends anywhere; return whether that was all."""
        size = chance.randrange(1, 2 * len(self.waiting) + 1)
        self.client.send_raw(self.waiting[:size])
        self.waiting = self.waiting[size:]
        return not self.waiting


class Listener:
    """Checks what one client receives: who has sent it, that it is whole, and that it is the sender's next one."""

    def __init__(self, client: Client, senders: dict[int, Marked]) -> None:
        self.client = client
        self.senders = senders
        self.next = dict.fromkeys(senders, 0)
        self.buffer = bytearray(client.buffer)
        self.received = 0

    def receive(self) -> int:
        """Take what is there; return how many messages that were."""
        data = self.client.sock.recv(1 << 18)
        assert data, "the server closed a client that did nothing wrong"
        self.buffer += data
        before = self.received
        for first, payload in frames_in(self.buffer):
            if first == 0x80 | PONG:
                assert payload in [sender.mark for sender in self.senders.values()], f"foreign pong {payload!r}"
                continue
            assert first == 0x80 | TEXT, (first, payload[:100])
            number = int(payload[:3])
            assert number in self.senders, f"a foreign message: {payload[:100]!r}"
            expected = self.senders[number].message(self.next[number])
            assert payload == expected, f"{payload[:100]!r} where {expected[:100]!r} belongs"
            self.next[number] += 1
            self.received += 1
        return self.received - before


def marked_messages(site: Site, clients: int, messages: int, seed: int) -> dict[str, Any]:
    """So many clients send so many messages altogether, in fragments and interleaved."""
    chance = random.Random(seed)
    flags = "subscribe-broadcast&publish-broadcast&echo"
    senders = []
    for number in range(clients):
        own = number % 2 == 1
        path = f"/ws/own-{number}?{flags}" if own else "/ws/shared?publish-broadcast"
        senders.append(Marked(number, site.join(path) if own else site.connect(path), own, seed))
    shared = {sender.number: sender for sender in senders if not sender.own}
    listeners = [Listener(site.join("/ws/shared?subscribe-broadcast"), shared) for _ in range(READERS)]
    listeners += [Listener(sender.client, {sender.number: sender}) for sender in senders if sender.own]
    by_fd = {listener.client.sock.fileno(): listener for listener in listeners}
    # Those who only publish: nothing comes to them but pongs, which are theirs.
    by_fd |= {s.client.sock.fileno(): Listener(s.client, {s.number: s}) for s in shared.values()}
    sent = under_way = 0  # whole messages; of those, the receptions that are still to come
    begin = last = time.monotonic()
    busy: list[Marked] = []  # in the middle of a message
    with select.epoll() as poll:
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        while sent + len(busy) < messages or busy or under_way:
            if under_way < WINDOW:
                for _ in range(50):
                    if len(busy) < clients // 2 and sent + len(busy) < messages:
                        sender = senders[chance.randrange(clients)]
                        if not sender.waiting:
                            sender.begin(chance)
                            busy.append(sender)
                    if not busy:
                        break
                    index = chance.randrange(len(busy))
                    sender = busy[index]
                    if sender.send_some(chance):
                        busy[index] = busy[-1]
                        busy.pop()
                        sent += 1
                        under_way += 1 if sender.own else READERS
            for fd, _ in poll.poll(1 if under_way >= WINDOW or not busy else 0):
                under_way -= by_fd[fd].receive()
                last = time.monotonic()
            assert time.monotonic() - last < 20, f"{under_way} messages are lost, or late by 20 s; seed {seed}"
    for listener in listeners:
        for number, count in listener.next.items():
            assert count == listener.senders[number].sent, f"client {number}: {count} of its messages; seed {seed}"
    site.uwsgi.assert_healthy()
    return {"clients": clients, "messages": sent, "seconds": round(time.monotonic() - begin, 1), "seed": seed}
