"""Random frames, right and wrong, against a live worker; a well-behaved client beside them notices nothing."""

import os
import random
import re
import socket
import time
from typing import Any

from tests.soak.clients import COMPRESSED, Sentinel, handshake, reset
from tests.support.process import worker_pid
from tests.support.site import Site
from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT, close_frame, deflated, masked_frame

AT_A_TIME = 20  # connections
LENGTHS = 0, 5, 125, 126, 65_535, 65_536, 1 << 20, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1


def valid(chance: random.Random) -> bytes:
    """A frame, or a few that belong together, as RFC 6455 has them."""
    kind = chance.randrange(6)
    mask = chance.randbytes(4)
    size = chance.choice([0, 1, 5, 125, 126, 127, 1000, 65_535, 65_536, 70_000])
    text = ("aé€😀" * (size // 10 + 1)).encode()[: size // 10 * 10]
    if kind == 0:
        return masked_frame(TEXT, text, mask=mask)
    if kind == 1:
        return masked_frame(BINARY, chance.randbytes(size), mask=mask)
    if kind == 2:
        return masked_frame(chance.choice([PING, PONG]), chance.randbytes(chance.randrange(126)), mask=mask)
    if kind == 3:
        return masked_frame(TEXT, deflated(text), mask=mask, reserved=4)
    if kind == 4:
        return close_frame(chance.choice([1000, 1001, 3000, 4999]), "bye")
    count = chance.randrange(2, 10)
    parts = [text[:7], *(chance.choice([b"", b"x", text]) for _ in range(count - 2)), text[7:]]
    return b"".join(
        masked_frame(0 if index else TEXT, part, final=index == count - 1, mask=mask)
        for index, part in enumerate(parts)
    )


def invalid(chance: random.Random) -> bytes:
    """Something that RFC 6455 does not know."""
    kind = chance.randrange(7)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 300))
    if kind == 1:  # a length that is too long, or written too long
        wide = chance.random() < 0.7
        length = chance.choice(LENGTHS) & (-1 if wide else 0xFFFF)
        first = chance.choice([0x01, 0x81, 0x82, 0x89])
        return bytes([first, 0xFF if wide else 0xFE]) + length.to_bytes(8 if wide else 2, "big") + chance.randbytes(50)
    if kind == 2:
        return masked_frame(chance.randrange(16), chance.randbytes(chance.randrange(200)), reserved=chance.randrange(8))
    if kind == 3:
        return b"\x81\x05hello"  # not masked
    if kind == 4:
        return masked_frame(CLOSE, chance.randbytes(chance.randrange(126)))
    if kind == 5:
        return masked_frame(TEXT, deflated(b"a" * 2_000_000), reserved=4)  # inflated it is more than is allowed
    return masked_frame(TEXT, chance.randbytes(chance.randrange(1000)))  # hardly ever UTF-8


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same with bits turned, and pieces taken out or doubled; heads more often than payloads."""
    out = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        if not out:
            break
        at = min(chance.randrange(len(out)), chance.choice([14, 100_000]))
        at = min(at, len(out) - 1)
        kind = chance.randrange(3)
        if kind == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del out[at : at + chance.randrange(1, 20)]
        else:
            out[at:at] = out[at : at + chance.randrange(1, 200)]
    return bytes(out)


def stream(chance: random.Random) -> bytes:
    """What one connection sends."""
    parts = []
    for _ in range(chance.randrange(1, 8)):
        part = valid(chance) if chance.random() < 0.7 else invalid(chance)
        parts.append(mutated(part, chance) if chance.random() < 0.3 else part)
    data = b"".join(parts)
    return data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data


def one(site: Site, seed: int, number: int) -> socket.socket:
    """Connection ``number`` of ``seed``: the same bytes at each run. It is open yet, and has sent all it has."""
    chance = random.Random(f"{seed} {number}")
    path = "/ws/noise?subscribe-broadcast&publish-broadcast" + chance.choice(["", "&echo", "&changes"])
    sock = socket.create_connection(site.address, 10)
    try:
        data = stream(chance)
        early = chance.randrange(len(data) + 1) if chance.random() < 0.2 else 0  # before the handshake is answered
        sock.sendall(handshake(path, chance.choice(["", COMPRESSED])) + data[:early])
        head = sock.recv(12)
        assert head == b"HTTP/1.1 101", head
        while early < len(data):
            size = chance.choice([1, 2, 7] if early < 100 else [1000, 1 << 20])
            sock.setblocking(False)
            try:
                sock.recv(1 << 20)  # what comes is of no interest, but that the server can go on
            except BlockingIOError:
                pass
            sock.settimeout(10)
            sock.sendall(data[early : early + size])
            early += size
    except (BrokenPipeError, ConnectionResetError):
        pass  # thrown out while it still had something to say
    return sock


def random_frames(site: Site, seconds: float, seed: int, first: int = 0) -> dict[str, Any]:
    """Such connections for so many seconds beside a :class:`Sentinel`; ``first`` goes on where a run has failed."""
    pid = worker_pid(site)
    number = first
    last: list[socket.socket] = []
    chance = random.Random(seed)
    deadline = time.monotonic() + seconds
    try:
        with Sentinel(site) as sentinel:
            while time.monotonic() < deadline and not sentinel.broken:
                last.append(one(site, seed, number))
                number += 1
                if len(last) > AT_A_TIME:
                    gone = last.pop(chance.randrange(len(last)))
                    if chance.random() < 0.5:
                        reset(gone)
                    else:
                        gone.close()
        site.uwsgi.assert_healthy()
        assert worker_pid(site) == pid
        os.kill(pid, 0)
    except BaseException:
        print(f"random frames: seed {seed}, connections {max(first, number - AT_A_TIME)} to {number}")
        raise
    finally:
        for sock in last:
            sock.close()
    return {
        "connections": number - first,
        "seconds": round(seconds),
        "sentinel's messages": sentinel.turns,
        "its slowest ms": round(sentinel.slowest * 1000),
        # As far as the site logs them: what the codec has refused.
        "sorts of refusal": len(set(re.findall(r" closed: 10\d\d '([^']+)' after", site.uwsgi.log))),
        "seed": seed,
    }
