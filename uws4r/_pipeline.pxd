# What the C loop needs of a link: room for what Redis says, and what waits to be said to it.

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef enum:
    LINK_ROOM = 32 << 20  # bytes that may wait to be handled: as many as Redis keeps for a subscriber by itself


cdef struct Buffer:
    uint8_t *data
    size_t start  # what lies before it has been used up
    size_t end
    size_t room


cdef uint8_t *buffer_reserve(Buffer *buffer, size_t size) noexcept nogil


@cython.final
@cython.no_gc
cdef class Awaited:
    # A command on its way: what to do with its reply, and where its bytes end in the output.
    cdef uint64_t end
    cdef size_t weight  # bytes that it brings back, or is expected to
    cdef object answer
    cdef object context


cdef class Pipeline:
    cdef Buffer input
    cdef Buffer output
    cdef object on_push
    cdef object on_reply
    cdef object reader       # hiredis'
    cdef object nothing      # what it returns where nothing is whole
    cdef object awaited      # a deque of commands without an answer
    cdef uint64_t queued     # bytes that commands have made, ever
    cdef uint64_t written    # of those, handed to the kernel
    cdef size_t weight       # bytes that the commands without an answer bring back
    cdef public bint heard
    cdef bint partial        # what is there is the beginning of one value

    cdef bint takes(self) noexcept nogil
    cdef void took(self, size_t size) noexcept nogil
    cdef void gave(self, size_t size) noexcept nogil
    cdef int reserve(self, size_t size) except -1
    cdef void head(self, uint8_t kind, size_t number) noexcept
    cdef void word(self, bytes word) noexcept
    cdef Awaited expect(self, answer, context, size_t weight)
    cdef int answered(self, reply) except -1
    cdef object parsed(self, const uint8_t *data, size_t size)
    cdef bint ready(self, bint heavy) except -1
    cpdef publish(self, tuple names, bytes data, int64_t expire, answer, context=*, bint passing=*)
