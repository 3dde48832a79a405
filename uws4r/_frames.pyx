"""
Meaning in, bytes out: frames (RFC 6455 §5.2), channel names, the envelope; and which messages are duplicates.

Without any I/O. What a delivery touches is C structs and ``nogil`` kernels.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from uws4r._decoder cimport close_code_allowed, valid_utf8
from uws4r._deflate cimport NARROW, WIDE, Deflater, deflate_message, deflater_clear

from uws4r._decoder import is_text

cdef enum:
    TEXT = 0x1
    RSV1 = 0x40  # the message is compressed (RFC 7692 §6)
    MAX_CONTROL = 125


# ---------------------------------------------------------------- encoder (§5.2)

cdef size_t head_size(size_t size) noexcept nogil:
    return 2 if size < 126 else 4 if size < 65536 else 10


cdef void write_head(uint8_t *target, uint8_t first, size_t size) noexcept nogil:
    cdef int i
    target[0] = first
    if size < 126:
        target[1] = <uint8_t>size
    elif size < 65536:
        target[1] = 126
        target[2] = <uint8_t>(size >> 8)
        target[3] = <uint8_t>size
    else:
        target[1] = 127
        for i in range(8):
            target[2 + i] = <uint8_t>(<uint64_t>size >> (56 - 8 * i))


cdef Frame *frame_room(size_t size) noexcept nogil:
    # For so many bytes, held once by the caller; NULL when there is no memory.
    cdef Frame *frame = <Frame *>malloc(sizeof(Frame) + size)
    if frame != NULL:
        frame.size = size
        frame.packed = NULL
        frame.holders = 1
        frame.window = 0
    return frame


cdef Frame *frame_new(uint8_t opcode, const uint8_t *payload, size_t size) noexcept nogil:
    # One final frame, held once by the caller; NULL when there is no memory.
    cdef size_t head = head_size(size)
    cdef Frame *frame = frame_room(head + size)
    if frame != NULL:
        write_head(frame.wire, 0x80 | opcode, size)
        if size:
            memcpy(frame.wire + head, payload, size)
    return frame


cdef Frame *frame_pack(const Frame *frame, uint8_t window, Deflater *deflater) noexcept nogil:
    # Of no size where compressing does not pay; NULL when there is no memory.
    cdef size_t head = 2 if frame.wire[1] < 126 else 4 if frame.wire[1] == 126 else 10
    cdef uint8_t *payload = NULL
    cdef size_t size = deflate_message(deflater, window, frame.wire + head, frame.size - head, &payload)
    cdef Frame *packed
    if size and head_size(size) + size < frame.size:
        packed = frame_new((frame.wire[0] & 0x0F) | RSV1, payload, size)
    else:
        packed = frame_room(0)
    if packed != NULL:
        packed.window = window
    free(payload)
    return packed


cdef Frame *frame_for(Frame *frame, uint8_t window, Deflater *deflater) noexcept nogil:
    # The shortest form of a message for a client that takes compressed ones; made for the first that asks.
    cdef Frame *packed = frame.packed
    while packed != NULL and packed.window != window:
        packed = packed.packed
    if packed == NULL:
        packed = frame_pack(frame, window, deflater)
        if packed == NULL:
            return frame
        packed.packed = frame.packed
        frame.packed = packed
    return packed if packed.size else frame


cdef void frame_release(Frame *frame) noexcept nogil:
    cdef Frame *packed
    cdef Frame *following
    frame.holders -= 1
    if frame.holders:
        return
    packed = frame.packed
    while packed != NULL:
        following = packed.packed
        packed.packed = NULL
        frame_release(packed)
        packed = following
    free(frame)


cdef Frame *frame_batch(Frame **frames, uint32_t count) noexcept nogil:
    # The bytes of all of them, as one: the kernel takes one large piece faster than many small ones. NULL when there is
    # no memory.
    cdef size_t size = 0
    cdef uint32_t i
    cdef uint8_t *target
    cdef Frame *batch
    for i in range(count):
        size += frames[i].size
    batch = frame_room(size)
    if batch != NULL:
        target = batch.wire
        for i in range(count):
            memcpy(target, frames[i].wire, frames[i].size)
            target += frames[i].size
    return batch


def encode_frame(bytes payload not None, int opcode=TEXT, int window_bits=0):
    """
    Return ``payload`` as one final, unmasked frame (RFC 6455 §5.2).

    Args:
        window_bits: 9 or 15: compressed within such a window (RFC 7692), where that makes it shorter; 0: not.
    """
    cdef size_t size = len(payload)
    cdef Deflater deflater
    if window_bits and (opcode & 8 or window_bits not in (NARROW, WIDE)):
        raise ValueError("messages are compressed, control frames are not, within a window of 9 or 15 bits")
    if opcode & 8 and size > MAX_CONTROL:
        raise ValueError(f"the payload of a control frame is {size} bytes, at most {MAX_CONTROL} fit")
    cdef Frame *frame = frame_new(opcode, <const uint8_t *>PyBytes_AS_STRING(payload), size)
    if frame == NULL:
        raise MemoryError
    memset(&deflater, 0, sizeof(deflater))
    cdef Frame *shortest = frame_for(frame, window_bits, &deflater) if window_bits else frame
    try:
        return PyBytes_FromStringAndSize(<char *>shortest.wire, shortest.size)
    finally:
        frame_release(frame)
        deflater_clear(&deflater)


def encode_close(int code, str reason not None=""):
    """
    Return the payload of a close frame (RFC 6455 §5.5.1).

    Args:
        code: See :class:`~uws4r.rfc6455.CloseCode`; 4000–4999 are the application's.
        reason: Shown to the peer; at most 123 bytes of UTF-8.
    Raises:
        ValueError: The code may not stand in a close frame, or the reason is too long.
    """
    if not 0 <= code <= 0xFFFF or not close_code_allowed(code):
        raise ValueError(f"close code {code} is not allowed on the wire")
    text = reason.encode()
    if len(text) > MAX_CONTROL - 2:
        raise ValueError(f"the close reason is {len(text)} bytes, at most {MAX_CONTROL - 2} fit")
    return code.to_bytes(2, "big") + text


def parse_close(bytes payload not None):
    """Return ``(code, reason)`` of a close frame that the decoder let pass; 1005 for an empty one (§7.1.5)."""
    if not payload:
        return 1005, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


# ---------------------------------------------------------------- channel names

cdef str quote(str name):
    # ":" separates the parts of a channel's name; quoted, no name can be read as another one's.
    return name.replace("%", "%25").replace(":", "%3A")


def join_name(str prefix not None, str audience not None, str name, str facility not None):
    """
    Return the channel's name in Redis: ``[prefix:]audience:[name:]facility``, in UTF-8.

    Args:
        prefix: ``""`` for none.
        name: Of the user, group or session; None for an audience without one (broadcast).
    """
    cdef str joined = f"{audience}:{facility}" if name is None else f"{audience}:{quote(name)}:{facility}"
    # Names come from percent-decoded URLs: what is not Unicode text there must not raise here.
    return (f"{prefix}:{joined}" if prefix else joined).encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------- envelope

# A payload in Redis is raw, except where raw bytes cannot say what it is:
# magic, one byte of flags, where flagged the id as two numbers of 64 bits, then the payload.
cdef bytes MAGIC = b"\x00u4\x01"
cdef enum:
    ENVELOPE_BINARY = 1
    ENVELOPE_ID = 2
    ENVELOPE_KNOWN = ENVELOPE_BINARY | ENVELOPE_ID


cpdef bytes wrap(bytes payload, bint binary=False, tuple id=None):
    """
    Return ``payload`` as it is stored and published in Redis: raw where raw bytes say all.

    Args:
        binary: The message is binary even if its bytes happen to be valid UTF-8.
        id: ``(milliseconds, sequence)`` of an entry of the channel's history.
    """
    if id is None and not payload.startswith(MAGIC) and not (binary and is_text(payload)):
        return payload
    # What is not valid UTF-8 is binary whatever the caller says.
    cdef int flags = ENVELOPE_BINARY if binary or not is_text(payload) else 0
    if id is None:
        return MAGIC + bytes((flags,)) + payload
    milliseconds, sequence = id
    return (
        MAGIC + bytes((flags | ENVELOPE_ID,)) + milliseconds.to_bytes(8, "big") + sequence.to_bytes(8, "big") + payload
    )


cdef tuple unwrap_payload(bytes data):
    cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef size_t size = PyBytes_GET_SIZE(data)
    cdef size_t start = 5
    cdef uint8_t flags
    cdef object id = None
    if size < 4 or memcmp(raw, <const char *>MAGIC, 4) != 0:
        return data, valid_utf8(raw, size), None
    # Not exactly an envelope: the bytes as they are, so that nothing a stranger publishes is lost or misread.
    if size < 5:
        return data, False, None
    flags = raw[4]
    if flags & ~ENVELOPE_KNOWN:
        return data, False, None
    if flags & ENVELOPE_ID:
        start = 21
        if size < start:
            return data, False, None
        id = int.from_bytes(data[5:13], "big"), int.from_bytes(data[13:21], "big")
    if not flags & ENVELOPE_BINARY and not valid_utf8(raw + start, size - start):
        return data, False, None
    return data[start:], not flags & ENVELOPE_BINARY, id


def unwrap(bytes data not None):
    """
    Return ``(payload, text, id)`` of what Redis holds or pushed.

    ``text`` is whether the message goes out as text; ``id`` is ``(milliseconds, sequence)`` or None.
    An envelope that does not decode exactly is a plain binary payload.
    """
    payload, text, id = unwrap_payload(data)
    return payload, bool(text), id


# ---------------------------------------------------------------- duplicates

cdef uint64_t digest_of(bytes payload, bint text):
    # Python's hash is keyed per process, so nobody can prepare two payloads with one digest.
    return <uint64_t>hash(payload) ^ (<uint64_t>text << 63)


cdef bint own_expect(OwnCopies **own, void *channel, uint64_t digest, uint64_t publish) noexcept nogil:
    cdef OwnCopies *copies = own[0]
    cdef Expected *new
    cdef uint32_t room
    if copies != NULL and copies.first:
        memmove(copies.items, copies.items + copies.first, copies.count * sizeof(Expected))
        copies.first = 0
    if copies == NULL or copies.count == copies.room:
        room = copies.room * 2 if copies != NULL else 2
        copies = <OwnCopies *>realloc(copies, sizeof(OwnCopies) + room * sizeof(Expected))
        if copies == NULL:
            return False
        if own[0] == NULL:
            copies.first = copies.count = 0
        copies.room = room
        own[0] = copies
    new = &copies.items[copies.count]
    new.channel = channel
    new.digest = digest
    new.publish = publish
    copies.count += 1
    return True


cdef bint own_take(OwnCopies **own, void *channel, uint64_t digest) noexcept nogil:
    # Use up the oldest expected copy that matches. Redis works through publishes in order,
    # so that is the very first, unless a copy has gone astray.
    cdef OwnCopies *copies = own[0]
    cdef Expected *oldest = copies.items + copies.first
    cdef uint32_t i
    for i in range(copies.count):
        if oldest[i].channel == channel and oldest[i].digest == digest:
            copies.count -= 1
            if copies.count == 0:
                own_free(own)
            elif i == 0:
                copies.first += 1
            else:
                memmove(oldest + i, oldest + i + 1, (copies.count - i) * sizeof(Expected))
            return True
    return False


cdef void own_forget(OwnCopies **own, uint64_t publish) noexcept nogil:
    # Drop what the publishes up to and including this one still expect.
    cdef OwnCopies *copies = own[0]
    if copies == NULL:
        return
    while copies.count and copies.items[copies.first].publish <= publish:
        copies.first += 1
        copies.count -= 1
    if copies.count == 0:
        own_free(own)


cdef void own_free(OwnCopies **own) noexcept nogil:
    free(own[0])
    own[0] = NULL


# Seconds between two copies of one publish; more and they are two messages with equal bytes.
cdef double RUN_GAP = 0.020


@cython.final
cdef class Runs:
    """
    Numbers the pushes of the link so that the copies of one publish share a number (rule "copies").

    A publish to several channels makes pushes that are neighbours: same bytes, different channels
    of one facility. Anything between them ends the run. Times are those of reading: of two publishes
    of equal bytes that wait in the link together, nobody can tell that they were two.
    """

    def __cinit__(self):
        self.number = 0
        self.open = False
        self.names = []

    def end(self):
        """A reply came, or a push that belongs to no run: what follows is another message."""
        self.open = False

    def push(self, bytes name not None, facility, bytes payload not None, bint text, double now):
        """Return the number of the run that this push belongs to; ``now`` in seconds."""
        return self.note(name, <uint64_t>hash(facility), payload, text, now)

    cdef uint64_t note(self, bytes name, uint64_t facility, bytes payload, bint text, double now):
        if (
            self.open
            and now - self.heard <= RUN_GAP
            and self.text == text
            and self.facility == facility
            and self.payload == payload
            and name not in self.names
        ):
            self.names.append(name)
        else:
            self.number += 1
            self.open = True
            self.text = text
            self.facility = facility
            self.payload = payload
            self.names = [name]
        self.heard = now
        return self.number
