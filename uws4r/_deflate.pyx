"""
The compression of messages: raw deflate as permessage-deflate has it (RFC 7692 §7.2), over zlib.

No context is taken over from one message to the next, in either direction. So nothing is kept for a
connection, and a message is compressed once for all of its listeners.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp

from uws4r._clock cimport nanoseconds


cdef extern from "<zlib.h>" nogil:
    enum:
        Z_OK
        Z_STREAM_END
        Z_BUF_ERROR
        Z_SYNC_FLUSH
        Z_DEFLATED
        Z_DEFAULT_STRATEGY
    int deflateInit2(z_stream *stream, int level, int method, int window_bits, int memory_level, int strategy)
    int deflateReset(z_stream *stream)
    int deflate(z_stream *stream, int flush)
    int deflateEnd(z_stream *stream)
    int inflateInit2(z_stream *stream, int window_bits)
    int inflateReset(z_stream *stream)
    int inflate(z_stream *stream, int flush)
    int inflateEnd(z_stream *stream)

cdef enum:
    LEVEL = 3            # a third of the time of zlib's usual 6, for a tenth more bytes
    MEMORY_LEVEL = 8
    MOST = 0x40000000    # bytes given to zlib at a time, whose counts have 32 bits
    SAVED = 10000000     # nanoseconds by which compressing may be ahead of its half of the time
    AT_BLOCK_BEGIN = 128  # in z_stream.data_type
    TAIL_SIZE = 4         # what ends a message and is not sent (§7.2.1)


# ---------------------------------------------------------------- from the client

cdef Inflater *inflater_new() noexcept nogil:
    # NULL when there is no memory. The widest window takes whatever the client uses.
    cdef Inflater *inflater = <Inflater *>calloc(1, sizeof(Inflater))
    if inflater != NULL and inflateInit2(&inflater.stream, -WIDE) != Z_OK:
        free(inflater)
        return NULL
    return inflater


cdef void inflater_free(Inflater *inflater) noexcept nogil:
    if inflater != NULL:
        inflateEnd(&inflater.stream)
        free(inflater)


cdef Inflated inflater_step(
    Inflater *inflater, const uint8_t **cursor, const uint8_t *end, uint8_t *target, size_t room, size_t *made
) noexcept nogil:
    # Never makes more than there is room for: what a few bytes would become is known only by making it.
    cdef z_stream *stream = &inflater.stream
    cdef unsigned int given, space = <unsigned int>(room if room < MOST else MOST)
    cdef size_t left
    cdef int result
    made[0] = 0
    while True:
        left = end - cursor[0]
        given = <unsigned int>(left if left < MOST else MOST)
        stream.next_in = <uint8_t *>cursor[0]
        stream.avail_in = given
        stream.next_out = target + made[0]
        stream.avail_out = space - <unsigned int>made[0]
        inflater.fed |= given > 0
        result = inflate(stream, Z_SYNC_FLUSH)
        cursor[0] += given - stream.avail_in
        made[0] = space - stream.avail_out
        if result == Z_STREAM_END:
            # A final block need not be the last thing in a message (§7.2.3.5).
            if inflateReset(stream) != Z_OK:
                return INFLATED_BROKEN
            inflater.fed = False
            if cursor[0] == end:
                return INFLATED_ALL
        elif result != Z_OK and result != Z_BUF_ERROR:
            return INFLATED_BROKEN
        elif stream.avail_out == 0:
            return INFLATED_FULL
        elif cursor[0] == end:
            return INFLATED_ALL


cdef bint inflater_whole(const Inflater *inflater) noexcept nogil:
    # Whether a message may end here: where a block would begin.
    return not inflater.fed or inflater.stream.data_type & AT_BLOCK_BEGIN


# ---------------------------------------------------------------- to the clients

cdef z_stream *stream_for(Deflater *deflater, int window_bits) noexcept nogil:
    # Kept: making one costs more than compressing a short message does.
    cdef z_stream **kept = &deflater.wide if window_bits == WIDE else &deflater.narrow
    cdef z_stream *stream = kept[0]
    if stream == NULL:
        stream = <z_stream *>calloc(1, sizeof(z_stream))
        if stream == NULL:
            return NULL
        if deflateInit2(stream, LEVEL, Z_DEFLATED, -window_bits, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK:
            free(stream)
            return NULL
        kept[0] = stream
    elif deflateReset(stream) != Z_OK:
        return NULL
    return stream


cdef size_t deflate_message(
    Deflater *deflater, int window_bits, const uint8_t *source, size_t size, uint8_t **packed
) noexcept nogil:
    # Return how many bytes ``packed`` has, which the caller frees; 0 where they would not be fewer.
    cdef z_stream *stream
    cdef uint8_t *target
    cdef size_t made
    cdef uint64_t begin = nanoseconds() if deflater.limited else 0
    cdef int result
    if size >= MOST or deflater.busy_until > begin + SAVED:
        return 0
    stream = stream_for(deflater, window_bits)
    target = <uint8_t *>malloc(size + TAIL_SIZE)
    if stream == NULL or target == NULL:
        free(target)
        return 0
    deflater.count += 1
    stream.next_in = <uint8_t *>source
    stream.avail_in = <unsigned int>size
    stream.next_out = target
    stream.avail_out = <unsigned int>(size + TAIL_SIZE)
    result = deflate(stream, Z_SYNC_FLUSH)
    if deflater.limited:
        deflater.busy_until = max(deflater.busy_until, begin) + 2 * (nanoseconds() - begin)
    if result != Z_OK or stream.avail_out == 0:
        free(target)
        return 0
    made = size + TAIL_SIZE - stream.avail_out
    if made <= TAIL_SIZE or memcmp(target + made - TAIL_SIZE, b"\x00\x00\xff\xff", TAIL_SIZE) != 0:
        free(target)
        return 0
    packed[0] = target
    return made - TAIL_SIZE


cdef void end_stream(z_stream **kept) noexcept nogil:
    if kept[0] != NULL:
        deflateEnd(kept[0])
        free(kept[0])
        kept[0] = NULL


cdef void deflater_clear(Deflater *deflater) noexcept nogil:
    end_stream(&deflater.wide)
    end_stream(&deflater.narrow)
