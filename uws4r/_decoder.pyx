"""
Bytes of a client in, meaning out: frames, their masks, their text, and what is compressed (RFC 6455 §5, RFC 7692 §6).

The server's side, without any I/O. The work is done by ``nogil`` kernels on C structs, which the connections of a hub
embed; the Python functions and classes here check their input once and call the same kernels.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from uws4r._clock cimport nanoseconds
from uws4r._deflate cimport (
    INFLATED_BROKEN,
    INFLATED_FULL,
    Inflated,
    inflater_free,
    inflater_new,
    inflater_step,
    inflater_whole,
)

from uws4r.errors import ProtocolError

cdef enum:
    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA
    RSV1 = 0x40  # of a data frame: the message is compressed (RFC 7692 §6)
    MAX_CONTROL = 125
    SMALLEST_BUFFER = 64
    TAIL_SIZE = 4
    SLICE_IN = 2048     # bytes inflated, and bytes made of them, before the clock is looked at: 0.2 ms at most
    SLICE_OUT = 65536
    PROTOCOL_ERROR = 1002
    INVALID_PAYLOAD = 1007
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011

# What ends every compressed message and is left out (RFC 7692 §7.2.1).
cdef const uint8_t *DEFLATE_TAIL = b"\x00\x00\xff\xff"


# ---------------------------------------------------------------- UTF-8 (RFC 3629 §4)

cdef void utf8_start(Utf8 *state) noexcept nogil:
    state.due = 0
    state.low = 0x80
    state.high = 0xBF


cdef bint utf8_feed(Utf8 *state, const uint8_t *data, size_t size) noexcept nogil:
    # False at the first byte that no valid text can have at this place. A text may end only where due is 0.
    cdef size_t i = 0
    cdef uint8_t byte
    cdef uint64_t block
    while i < size:
        if state.due == 0:
            while i + 8 <= size:
                memcpy(&block, data + i, 8)
                if block & <uint64_t>0x8080808080808080:
                    break
                i += 8
            if i == size:
                break
        byte = data[i]
        i += 1
        if state.due:
            if byte < state.low or byte > state.high:
                return False
            state.due -= 1
            state.low = 0x80
            state.high = 0xBF
        elif byte < 0x80:
            pass
        elif byte < 0xC2:  # a stray continuation byte, or an overlong form of ASCII
            return False
        elif byte < 0xE0:
            state.due = 1
        elif byte < 0xF0:
            state.due = 2
            if byte == 0xE0:
                state.low = 0xA0  # below: overlong
            elif byte == 0xED:
                state.high = 0x9F  # above: UTF-16 surrogates
        elif byte < 0xF5:
            state.due = 3
            if byte == 0xF0:
                state.low = 0x90  # below: overlong
            elif byte == 0xF4:
                state.high = 0x8F  # above: U+10FFFF
        else:
            return False
    return True


cdef bint valid_utf8(const uint8_t *data, size_t size) noexcept nogil:
    cdef Utf8 state
    utf8_start(&state)
    return utf8_feed(&state, data, size) and state.due == 0


def is_text(bytes payload not None):
    """Whether ``payload`` is valid UTF-8 and so goes out as a text message."""
    return bool(valid_utf8(<const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)))


# ---------------------------------------------------------------- masking (§5.3)

cdef void unmask_into(uint8_t *target, const uint8_t *source, size_t size, const uint8_t *mask) noexcept nogil:
    # Eight bytes a step, many times as fast as the byte loop; memcpy because nothing is aligned.
    cdef uint64_t wide, block
    cdef size_t i, whole = size & ~<size_t>7
    memcpy(&wide, mask, 4)
    memcpy(<uint8_t *>&wide + 4, mask, 4)
    for i in range(0, whole, 8):
        memcpy(&block, source + i, 8)
        block ^= wide
        memcpy(target + i, &block, 8)
    for i in range(whole, size):
        target[i] = source[i] ^ mask[i & 3]


cdef void rotate_mask(uint8_t *mask, size_t used) noexcept nogil:
    cdef uint8_t turned[4]
    cdef size_t i
    for i in range(4):
        turned[i] = mask[(i + used) & 3]
    memcpy(mask, turned, 4)


def unmask(bytearray payload not None, bytes key not None):
    """XOR ``payload`` in place with the 4-byte masking ``key`` (RFC 6455 §5.3)."""
    if len(key) != 4:
        raise ValueError(f"a masking key has 4 bytes, not {len(key)}")
    cdef uint8_t *data = payload
    unmask_into(data, data, len(payload), <const uint8_t *>PyBytes_AS_STRING(key))


# ---------------------------------------------------------------- decoder (§5.2, §5.4, §5.5)

cdef Decoder *decoder_new(size_t max_size, bint deflate) noexcept nogil:
    # NULL when there is no memory.
    cdef Decoder *decoder = <Decoder *>calloc(1, sizeof(Decoder))
    if decoder != NULL:
        decoder.max_size = max_size
        decoder.deflate = deflate
        decoder.head_need = 2
    return decoder


cdef void drop_buffers(Decoder *decoder) noexcept nogil:
    free(decoder.message)
    free(decoder.control)
    decoder.message = NULL
    decoder.control = NULL
    decoder.message_size = decoder.message_room = 0
    drop_packed(decoder)


cdef void drop_packed(Decoder *decoder) noexcept nogil:
    free(decoder.packed)
    decoder.packed = NULL
    decoder.packed_size = decoder.packed_room = decoder.packed_used = 0
    inflater_free(decoder.inflater)
    decoder.inflater = NULL


cdef void decoder_free(Decoder *decoder) noexcept nogil:
    if decoder != NULL:
        drop_buffers(decoder)
        free(decoder)


cdef bint decoder_idle(const Decoder *decoder) noexcept nogil:
    # After STEP_NEED: between two messages, so that nothing is lost when a new one takes its place.
    return not (decoder_in_frame(decoder) or decoder.message_opcode)


cdef bint decoder_in_frame(const Decoder *decoder) noexcept nogil:
    return decoder.head_size or decoder.in_payload


cdef Step refuse(Decoder *decoder, uint16_t code, const char *why) noexcept nogil:
    decoder.failure = why
    decoder.failure_code = code
    drop_buffers(decoder)
    return STEP_FAILED


cdef bint take_head(Decoder *decoder, uint8_t **cursor, const uint8_t *end) noexcept nogil:
    while decoder.head_size < decoder.head_need:
        if cursor[0] == end:
            return False
        decoder.head[decoder.head_size] = cursor[0][0]
        decoder.head_size += 1
        cursor[0] += 1
        if decoder.head_size <= 2:
            return True  # each of the first two bytes is judged before the next one is awaited
    return True


cdef Step judge_first(Decoder *decoder) noexcept nogil:
    cdef uint8_t first = decoder.head[0]
    decoder.final = first >> 7
    decoder.opcode = first & 0x0F
    if first & 0x70 and not (decoder.deflate and first & 0x70 == RSV1):
        return refuse(decoder, PROTOCOL_ERROR, "reserved bit set without an extension")
    if decoder.opcode > PONG or 3 <= decoder.opcode <= 7:
        return refuse(decoder, PROTOCOL_ERROR, "reserved opcode")
    if decoder.opcode & 8:
        if not decoder.final:
            return refuse(decoder, PROTOCOL_ERROR, "fragmented control frame")
    elif decoder.opcode == CONTINUATION:
        if not decoder.message_opcode:
            return refuse(decoder, PROTOCOL_ERROR, "continuation of nothing")
    elif decoder.message_opcode:
        return refuse(decoder, PROTOCOL_ERROR, "new message inside a fragmented one")
    if first & RSV1 and (decoder.opcode & 8 or decoder.opcode == CONTINUATION):
        return refuse(decoder, PROTOCOL_ERROR, "only the first frame of a message says that it is compressed")
    return STEP_NEED


cdef Step judge_second(Decoder *decoder) noexcept nogil:
    cdef uint8_t length = decoder.head[1] & 0x7F
    if not decoder.head[1] & 0x80:
        return refuse(decoder, PROTOCOL_ERROR, "unmasked frame")
    if decoder.opcode & 8 and length > MAX_CONTROL:
        return refuse(decoder, PROTOCOL_ERROR, "control frame of more than 125 bytes")
    decoder.head_need = 6
    if length == 126:
        decoder.head_need = 8
    elif length == 127:
        decoder.head_need = 14
    return STEP_NEED


cdef uint64_t most_packed(uint64_t size) noexcept nogil:
    return size + (size >> 8) + 1024


cdef Step judge_length(Decoder *decoder) noexcept nogil:
    # Compared while unsigned and of 64 bits, before it is used as a size.
    cdef uint8_t *head = decoder.head
    cdef uint64_t length = head[1] & 0x7F
    cdef int i
    if length >= 126:
        length = 0
        for i in range(2, decoder.head_need - 4):
            length = length << 8 | head[i]
        if length >> 63:
            return refuse(decoder, PROTOCOL_ERROR, "frame length with the top bit set")
        if length < 126 or (decoder.head_need == 14 and length < 65536):
            return refuse(decoder, PROTOCOL_ERROR, "frame length not in its shortest form")
    if not decoder.opcode & 8:
        if decoder.opcode != CONTINUATION:
            decoder.message_opcode = decoder.opcode
            utf8_start(&decoder.utf8)
            decoder.compressed = head[0] & RSV1 != 0
        if decoder.compressed:
            # What it will become is limited while it is inflated. Some is longer compressed than not, but never much.
            if length > most_packed(decoder.max_size) - decoder.packed_size:
                return refuse(decoder, MESSAGE_TOO_BIG, "message too big")
        elif length > decoder.max_size - decoder.message_size:
            return refuse(decoder, MESSAGE_TOO_BIG, "message too big")
    memcpy(decoder.mask, head + decoder.head_need - 4, 4)
    decoder.left = length
    decoder.in_payload = True
    return STEP_NEED


cdef bint grow(uint8_t **buffer, size_t *held, size_t needed, size_t limit) noexcept nogil:
    # By what has arrived, never by what a header announces.
    cdef size_t room = held[0]
    cdef uint8_t *larger
    if needed <= room:
        return True
    room = room * 2 if room else SMALLEST_BUFFER
    if room > limit:
        room = limit
    if room < needed:
        room = needed
    larger = <uint8_t *>realloc(buffer[0], room)
    if larger == NULL:
        return False
    buffer[0] = larger
    held[0] = room
    return True


cdef bint close_code_allowed(uint16_t code) noexcept nogil:
    # §7.4.1, §7.4.2 and the registry: what may stand in a close frame.
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


cdef Step judge_close(Decoder *decoder) noexcept nogil:
    cdef const uint8_t *payload = decoder.payload
    if decoder.payload_size == 0:
        return STEP_EVENT
    if decoder.payload_size == 1:
        return refuse(decoder, PROTOCOL_ERROR, "close frame with half a code")
    if not close_code_allowed(payload[0] << 8 | payload[1]):
        return refuse(decoder, PROTOCOL_ERROR, "close code that is not allowed on the wire")
    if not valid_utf8(payload + 2, decoder.payload_size - 2):
        return refuse(decoder, INVALID_PAYLOAD, "close reason is not UTF-8")
    return STEP_EVENT


cdef void frame_done(Decoder *decoder) noexcept nogil:
    decoder.in_payload = False
    decoder.head_size = 0
    decoder.head_need = 2
    decoder.since = 0


cdef Step control_payload(Decoder *decoder, uint8_t **cursor, size_t available) noexcept nogil:
    cdef size_t taken = decoder.left if decoder.left < available else available
    if decoder.control_size == 0 and taken == decoder.left:
        decoder.payload = cursor[0]
        decoder.payload_size = taken
        unmask_into(cursor[0], cursor[0], taken, decoder.mask)
        cursor[0] += taken
    else:
        if decoder.control == NULL:
            decoder.control = <uint8_t *>malloc(MAX_CONTROL)
            if decoder.control == NULL:
                return refuse(decoder, INTERNAL_ERROR, "out of memory")
        unmask_into(decoder.control + decoder.control_size, cursor[0], taken, decoder.mask)
        rotate_mask(decoder.mask, taken)
        decoder.control_size += <uint8_t>taken
        decoder.left -= taken
        cursor[0] += taken
        if decoder.left:
            return STEP_NEED
        decoder.payload = decoder.control
        decoder.payload_size = decoder.control_size
    frame_done(decoder)
    decoder.spent = True
    return judge_close(decoder) if decoder.opcode == CLOSE else STEP_EVENT


cdef Step packed_payload(Decoder *decoder, uint8_t **cursor, size_t available) noexcept nogil:
    # Inflated only when the message is whole: until then it takes no more memory than has been sent.
    cdef size_t taken = decoder.left if decoder.left < available else available
    cdef uint64_t most = most_packed(decoder.max_size)
    if not grow(&decoder.packed, &decoder.packed_room, decoder.packed_size + taken, most):
        return refuse(decoder, INTERNAL_ERROR, "out of memory")
    unmask_into(decoder.packed + decoder.packed_size, cursor[0], taken, decoder.mask)
    rotate_mask(decoder.mask, taken)
    decoder.packed_size += taken
    cursor[0] += taken
    decoder.left -= taken
    if decoder.left:
        return STEP_NEED
    frame_done(decoder)
    if not decoder.final:
        return STEP_NEED
    decoder.tailed = decoder.full = False
    decoder.inflater = inflater_new()
    if decoder.inflater == NULL:
        return refuse(decoder, INTERNAL_ERROR, "out of memory")
    return inflate_message(decoder)


cdef Step inflate_message(Decoder *decoder) noexcept nogil:
    # From where it was left, slice by slice; stops at the first byte that is too many.
    cdef const uint8_t *source
    cdef const uint8_t *cursor
    cdef size_t size, slice
    while True:
        source = DEFLATE_TAIL if decoder.tailed else decoder.packed
        size = TAIL_SIZE if decoder.tailed else decoder.packed_size
        slice = min(size - decoder.packed_used, <size_t>SLICE_IN)
        if slice or decoder.full:
            cursor = source + decoder.packed_used
            if inflate_slice(decoder, &cursor, cursor + slice) == STEP_FAILED:
                return STEP_FAILED
            decoder.packed_used = cursor - source
        if decoder.packed_used == size and not decoder.full:
            if decoder.tailed or not decoder.inflater.fed:
                break
            decoder.tailed = True
            decoder.packed_used = 0
        elif decoder.deadline and nanoseconds() >= decoder.deadline:
            return STEP_PAUSED
    if not inflater_whole(decoder.inflater):
        return refuse(decoder, INVALID_PAYLOAD, "compressed message that ends in the middle")
    drop_packed(decoder)
    return message_done(decoder, decoder.message, decoder.message_size)


cdef Step inflate_slice(Decoder *decoder, const uint8_t **cursor, const uint8_t *end) noexcept nogil:
    # At most SLICE_OUT bytes of what a slice stands for; ``cursor`` goes behind what has been used.
    cdef Inflated result
    cdef uint8_t one_more
    cdef uint8_t *target
    cdef size_t room, made
    if decoder.message_size == decoder.max_size:
        target, room = &one_more, 1
    else:
        if decoder.message_size == decoder.message_room:
            room = decoder.message_size + 2 * <size_t>(end - cursor[0]) + 1
            if not grow(&decoder.message, &decoder.message_room, min(room, decoder.max_size), decoder.max_size):
                return refuse(decoder, INTERNAL_ERROR, "out of memory")
        target = decoder.message + decoder.message_size
        room = min(decoder.message_room - decoder.message_size, <size_t>SLICE_OUT)
    result = inflater_step(decoder.inflater, cursor, end, target, room, &made)
    if made and target == &one_more:
        return refuse(decoder, MESSAGE_TOO_BIG, "message too big")
    if result == INFLATED_BROKEN:
        return refuse(decoder, INVALID_PAYLOAD, "compressed message that cannot be inflated")
    if decoder.message_opcode == TEXT and not utf8_feed(&decoder.utf8, target, made):
        return refuse(decoder, INVALID_PAYLOAD, "text that is not UTF-8")
    decoder.message_size += made
    decoder.full = result == INFLATED_FULL
    return STEP_NEED


cdef Step message_done(Decoder *decoder, uint8_t *payload, size_t size) noexcept nogil:
    if decoder.message_opcode == TEXT and decoder.utf8.due:
        return refuse(decoder, INVALID_PAYLOAD, "text that ends inside a character")
    decoder.payload = payload
    decoder.payload_size = size
    decoder.opcode = decoder.message_opcode
    decoder.message_opcode = 0
    decoder.begun = 0
    decoder.spent = True
    return STEP_EVENT


cdef Step data_payload(Decoder *decoder, uint8_t **cursor, size_t available) noexcept nogil:
    cdef size_t taken = decoder.left if decoder.left < available else available
    cdef uint8_t *piece
    cdef bint whole = decoder.final and decoder.message_size == 0 and taken == decoder.left
    if whole:  # a message in one piece is unmasked where it lies
        piece = cursor[0]
    else:
        if not grow(&decoder.message, &decoder.message_room, decoder.message_size + taken, decoder.max_size):
            return refuse(decoder, INTERNAL_ERROR, "out of memory")
        piece = decoder.message + decoder.message_size
        decoder.message_size += taken
    unmask_into(piece, cursor[0], taken, decoder.mask)
    rotate_mask(decoder.mask, taken)
    cursor[0] += taken
    decoder.left -= taken
    if decoder.message_opcode == TEXT and not utf8_feed(&decoder.utf8, piece, taken):
        return refuse(decoder, INVALID_PAYLOAD, "text that is not UTF-8")
    if decoder.left:
        return STEP_NEED
    frame_done(decoder)
    if not decoder.final:
        return STEP_NEED
    return message_done(decoder, piece if whole else decoder.message, taken if whole else decoder.message_size)


cdef void decoder_spend(Decoder *decoder) noexcept nogil:
    # The payload of the event just reported is not needed any more.
    if not decoder.spent:
        return
    decoder.spent = False
    if decoder.control_size:
        decoder.control_size = 0
        free(decoder.control)
        decoder.control = NULL
    if not decoder.message_opcode and decoder.message != NULL:
        free(decoder.message)
        decoder.message = NULL
        decoder.message_size = decoder.message_room = 0


cdef Step decoder_step(Decoder *decoder, uint8_t **cursor, const uint8_t *end) noexcept nogil:
    # Consume input up to the next event. Unmasks in place, so the input must be writable.
    cdef Step step
    decoder_spend(decoder)
    if decoder.inflater != NULL:  # it was paused in the middle
        return inflate_message(decoder)
    while True:
        while not decoder.in_payload:
            if not take_head(decoder, cursor, end):
                return STEP_NEED
            if decoder.head_size == 1:
                step = judge_first(decoder)
            elif decoder.head_size == 2:
                step = judge_second(decoder)
            else:
                step = judge_length(decoder)
            if step == STEP_FAILED:
                return step
        if decoder.opcode & 8:
            step = control_payload(decoder, cursor, end - cursor[0])
        elif decoder.compressed:
            step = packed_payload(decoder, cursor, end - cursor[0])
        else:
            step = data_payload(decoder, cursor, end - cursor[0])
        if step != STEP_NEED or decoder.in_payload:
            return step


@cython.final
cdef class FrameDecoder:
    """
    What a client sends, as events: ``feed`` bytes, then call ``next_event`` until it returns None.

    Args:
        max_size: Bytes that a message may have, over all its fragments; one more closes with 1009.
        deflate: Messages may be compressed (permessage-deflate, RFC 7692).
        hurried: Pause as often as a hub without any time would.
    """

    cdef Decoder *decoder
    cdef bytearray source
    cdef size_t position

    def __cinit__(self, size_t max_size, bint deflate=False, bint hurried=False):
        self.decoder = decoder_new(max_size, deflate)
        if self.decoder == NULL:
            raise MemoryError
        self.decoder.deadline = 1 if hurried else 0
        self.source = bytearray()
        self.position = 0

    def __dealloc__(self):
        decoder_free(self.decoder)

    def feed(self, data not None):
        """Add bytes that the client sent."""
        del self.source[:self.position]
        self.position = 0
        self.source += data

    def next_event(self):
        """
        Return the next ``(opcode, payload)``, or None when more bytes are needed.

        A message (TEXT, BINARY) comes whole, whatever its fragments; PING, PONG and CLOSE as they are.

        Raises:
            ProtocolError: The client is at fault; its ``close_code`` says how. Nothing comes after it.
        """
        if self.decoder.failure_code:
            raise ProtocolError(self.decoder.failure.decode(), self.decoder.failure_code)
        cdef uint8_t *start = self.source
        cdef uint8_t *cursor = start + self.position
        cdef Step step = STEP_PAUSED
        while step == STEP_PAUSED:
            step = decoder_step(self.decoder, &cursor, start + len(self.source))
        self.position = cursor - start
        if step == STEP_FAILED:
            raise ProtocolError(self.decoder.failure.decode(), self.decoder.failure_code)
        if step == STEP_NEED:
            return None
        return self.decoder.opcode, PyBytes_FromStringAndSize(<char *>self.decoder.payload, self.decoder.payload_size)
