"""
A second opinion on what a client sends: RFC 6455 word by word, one byte at a time.

Slow and plain on purpose. It shares nothing with the codec but the sections that it was written from, and lets
Python judge what is UTF-8.
"""

import codecs
from dataclasses import dataclass, field

TEXT, BINARY, CLOSE = 0x1, 0x2, 0x8
DATA, CONTROL = (0x0, 0x1, 0x2), (0x8, 0x9, 0xA)  # §5.2; 0 is a continuation
LENGTHS = {126: 2, 127: 8}  # bytes of the extended length, by the short one
CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}  # §7.4 and the registry


class Refused(Exception):
    """The client broke the protocol; the close code that says how."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Text:
    """Python's incremental judge of UTF-8, by one byte at a time."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def takes(self, byte: int) -> bool:
        """Whether text may go on with this byte."""
        try:
            self._decoder.decode(bytes((byte,)))
        except UnicodeDecodeError:
            return False
        # Of a surrogate Python awaits the third byte, for the sake of its error handler "surrogatepass".
        begun = self._decoder.getstate()[0]
        return not (begun[:1] == b"\xed" and begun[1:2] >= b"\xa0")

    def may_end(self) -> bool:
        """Whether it is not inside a character."""
        return not self._decoder.getstate()[0]


def first_bad_byte(data: bytes) -> int | None:
    """Return the index of the byte that makes it no text; the length for text that ends too early, None for text."""
    text = Text()
    for index, byte in enumerate(data):
        if not text.takes(byte):
            return index
    return None if text.may_end() else len(data)


@dataclass
class Message:
    """A TEXT or BINARY under way, in one fragment or many (§5.4)."""

    opcode: int
    payload: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._text = Text()

    def take(self, byte: int) -> None:
        self.payload.append(byte)
        if self.opcode == TEXT and not self._text.takes(byte):
            raise Refused(1007)

    def end(self) -> bytes:
        if self.opcode == TEXT and not self._text.may_end():
            raise Refused(1007)
        return bytes(self.payload)


class Model:
    """
    Args:
        max_size: Bytes that a message may have.
    """

    def __init__(self, max_size: int) -> None:
        self.events: list[tuple[int, bytes]] = []
        self._max_size = max_size
        self._message: Message | None = None
        self._head = bytearray()
        self._left: int | None = None  # bytes of the payload still to come; None inside a header
        self._control = bytearray()
        self._taken = 0  # bytes of the payload so far

    def take(self, byte: int) -> None:
        """
        Take one byte.

        Raises:
            Refused: This byte is the first one that no valid input has here.
        """
        if self._left is None:
            self._head.append(byte)
            self._judge_head()
        else:
            byte ^= self._head[-4 + self._taken % 4]
            self._taken += 1
            self._left -= 1
            if self._opcode in CONTROL:
                self._control.append(byte)
            elif self._message is not None:
                self._message.take(byte)
        if self._left == 0:
            self._end_frame()

    @property
    def _opcode(self) -> int:
        return self._head[0] & 0x0F

    @property
    def _final(self) -> bool:
        return self._head[0] >= 0x80

    def _judge_head(self) -> None:
        head = self._head
        if len(head) == 1:
            starts, continues = self._opcode in (TEXT, BINARY), self._opcode == 0
            if (
                head[0] & 0x70
                or self._opcode not in DATA + CONTROL
                or (self._opcode in CONTROL and not self._final)
                or (starts and self._message is not None)
                or (continues and self._message is None)
            ):
                raise Refused(1002)
            return
        short = head[1] & 0x7F
        if len(head) == 2 and (head[1] < 0x80 or (self._opcode in CONTROL and short > 125)):
            raise Refused(1002)
        extended = LENGTHS.get(short, 0)
        if len(head) == 2 + extended + 4:
            self._judge_length(int.from_bytes(head[2 : 2 + extended], "big") if extended else short, extended)

    def _judge_length(self, length: int, extended: int) -> None:
        if length >= 1 << 63 or length < {0: 0, 2: 126, 8: 65536}[extended]:
            raise Refused(1002)
        if self._opcode in DATA:
            if length + (len(self._message.payload) if self._message else 0) > self._max_size:
                raise Refused(1009)
            self._message = self._message or Message(self._opcode)
        self._left = length

    def _end_frame(self) -> None:
        opcode, final = self._opcode, self._final
        if opcode in CONTROL:
            payload = bytes(self._control)
            if opcode == CLOSE:
                self._judge_close(payload)
            self.events.append((opcode, payload))
        elif final and self._message is not None:
            self.events.append((self._message.opcode, self._message.end()))
            self._message = None
        self._head.clear()
        self._control.clear()
        self._left, self._taken = None, 0

    def _judge_close(self, payload: bytes) -> None:
        if payload and (len(payload) == 1 or int.from_bytes(payload[:2], "big") not in CLOSE_CODES):
            raise Refused(1002)
        if first_bad_byte(payload[2:]) is not None:
            raise Refused(1007)


def verdict(data: bytes, max_size: int) -> tuple[list[tuple[int, bytes]], int, int]:
    """Return the events, the close code of the refusal (0 for none), and how many bytes it took."""
    model = Model(max_size)
    for index, byte in enumerate(data):
        try:
            model.take(byte)
        except Refused as refused:
            return model.events, refused.code, index + 1
    return model.events, 0, len(data)
