# What the C loop needs of the intake: a line of clients whose input waits, and what one turn takes of it.

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from uws4r._connection cimport Client, Limits


cdef enum:
    LEVELS = 8


cdef struct Line:
    Client *first
    Client **end  # where the next one is put


@cython.final
cdef class Intake:
    cdef int epoll               # the loop's
    cdef Limits limits           # those of the clients
    cdef bint lent               # an engine waits for the clients itself
    cdef uint8_t *arena
    cdef Client **received       # those of this turn, the heavy ones last; NULL for one that has gone
    cdef uint32_t received_count
    cdef uint32_t light_count    # of them, those that are not heavy
    cdef uint32_t following      # the first of them that has not been handed out
    cdef Client *current         # the last one that has; NULL for none
    cdef Line lines[LEVELS]
    cdef uint32_t turns
    cdef bint behind             # this turn has some of whom earlier ones have left something
    cdef uint64_t now            # milliseconds: when epoll last told of clients
    cdef uint64_t kept           # bytes of memory for input that is left of a turn
    cdef uint64_t turn_end       # nanoseconds; 0 until a turn has handed out its first client
    cdef size_t offered          # bytes of its input at that time
    cdef uint64_t started        # the same: since when the current one is at hand
    cdef uint64_t worked         # processor's time, when it was looked at last

    cdef void add(self, Client *client) noexcept nogil
    cdef bint waits(self) noexcept nogil
    cdef void note(self, Client *client, uint32_t events) noexcept nogil
    cdef void receive(self) noexcept nogil
    cdef size_t receive_client(self, Client *client, uint8_t *buffer, size_t share) noexcept nogil
    cdef void receive_one(self, Client *client, const uint8_t *early, size_t size) noexcept nogil
    cdef bint receive_line(self, Line *line, size_t *used, size_t end, size_t share, uint32_t most) noexcept nogil
    cdef void put(self, Client *client, uint64_t now) noexcept nogil
    cdef void put_back(self, uint32_t start, uint32_t end) noexcept nogil
    cdef void take(self, Client *client) noexcept nogil
    cdef Client *next(self, bint heavy) noexcept nogil
    cdef void settle(self, uint64_t now) noexcept nogil
    cdef void keep(self, Client *client) noexcept nogil
    cdef void drop_input(self, Client *client) noexcept nogil
    cdef void deafen(self, Client *client) noexcept nogil
    cdef void forget(self, Client *client) noexcept nogil
    cdef void rearm(self, Client *client) noexcept nogil
    cdef void pause(self, Client *client, uint8_t reason) noexcept nogil
    cdef void resume(self, Client *client, uint8_t reason) noexcept nogil
    cdef bint unread(self, Client *client) noexcept nogil
    cdef void close(self) noexcept
