# The clock of a hub: CLOCK_MONOTONIC, without the GIL.

from libc.stdint cimport uint64_t


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC
    int CLOCK_THREAD_CPUTIME_ID


cdef inline uint64_t nanoseconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef inline uint64_t milliseconds() noexcept nogil:
    return nanoseconds() // 1000000


cdef inline uint64_t worked() noexcept nogil:
    # Nanoseconds for which the processor has worked for this thread. A system call; the others are none.
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
