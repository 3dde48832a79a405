# What the connections of a hub share with the decoder; no Python object is involved.

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from uws4r._deflate cimport INFLATER_SIZE, Inflater


cdef struct Utf8:
    # Where an incremental check stands: continuation bytes still due, and the range of the next one.
    uint8_t due
    uint8_t low
    uint8_t high


cdef struct Decoder:
    size_t max_size       # bytes a message may have
    uint64_t left         # payload bytes of the current frame still to come
    uint8_t *message      # payload of the message so far, where it came in pieces; of a compressed one, inflated
    uint8_t *control      # the same for a control frame, at most 125 bytes
    size_t message_size
    size_t message_room   # allocated
    uint8_t *packed       # of a compressed message, its payload on the wire so far
    size_t packed_size
    size_t packed_room    # allocated
    size_t packed_used    # of it, what has been inflated
    Inflater *inflater    # while a compressed message, which is whole, is inflated; else NULL
    uint64_t deadline     # nanoseconds: when to stop inflating, and go on later; 0 for never
    uint8_t *payload      # of the event just reported; valid until the next step
    size_t payload_size
    const char *failure   # why the peer is at fault
    uint16_t failure_code
    uint8_t head[14]      # the frame's header as it comes in
    uint8_t head_size
    uint8_t head_need
    uint8_t control_size
    uint8_t opcode        # of the current frame
    uint8_t message_opcode  # of the message that is under way, 0 for none
    uint8_t mask[4]       # rotated so that mask[0] is for the next byte
    bint in_payload
    bint final
    bint spent            # the buffers' content has been reported
    bint deflate          # messages may be compressed
    bint compressed       # the message that is under way, or just reported, is
    bint tailed           # while it is inflated: the bytes that end it and are not sent are being used
    bint full             # the same: there may be more of it than there was room for
    uint64_t since        # for the owner: when the current frame began; 0 at a frame's end
    uint64_t begun        # the same for the current message
    Utf8 utf8


cdef enum Step:
    STEP_NEED = 0    # all input is consumed
    STEP_EVENT = 1   # decoder.opcode, .payload, .payload_size say what
    STEP_FAILED = 2  # decoder.failure, .failure_code; do not call again
    STEP_PAUSED = 3  # the time is over in the middle of a message; go on with the same input


cdef inline size_t decoder_holds(const Decoder *decoder) noexcept nogil:
    # Bytes of memory for a message that is not yet whole, or not yet inflated.
    return decoder.message_room + decoder.packed_room + (INFLATER_SIZE if decoder.inflater != NULL else 0)

cdef Decoder *decoder_new(size_t max_size, bint deflate) noexcept nogil
cdef void decoder_free(Decoder *decoder) noexcept nogil
cdef bint decoder_idle(const Decoder *decoder) noexcept nogil
cdef bint decoder_in_frame(const Decoder *decoder) noexcept nogil
cdef void decoder_spend(Decoder *decoder) noexcept nogil
cdef Step decoder_step(Decoder *decoder, uint8_t **cursor, const uint8_t *end) noexcept nogil

cdef bint valid_utf8(const uint8_t *data, size_t size) noexcept nogil
cdef bint close_code_allowed(uint16_t code) noexcept nogil
