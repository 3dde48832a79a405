"""Messages in fragments that never end, or that are next to nothing: what a hub keeps of them."""

import zlib
from typing import Any

from tests.soak.clients import Sentinel
from tests.support.process import allocated, pss, worker_pid
from tests.support.site import Site
from tests.support.wire import CLOSE, PING, PONG, TEXT, Client, masked_frame

PATH = "/ws/fragments?publish-broadcast"
LIMIT = 1 << 20  # UWS4R_MAX_MESSAGE_SIZE's default
PIECE = 4096
ROUNDS = 4


def endless(site: Site, clients: int) -> dict[str, Any]:
    """So many clients send fragments of a message without end; each is closed with 1009, and nothing is kept."""
    pid = worker_pid(site)
    with Sentinel(site) as sentinel:
        at_first = pss(pid)
        settled: list[int] = []  # KiB of PSS after each round
        for _ in range(ROUNDS):
            opened = [site.connect(PATH) for _ in range(clients)]
            settle(site)
            before = allocated(site)
            first, more = masked_frame(TEXT, b"x" * PIECE, final=False), masked_frame(0, b"x" * PIECE, final=False)
            almost = LIMIT // PIECE
            for client in opened:
                client.send_raw(first + more * (almost - 1))
            for client in opened:
                client.ping()  # all that is allowed has been taken
            grown = allocated(site) - before
            taken = sum(pieces_until_closed(client, more) for client in opened)
            assert taken == clients, f"{taken} fragments were taken after the limit of {clients} clients"
            settle(site)
            kept = allocated(site) - before
            settled.append(pss(pid))
            for client in opened:
                client.sock.close()
    # The hub has all of each message, once; a buffer that doubles stops at the limit.
    assert clients * LIMIT * 0.9 < grown < clients * (LIMIT * 1.1) + LIMIT, f"{clients} messages cost {grown} bytes"
    assert kept < LIMIT // 2, f"{kept} bytes of {clients} messages are kept"
    # To the kernel malloc gives back what it thinks fit; but what it keeps of one round the next is content with.
    assert max(settled) - at_first < (clients + 4) * LIMIT // 1024, f"{at_first} KiB of PSS, after rounds {settled}"
    site.uwsgi.assert_healthy()
    return {
        "clients": clients,
        "rounds": ROUNDS,
        "close code": 1009,
        "each costs KiB": grown // clients // 1024,
        "kept of all KiB": round(kept / 1024, 1),
        "PSS KiB": f"{at_first}, after each round {settled}",
        "sentinel's slowest ms": round(sentinel.slowest * 1000),
    }


def settle(site: Site) -> None:
    """Let the hub work off what is under way: a message through Redis and back, twice."""
    with site.join("/ws/settle?subscribe-broadcast&publish-broadcast&echo") as client:
        for number in range(2):
            client.send(str(number))
            assert client.receive() == str(number)


def pieces_until_closed(client: Client, piece: bytes) -> int:
    """Send one piece after the other, and return after how many the close frame with 1009 comes."""
    client.sock.settimeout(10)
    for number in range(1, 100):
        client.send_raw(piece)
        client.send_raw(masked_frame(9, b"taken?"))
        frame = client.frame()
        if frame.opcode == CLOSE:
            assert frame.close_code == 1009, frame
            return number
    raise AssertionError("the message is endless indeed")


def one_byte_fragments(site: Site, clients: int, fragments: int = 4096) -> dict[str, Any]:
    """
    So many clients send so many fragments of one byte; each costs at most twice its payload.

    To the kernel it is 8 KiB more: so much input of a client may have waited, and malloc keeps its memory for later.
    """
    pid = worker_pid(site)
    # A few that warm everything up, but leave no heap behind in which the others would be for nothing.
    for count in (10, clients):
        opened = [site.connect(PATH) for _ in range(count)]
        for client in opened:
            client.ping()
        settle(site)
        before = allocated(site), pss(pid)
        data = masked_frame(TEXT, b"x", final=False) + masked_frame(0, b"x", final=False) * (fragments - 1)
        for client in opened:
            client.send_raw(data)
        for client in opened:
            client.ping()  # all has been taken
        each = (allocated(site) - before[0]) / count
        each_pss = (pss(pid) - before[1]) * 1024 / count
        for client in opened:
            client.sock.close()
    assert fragments <= each <= 2 * fragments, f"{fragments} fragments of one byte cost {each} bytes of malloc's"
    assert each_pss <= 2 * fragments + 8192, f"{fragments} fragments of one byte cost {each_pss} bytes of PSS"
    site.uwsgi.assert_healthy()
    return {"clients": clients, "fragments": fragments, "each costs bytes": round(each), "in PSS": round(each_pss)}


DEADLINE = {"UWS4R_PING_INTERVAL": 0.5, "UWS4R_PING_TIMEOUT": 5, "UWS4R_MESSAGE_TIMEOUT": 3}


def compressed_without_end(site: Site, clients: int) -> dict[str, Any]:
    """
    So many clients send a KiB that stands for a MiB, never end the message, and answer every ping.

    It takes what they have sent, and they are closed with 1008 when the deadline of a message is over.
    """
    bomb = zlib.compressobj(9, wbits=-15)
    packed = bomb.compress(b"x" * LIMIT) + bomb.flush(zlib.Z_SYNC_FLUSH)
    opened = []
    for _ in range(clients):
        client = site.connect(PATH, {"Sec-WebSocket-Extensions": "permessage-deflate"})
        client.ping()
        opened.append(client)
    settle(site)
    before = allocated(site)
    for client in opened:
        client.send_raw(masked_frame(TEXT, packed, reserved=4, final=False))
    settle(site)
    each = (allocated(site) - before) / clients
    assert each < 8192, f"a message of {len(packed)} bytes without an end takes {each:.0f}"
    pings = 0
    for client in opened:
        while (frame := client.frame()).opcode == PING:
            client.send_raw(masked_frame(PONG, frame.payload))
            pings += 1
        assert frame.close_code == 1008, frame
    site.close_clients()
    site.uwsgi.assert_healthy()
    return {
        "clients": clients,
        "sent bytes": len(packed),
        "each costs bytes": round(each),
        "pings": pings,
        "code": 1008,
    }


def unfinished(site: Site, clients: int, budget: int) -> dict[str, Any]:
    """So many clients begin a message of nearly 1 MiB: the worker takes no more than its budget; the largest go."""
    pid = worker_pid(site)
    with Sentinel(site) as sentinel:
        opened = [site.connect(PATH) for _ in range(clients)]
        modest = site.join("/ws/modest?subscribe-broadcast&publish-broadcast&echo")
        modest.send_raw(masked_frame(TEXT, b"begun", final=False))
        settle(site)
        before, kib = allocated(site), pss(pid)
        data = masked_frame(TEXT, b"x" * (LIMIT - 1), final=False)
        most = most_kib = 0
        for client in opened:
            try:
                client.send_raw(data)
            except OSError:
                pass  # closed already
            most = max(most, allocated(site) - before)
            most_kib = max(most_kib, pss(pid) - kib)
        modest.send_raw(masked_frame(0, b", ended"))
        assert modest.receive() == "begun, ended"
        codes = [code_of(client) for client in opened]
        for client in opened:
            client.sock.close()
    assert set(codes) == {0, 1013}, codes
    assert most < budget + 8 * LIMIT, f"{most} bytes, of {budget}"
    site.uwsgi.assert_healthy()
    return {
        "clients": clients,
        "budget MiB": budget >> 20,
        "most MiB": most >> 20,
        "in PSS": most_kib >> 10,
        "closed with 1013": codes.count(1013),
        "sentinel's slowest ms": round(sentinel.slowest * 1000),
    }


def code_of(client: Client) -> int:
    """The code that a client has been closed with; 0 where it is open."""
    try:
        client.send_raw(masked_frame(PING, b"open?"))
        while (frame := client.frame()).opcode != CLOSE:
            if frame.opcode == PONG:
                return 0
    except (ConnectionResetError, BrokenPipeError):
        return 1013  # it was still sending
    return frame.close_code
