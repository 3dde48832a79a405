"""
What is fuzzed: functions of bytes, which return when all is well and raise when something is wrong.

They need no fuzzer: ``tests/unit/test_fuzz_corpus.py`` calls them with the corpus, ``./build.sh fuzz`` with what
atheris thinks up. An assertion that fails here, or any other exception, is a finding. Where there is a second
opinion (the model, Python's own codecs, the same bytes in other pieces), the two are compared.
"""

import io
import logging
import re
import socket
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_plus

import hiredis
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import cache
from django.core.handlers.wsgi import get_path_info
from django.http import HttpRequest
from django.test import override_settings

from tests.fuzz.model import first_bad_byte, verdict
from tests.support.wire import BINARY, CLOSE, PING, TEXT, masked_frame
from uws4r._decoder import FrameDecoder, is_text
from uws4r._frames import encode_frame, unwrap, wrap
from uws4r.application import Application
from uws4r.attachment import Attachment, HubOptions
from uws4r.channels import GROUPS_KEY
from uws4r.detached import Detached
from uws4r.errors import LinkError, ProtocolError
from uws4r.hub import Hub
from uws4r.link import Link

LIMITS = (0, 1, 7, 125, 126, 1000, 65536, 1 << 62)  # of a message, in bytes

Events = list[tuple[int, bytes]]


class Source:
    """The bytes of one run, taken apart from the front; behind the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def byte(self) -> int:
        head, self.rest = self.rest[:1], self.rest[1:]
        return head[0] if head else 0

    def take(self, size: int) -> bytes:
        head, self.rest = self.rest[:size], self.rest[size:]
        return head

    def cuts(self, count: int) -> list[int]:
        """So many bytes, each the distance from one cut to the next."""
        edges = [0]
        edges += [edges[-1] + self.byte() for _ in range(count)]
        return edges[1:]


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    start = 0
    for cut in cuts:
        yield data[start:cut]
        start = max(start, cut)
    yield data[start:]


# ---------------------------------------------------------------- the decoder


def decoded(
    parts: Iterable[bytes], max_size: int, deflate: bool = False, hurried: bool = False
) -> tuple[Events, int, int]:
    """The same as :func:`tests.fuzz.model.verdict`, from the decoder: here the bytes are those fed until then."""
    decoder = FrameDecoder(max_size, deflate, hurried)
    events: Events = []
    fed = 0
    for part in parts:
        fed += len(part)
        decoder.feed(part)
        try:
            while (event := decoder.next_event()) is not None:
                events.append(event)
        except ProtocolError as error:
            return events, error.close_code, fed
    return events, 0, fed


def decoder(data: bytes) -> None:
    """What a client sends: one byte (how many cuts, which limit), the cuts, the frames."""
    source = Source(data)
    choice = source.byte()
    cuts = source.cuts(choice & 7)
    max_size = LIMITS[choice >> 3 & 7]
    wire = source.rest
    events, code, taken = verdict(wire, max_size)
    assert decoded([wire], max_size)[:2] == (events, code)
    assert decoded(pieces(wire, cuts), max_size)[:2] == (events, code)
    # Not only the same verdict, but at the same byte: nothing is awaited that cannot make it good.
    assert decoded((wire[i : i + 1] for i in range(len(wire))), max_size) == (events, code, taken)
    for opcode, payload in events:
        assert len(payload) <= (125 if opcode >= CLOSE else max_size)
        assert opcode != TEXT or is_text(payload)
        again = encode_frame(payload, opcode)
        assert len(again) - len(payload) == (2 if len(payload) < 126 else 4 if len(payload) < 65536 else 10)
        # As a client would send it: nothing but the mask is missing.
        head = len(again) - len(payload)
        back = bytes((again[0], again[1] | 0x80)) + again[2:head] + bytes(4) + again[head:]
        assert decoded([back], len(payload)) == ([(opcode, payload)], 0, len(back))


def inflated(packed: bytes, limit: int) -> tuple[bytes, int]:
    """What zlib makes of a compressed message, and the close code where it makes nothing of it."""
    out, stream, fed = b"", zlib.decompressobj(-15), False
    for piece in (packed, b"\0\0\xff\xff"):
        if piece is not packed and not fed:
            break  # nothing has come since the last block that said to be the last
        rest = piece
        while rest:
            try:
                out += stream.decompress(rest, limit + 1 - len(out))
            except zlib.error:
                return b"", 1007
            if len(out) > limit:
                return b"", 1009
            if stream.eof:
                rest, stream, fed = stream.unused_data, zlib.decompressobj(-15), False
            else:
                rest, fed = stream.unconsumed_tail, True
    return out, 0


def inflater(data: bytes) -> None:
    """A compressed message: one byte (fragments, cuts, text or binary, which limit), the cuts, what is compressed."""
    source = Source(data)
    choice = source.byte()
    opcode = TEXT if choice & 1 else BINARY
    edge, cuts = source.byte(), source.cuts(choice >> 1 & 3)
    max_size = (1, 125, 1000, 65536)[choice >> 3 & 3]
    packed = source.rest[: max_size + 1000]  # what is much longer than that is refused for it, before it is looked at
    first, second = packed[:edge], packed[edge:]
    wire = masked_frame(opcode, first, reserved=4, final=False) + masked_frame(0, second)
    whole = decoded([wire], max_size, True)[:2]
    assert decoded([masked_frame(opcode, packed, reserved=4)], max_size, True)[:2] == whole
    assert decoded(pieces(wire, cuts), max_size, True)[:2] == whole
    assert decoded([wire], max_size, True, hurried=True)[:2] == whole
    assert decoded((wire[i : i + 1] for i in range(len(wire))), max_size, True)[:2] == whole
    events, code = whole
    payload, expected = inflated(packed, max_size)
    if code == 0:
        assert events == [(opcode, payload)]
        assert opcode == BINARY or is_text(payload)
        for window in (9, 15):
            again = encode_frame(payload, opcode, window)
            head = 2 if again[1] < 126 else 4 if again[1] == 126 else 10
            assert again[0] == 0x80 | opcode or inflated(again[head:], len(payload))[0] == payload
    elif opcode == BINARY:
        # zlib does not say that a message ends in the middle of a block, nor what came before a mistake.
        assert code == expected or (code, expected) in ((1007, 0), (1009, 1007))


def text(data: bytes) -> None:
    """A short text in two fragments: one byte says where it is cut, four are the mask."""
    source = Source(data)
    cut, mask, payload = source.byte(), source.take(4).ljust(4, b"\0"), source.take(40)
    first, second = payload[:cut], payload[cut:]
    bad = first_bad_byte(payload)
    try:
        payload.decode()
    except UnicodeDecodeError:
        assert bad is not None
    else:
        assert bad is None
    assert is_text(payload) == (bad is None)
    frames = (masked_frame(TEXT, first, final=False, mask=mask), masked_frame(0, second, mask=mask))
    wire = b"".join(frames)
    events, code, fed = decoded((wire[i : i + 1] for i in range(len(wire))), len(payload))
    if bad is None:
        assert (events, code) == ([(TEXT, payload)], 0)
        return
    assert (events, code) == ([], 1007)
    starts = len(frames[0]) - len(first), len(wire) - len(second)  # of the two payloads on the wire
    assert fed == min(starts[0] + bad + 1 if bad < len(first) else starts[1] + bad - len(first) + 1, len(wire))


def envelope(data: bytes) -> None:
    """What Redis holds: anything; and what uws4r itself puts there."""
    payload, is_it_text, id = unwrap(data)
    assert data.endswith(payload)
    assert not is_it_text or is_text(payload)
    if payload != data:
        assert data[:4] == b"\x00u4\x01"
        assert len(data) - len(payload) == (5 if id is None else 21)
    assert unwrap(wrap(payload, not is_it_text, id)) == (payload, is_it_text, id)
    for binary in (False, True):
        assert unwrap(wrap(data, binary)) == (data, is_text(data) and not binary, None)


# ---------------------------------------------------------------- the request

SESSION = "k" * 32
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# To be in force while targets are called; not by each call, which would cost more than the call.
site_settings = override_settings(
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "fuzz"}},
    UWS4R_PROXIES=["unix", "10.0.0.0/8"],
)
FIELDS = (
    "QUERY_STRING", "PATH_INFO", "HTTP_ORIGIN", "HTTP_COOKIE", "HTTP_SEC_WEBSOCKET_PROTOCOL", "HTTP_X_FORWARDED_FOR",
    "HTTP_HOST", "CONTENT_TYPE", "HTTP_CONNECTION", "HTTP_SEC_WEBSOCKET_KEY", "HTTP_SEC_WEBSOCKET_EXTENSIONS",
)  # fmt: skip
GOOD = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "PATH_INFO": "/ws/f",
    "QUERY_STRING": "",
    "HTTP_HOST": "localhost",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": b64encode(b"k" * 16).decode(),
    "wsgi.url_scheme": "http",
    "REMOTE_ADDR": "",
}


class Mary:
    is_authenticated = True

    def get_username(self) -> str:
        return "mary"


class Site(Application):
    """An application whose requests of the known session are mary's, without a database."""

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        if request.session.session_key == SESSION:
            request.user = Mary()


class Harbour:
    """In the place of a hub: takes what the handshake hands over."""

    draining = False
    max_connections = max_descriptors = 0
    options = HubOptions()
    keeper = SimpleNamespace(connector=SimpleNamespace(wait=lambda: True), descriptor=lambda: 0)
    loop = SimpleNamespace(connections=())

    def __init__(self) -> None:
        self.attached: list[Attachment] = []

    def fileno(self) -> int:
        return 0

    def attach(self, attachment: Attachment) -> None:
        self.attached.append(attachment)


@contextmanager
def no_traceback() -> Iterator[None]:
    """Nothing that comes from outside may be logged with a traceback: that is for bugs. The rest is not shown."""
    found: list[BaseException] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                found.append(record.exc_info[1])

    logger, handler = logging.getLogger("uws4r"), Handler()
    propagate, level = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
    if found:
        raise found[0]


def flags_in(query: str) -> set[str]:
    """The flags of a URL, by what the URL standard says of ``application/x-www-form-urlencoded``."""
    raw = query.encode("latin-1")
    try:
        query = raw.decode()
    except UnicodeDecodeError:
        pass  # as Django does: then it is Latin-1
    return {unquote_plus(part.partition("=")[0]).strip().lower() for part in query.split("&")}


def request(data: bytes) -> None:
    """A request: the lines are query, path, and some headers; what is missing is as it should be."""
    environ: dict[str, Any] = {**GOOD, "wsgi.input": io.BytesIO()}
    for field, line in zip(FIELDS, data.split(b"\n"), strict=False):
        if line or field == "QUERY_STRING":
            environ[field] = line.decode("latin-1")
    path = get_path_info(environ)  # Django is going to overwrite it
    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> Callable[[bytes], object]:
        answers.append((status, headers))
        return lambda body: None

    hub: Any = Harbour()
    site = Site(lambda: hub, lambda environ: None, lambda: Detached(lambda environ: 99), SimpleNamespace())
    with no_traceback():
        cache.add(SessionStore(SESSION).cache_key, {GROUPS_KEY: ["chatters"]}, None)
        body = b"".join(site(environ, start_response))
    ((status, headers),) = answers
    for name, value in headers:
        assert not UNPRINTABLE.search(name + value)
    if status != "101 Switching Protocols":
        assert status[:3] in ("400", "403", "404"), status
        assert not hub.attached
        assert re.fullmatch(rb"[ -~]+\.\n", body), body
        return
    (attachment,) = hub.attached
    asked = flags_in(environ["QUERY_STRING"])
    agreed = [value for name, value in headers if name == "Sec-WebSocket-Extensions"]
    assert bool(attachment.window) == bool(agreed)
    assert attachment.window in (0, 9, 15)
    assert all(value.startswith("permessage-deflate; ") for value in agreed)
    facility = path.removeprefix("/ws/")
    assert path != facility
    assert not UNPRINTABLE.search(facility)
    assert re.fullmatch(r"[ -~]+", attachment.identity), attachment.identity
    logged_in = attachment.identity.split(" ")[1] == "mary"
    names = {
        "session": [f"session:{SESSION}"] if logged_in else [],
        "user": ["user:mary"] if logged_in else [],
        "group": ["group:chatters"] if logged_in else [],
        "broadcast": ["broadcast"],
    }
    for verb, channels in (
        ("subscribe", [name for name, _ in attachment.subscribe]),
        ("publish", list(attachment.publish)),
    ):
        expected = [
            f"{name}:{facility}".encode("utf-8", "surrogatepass")
            for audience, own in names.items()
            if f"{verb}-{audience}" in asked
            for name in own
        ]
        assert sorted(channels) == sorted(expected)
    assert attachment.echo == ("echo" in asked)
    assert attachment.changes == ("changes" in asked)


# ---------------------------------------------------------------- the link


class Plug:
    """In the place of redis-py's connection: one end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._sock = end

    def disconnect(self) -> None:
        self._sock.close()


def heard_by_a_link(parts: Iterable[bytes], in_flight: int, limit: int) -> list[tuple[str, Any]]:
    ours, theirs = socket.socketpair()
    said: list[tuple[str, Any]] = []
    with ours, theirs:
        link = Link(
            Plug(ours),  # type: ignore[arg-type]
            lambda name, payload: said.append(("push", (name, payload))),
            lambda: said.append(("reply", None)),
        )
        for number in range(in_flight):
            link.greet(lambda number, reply: said.append((f"answer {number}", repr(reply))), number)
        try:
            for part in parts:
                link.feed(part)
                while link.dispatch(limit):
                    pass
        except LinkError as error:
            said.append(("lost", str(error)))
        assert link.in_flight == in_flight - sum(kind == "reply" for kind, _ in said)
        link.close("the end")
    assert sum(kind.startswith("answer") for kind, _ in said) == in_flight
    for kind, what in said:
        assert kind != "push" or [type(part) for part in what] == [bytes, bytes]
    return said


def link(data: bytes) -> None:
    """What Redis sends: one byte (how many cuts, how many commands wait for an answer), the cuts, the bytes."""
    source = Source(data)
    choice = source.byte()
    cuts = source.cuts(choice & 7)
    in_flight = choice >> 3 & 7
    whole = heard_by_a_link([source.rest], in_flight, 1000)
    assert heard_by_a_link(pieces(source.rest, cuts), in_flight, 1) == whole


class Bench:
    """A hub without a Redis: both ends of its sockets are here."""

    def __init__(self) -> None:
        def no_redis() -> Any:
            raise OSError("there is no Redis")

        self.hub = Hub(no_redis, HubOptions(ping_interval=0, max_message_size=1000, publish_buffer=3, max_queue=4096))
        self.hub.keeper.connector.stop()  # links come from here

    def run(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what the client got, and what Redis got."""
        hub, source = self.hub, Source(data)
        choice = source.byte()
        redis, link_end = socket.socketpair()
        client, client_end = socket.socketpair()
        plug, own = Plug(link_end), (b"broadcast:f", b"user:mary:f")
        attachment = Attachment(
            fd=client_end.detach(),
            identity="fuzz",
            subscribe=tuple((name, "f") for name in own[: choice >> 1 & 3]),
            publish=own[: choice >> 3 & 3],
            expire=choice >> 5 & 1,
            echo=bool(choice & 0x40),
            changes=bool(choice & 0x80),
            fetch=bool(choice & 0x80),
        )
        with redis, client:
            if choice & 1:  # else Redis comes last
                hub.keeper.opened(plug)  # type: ignore[arg-type]
            hub.attach(attachment)
            hub.run_once(block=False)
            self._talk(source, redis, client)
            if not choice & 1:
                hub.keeper.opened(plug)  # type: ignore[arg-type]
            say(client, None)
            while hub.loop.count:
                hub.run_once(block=False)
            hub.run_once(block=False)
            hub.keeper.lost("the end")
            hub.outbox.waiting.clear()
            assert not hub.fanout.channels
            assert not hub.over
            return drained(client), drained(redis)

    def _talk(self, source: Source, redis: socket.socket, client: socket.socket) -> None:
        while source.rest:
            step = source.byte()
            part = source.take(step & 0x7F)
            if step & 0x80:
                say(client, part)
            else:
                say(redis, part)
            self.hub.run_once(block=False)


def say(end: socket.socket, data: bytes | None) -> None:
    """Send, or say that nothing more will come."""
    try:
        if data is None:
            end.shutdown(socket.SHUT_WR)
        else:
            end.sendall(data)
    except OSError:
        pass  # closed at the other end: that is what it got for what it had said


def drained(end: socket.socket) -> bytes:
    end.setblocking(False)
    data = bytearray()
    try:
        while part := end.recv(1 << 16):
            data += part
    except (BlockingIOError, ConnectionResetError):
        pass
    return bytes(data)


benches: list[Bench] = []


def hub(data: bytes) -> None:
    """A client and a Redis that talk nonsense to a hub: one byte of options, then turns: who and how much, what."""
    if not benches:
        benches.append(Bench())
    with no_traceback():
        try:
            got, asked = benches[0].run(data)
        except BaseException:
            benches.clear()
            raise
    reader = hiredis.Reader(notEnoughData=hub)
    reader.feed(asked)
    while (command := reader.gets()) is not hub:
        assert isinstance(command, list)
        assert {type(word) for word in command} == {bytes}
    closed = False
    position = 0
    while position < len(got):
        first, size = got[position], got[position + 1]
        position += 2
        if size == 126:
            size = int.from_bytes(got[position : position + 2], "big")
            position += 2
        payload = got[position : position + size]
        position += size
        assert not closed, "something comes after the close frame"
        assert first in (0x80 | TEXT, 0x80 | BINARY, 0x80 | CLOSE, 0x80 | PING, 0x8A), first
        assert len(payload) == size
        assert first != 0x80 | TEXT or is_text(payload)
        closed = first == 0x80 | CLOSE


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function for function in (decoder, inflater, text, envelope, request, link, hub)
}
