# What the other extension modules share with the codec; no Python object is involved.

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from uws4r._deflate cimport Deflater


cdef struct Frame:
    # A frame ready for the wire, or several that go out together, shared by all connections that queue it. Only the
    # hub's thread touches one, so the count needs neither the GIL nor atomics.
    size_t size
    Frame *packed      # the same message compressed, one frame for each of the two windows in use; held by this one
    uint32_t holders
    uint8_t window     # NARROW or WIDE, of a compressed one
    uint8_t wire[1]    # ``size`` bytes; none: compressed it would not be shorter


cdef Frame *frame_new(uint8_t opcode, const uint8_t *payload, size_t size) noexcept nogil
cdef Frame *frame_for(Frame *frame, uint8_t window, Deflater *deflater) noexcept nogil
cdef Frame *frame_batch(Frame **frames, uint32_t count) noexcept nogil
cdef void frame_release(Frame *frame) noexcept nogil


cdef struct Expected:
    # One copy of an own message that must not come back (rule "own messages").
    void *channel
    uint64_t digest
    uint64_t publish   # number of the publish that caused it


cdef struct OwnCopies:
    # Those that one client expects, oldest first; NULL where it expects none, as most do.
    uint32_t first
    uint32_t count
    uint32_t room
    Expected items[1]


cdef bint own_expect(OwnCopies **own, void *channel, uint64_t digest, uint64_t publish) noexcept nogil
cdef bint own_take(OwnCopies **own, void *channel, uint64_t digest) noexcept nogil
cdef void own_forget(OwnCopies **own, uint64_t publish) noexcept nogil
cdef void own_free(OwnCopies **own) noexcept nogil


cdef uint64_t digest_of(bytes payload, bint text)
cpdef bytes wrap(bytes payload, bint binary=*, tuple id=*)
cdef tuple unwrap_payload(bytes data)


@cython.final
cdef class Runs:
    cdef uint64_t number
    cdef double heard
    cdef bint open
    cdef bint text
    cdef bytes payload
    cdef uint64_t facility
    cdef list names
    cdef uint64_t note(self, bytes name, uint64_t facility, bytes payload, bint text, double now)
