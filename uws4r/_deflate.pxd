# What the codec needs to compress and to inflate messages; no Python object is involved.

from libc.stdint cimport uint8_t, uint64_t


cdef extern from "<zlib.h>" nogil:
    struct z_stream_s:
        uint8_t *next_in
        unsigned int avail_in
        uint8_t *next_out
        unsigned int avail_out
        int data_type
    ctypedef z_stream_s z_stream


cdef enum:
    INFLATER_SIZE = 40 << 10  # bytes that one takes: zlib's state, and its window


cdef struct Inflater:
    # Of one message; freed at its end.
    z_stream stream
    bint fed     # since it began, or began anew behind a final block


cdef enum Inflated:
    INFLATED_ALL = 0   # the input is consumed, and all it stands for is out
    INFLATED_FULL = 1  # there may be more for which there was no room
    INFLATED_BROKEN = 2


cdef Inflater *inflater_new() noexcept nogil
cdef void inflater_free(Inflater *inflater) noexcept nogil
cdef Inflated inflater_step(
    Inflater *inflater, const uint8_t **cursor, const uint8_t *end, uint8_t *target, size_t room, size_t *made
) noexcept nogil
cdef bint inflater_whole(const Inflater *inflater) noexcept nogil


cdef enum:
    # The windows within which messages are compressed, in bits. Each one in use costs another compression of each
    # message, so there are two: what nearly everybody takes, and the narrowest one of zlib's for all who want less.
    WIDE = 15
    NARROW = 9


cdef struct Deflater:
    bint limited         # it may take half of the time, and no more
    uint64_t busy_until  # nanoseconds: up to when its time is used up; a message that comes earlier goes out as it is
    z_stream *wide    # each is made when first needed
    z_stream *narrow
    size_t count      # messages compressed, ever


cdef size_t deflate_message(
    Deflater *deflater, int window_bits, const uint8_t *source, size_t size, uint8_t **packed
) noexcept nogil
cdef void deflater_clear(Deflater *deflater) noexcept nogil
