"""
Whose input is read next, how much of it, and for how long.

A turn has a budget of time for what clients send, and each client a share of it. A client that was passed over comes
first in the next turn. Time is charged to whoever caused it: clients that have used little of it lately come before those
that have used more, and the *heavy* ones after everything that the others wait for is done. What is left of a client's
input when its share is over is kept, and until that is used up nothing more is received from it, so TCP makes it wait.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from uws4r._clock cimport milliseconds, nanoseconds, worked
from uws4r._connection cimport CLOSING, GONE, HEAVY, PAUSED_BY_INTAKE, Client, Limits, client_drop_message


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, int *value)
    unsigned long FIONREAD

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    int c_shutdown "shutdown"(int fd, int how)
    int MSG_DONTWAIT, SHUT_RDWR

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EWOULDBLOCK, EINTR, ENOENT

cdef enum:
    TURN = 3000000             # nanoseconds that a turn spends on what clients send
    SHARE = 250000             # of them, for one client
    LENT_SHARE = 80000         # the same where an engine reads its clients one by one: all the others come in between
    HALF = 1000                # milliseconds in which half of what a client has used is forgotten
    LEAST = 500                # microseconds: who has used more is one level up, and one more each time that it doubles
    NEWCOMER = 3000            # microseconds that a new client counts as having used: it comes behind those known as modest
    OTHER_WAY = 8              # of so many turns, one begins with those that have used most, lest they starve
    BYTE = 2                   # nanoseconds that a byte of input counts for: it is copied, and Redis and its listeners follow
    CHEAP = 100000             # nanoseconds that are charged without asking what the processor did in them
    ARENA = 1 << 20            # bytes that one turn receives from those that are not heavy together
    CLIENT_SHARE = 1 << 16     # and from one of them
    HEAVY_SHARE = 1 << 13      # from a heavy one
    HEAVIES = 128              # of those, in one turn
    HEAVY_ARENA = HEAVIES * HEAVY_SHARE
    KEPT = 4 << 20             # bytes of input left of earlier turns, beyond which no client is given more than a heavy one
    ROOM = 512                 # clients in one turn


cdef uint32_t used_lately(const Client *client, uint32_t now) noexcept nogil:
    # Microseconds; in between two halvings it falls in a straight line.
    cdef uint32_t passed = now - client.used_at  # however often the milliseconds have overflown
    cdef uint32_t used
    if passed >= 32 * HALF:
        return 0
    used = client.used >> (passed // HALF)
    return used - <uint32_t>(<uint64_t>used * (passed % HALF) // (2 * HALF))


@cython.final
cdef class Intake:
    """The clients of a loop whose input waits. Everything here belongs to the hub's thread."""

    def __cinit__(self, int epoll, Limits limits not None):
        self.epoll = epoll
        self.limits = limits
        for level in range(LEVELS):
            self.lines[level].end = &self.lines[level].first
        self.arena = <uint8_t *>malloc(ARENA + HEAVY_ARENA)
        self.received = <Client **>malloc(ROOM * sizeof(Client *))
        if self.arena == NULL or self.received == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.close()

    cdef void close(self) noexcept:
        free(self.arena)
        free(self.received)
        self.arena = NULL
        self.received = NULL

    # ------------------------------------------------------------ the lines

    cdef void add(self, Client *client) noexcept nogil:
        # A client has come.
        client.opened = client.heard = milliseconds()
        client.used = NEWCOMER
        client.used_at = <uint32_t>client.opened

    cdef bint waits(self) noexcept nogil:
        # Whether the next turn has input to work on that epoll does not tell of.
        cdef int level
        for level in range(LEVELS):
            if self.lines[level].first != NULL:
                return True
        return False

    cdef void put(self, Client *client, uint64_t now) noexcept nogil:
        # At the end of its line.
        cdef Line *line
        cdef uint32_t used
        if self.lent:  # the engine goes on with it
            return
        used = used_lately(client, <uint32_t>now) // LEAST
        client.level = 0
        while used and client.level < LEVELS - 1:
            used >>= 1
            client.level += 1
        line = &self.lines[client.level]
        client.line_next = NULL
        client.line_link = line.end
        line.end[0] = client
        line.end = &client.line_next

    cdef void put_back(self, uint32_t start, uint32_t end) noexcept nogil:
        # Those of this turn for which there was no time: at the front of their line, in the same order.
        cdef Client *client
        cdef Line *line
        while end > start:
            end -= 1
            client = self.received[end]
            if client == NULL:
                continue
            client.received = 0
            self.keep(client)
            if client.paused != PAUSED_BY_INTAKE:  # nothing is left of it, or it has to wait for something else
                continue
            line = &self.lines[client.level]
            client.line_next = line.first
            client.line_link = &line.first
            if line.first != NULL:
                line.first.line_link = &client.line_next
            else:
                line.end = &client.line_next
            line.first = client

    cdef void take(self, Client *client) noexcept nogil:
        # Off its line, if it is on one.
        if client.line_link == NULL:
            return
        client.line_link[0] = client.line_next
        if client.line_next != NULL:
            client.line_next.line_link = client.line_link
        else:
            self.lines[client.level].end = client.line_link
        client.line_link = NULL
        client.line_next = NULL

    # ------------------------------------------------------------ receiving

    cdef void note(self, Client *client, uint32_t events) noexcept nogil:
        # What epoll says of a client; whatever it is, it says it again until it is dealt with.
        if not events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            return
        if self.lent or client.paused & PAUSED_BY_INTAKE:
            # Only an end comes unasked: whoever waits for the client sees it too, or finds it behind what is kept.
            if events & (EPOLLHUP | EPOLLERR):
                epoll_ctl(self.epoll, EPOLL_CTL_DEL, client.fd, NULL)
        elif client.line_link == NULL:
            self.put(client, self.now)

    cdef void receive(self) noexcept nogil:
        cdef size_t used = 0
        cdef size_t share = CLIENT_SHARE if self.kept < KEPT else HEAVY_SHARE
        cdef Client *first
        cdef bint alone
        cdef int i
        self.turn_end = 0
        self.received_count = self.following = 0
        self.behind = False
        self.turns += 1
        for i in range(HEAVY):
            if not self.receive_line(&self.lines[i], &used, ARENA, share, ROOM - HEAVIES):
                break
        self.light_count = self.received_count
        used = ARENA
        for i in range(HEAVY, LEVELS):
            if self.turns % OTHER_WAY == 0:
                i = LEVELS - 1 - (i - HEAVY)
            first = self.lines[i].first
            # One that has the worker to itself, as far as can be seen, need not come in small pieces.
            alone = first != NULL and first.line_next == NULL and self.light_count == self.received_count
            share = CLIENT_SHARE if alone else HEAVY_SHARE
            if not self.receive_line(&self.lines[i], &used, ARENA + HEAVY_ARENA, share, self.light_count + HEAVIES):
                break

    cdef bint receive_line(self, Line *line, size_t *used, size_t end, size_t share, uint32_t most) noexcept nogil:
        # Whether there was room for all who wait there.
        cdef Client *client
        while line.first != NULL:
            if end - used[0] < share or self.received_count >= most:
                return False
            client = line.first
            self.take(client)
            used[0] += self.receive_client(client, self.arena + used[0], share)
        return True

    cdef size_t receive_client(self, Client *client, uint8_t *buffer, size_t share) noexcept nogil:
        cdef ssize_t size = 0
        if not client.paused & PAUSED_BY_INTAKE:
            size = recv(client.fd, buffer, share, MSG_DONTWAIT)
            if size < 0 and (errno == EAGAIN or errno == EWOULDBLOCK or errno == EINTR):
                return 0
            client.input = client.input_end = buffer
            if size <= 0:
                client.ended = True
                size = 0
            else:
                client.input_end += size
                client.bytes_in += size
                client.heard = self.now
                client.pinged = False
        else:
            self.behind = True
        self.received[self.received_count] = client
        self.received_count += 1
        client.received = self.received_count
        return size

    cdef void receive_one(self, Client *client, const uint8_t *early, size_t size) noexcept nogil:
        # From one client, outside of the lines: ``early`` is what a server has read of it itself, or NULL.
        self.now = milliseconds()
        self.turn_end = 0
        self.received_count = self.following = 0
        if early == NULL:
            self.receive_client(client, self.arena, CLIENT_SHARE)
        else:
            memcpy(self.arena, early, size)
            client.input = self.arena
            client.input_end = self.arena + size
            client.bytes_in += size
            self.received[0] = client
            self.received_count = client.received = 1
        self.light_count = self.received_count

    # ------------------------------------------------------------ handing out

    cdef Client *next(self, bint heavy) noexcept nogil:
        # The next client of this turn that is to be read, for a share of the time; NULL when there are no more of its
        # kind, or no time. Of the heavy ones, which come last, one at least goes on in each turn.
        cdef uint64_t now
        cdef Client *client = NULL
        cdef uint32_t end = self.received_count if heavy else self.light_count
        if self.current == NULL and self.following >= end:
            return NULL
        now = nanoseconds()
        if not self.turn_end:
            self.turn_end = now + TURN
            self.worked = worked()
        if self.current != NULL:
            self.settle(now)
        if now >= self.turn_end and not (heavy and self.following == self.light_count):
            self.put_back(self.following, end)
            self.following = end
        while client == NULL and self.following < end:
            client = self.received[self.following]
            self.following += 1
        if client == NULL:
            return NULL
        client.received = 0
        self.current = client
        self.started = now
        self.offered = client.input_end - client.input
        self.limits.shared.deadline = now + (LENT_SHARE if self.lent else SHARE)
        self.limits.shared.begun = False
        return client

    cdef void settle(self, uint64_t now) noexcept nogil:
        # The current client has had its share: charge it, and keep what is left of its input.
        cdef Client *client = self.current
        cdef uint64_t used = now - self.started, present = now // 1000000, processor
        self.current = NULL
        if used > CHEAP:
            # Waiting for the GIL is nobody's fault, and the processor does not work meanwhile.
            processor = worked()
            used = min(used, processor - self.worked)
            self.worked = processor
        used += BYTE * (self.offered - <size_t>(client.input_end - client.input))
        client.used = used_lately(client, <uint32_t>present) + <uint32_t>(used // 1000)
        client.used_at = <uint32_t>present
        self.keep(client)
        if client.paused == PAUSED_BY_INTAKE:
            self.put(client, present)

    cdef void keep(self, Client *client) noexcept nogil:
        # What is left of a client's input, if anything. Until it is used up nothing more is received.
        cdef size_t size = client.input_end - client.input
        cdef bint inflating = client.decoder != NULL and client.decoder.inflater != NULL
        if client.state > CLOSING or not (size or inflating):
            self.drop_input(client)
            return
        if size and client.kept == NULL:
            client.kept = <uint8_t *>malloc(size)
            if client.kept == NULL:
                c_shutdown(client.fd, SHUT_RDWR)  # to lose some of its input is worse than to lose the client
                self.drop_input(client)
                return
            memcpy(client.kept, client.input, size)
            client.kept_size = <uint32_t>size
            self.kept += size
            client.input = client.kept
            client.input_end = client.kept + size
        if not client.paused & PAUSED_BY_INTAKE:
            client.paused |= PAUSED_BY_INTAKE
            self.rearm(client)

    cdef void drop_input(self, Client *client) noexcept nogil:
        self.kept -= client.kept_size
        free(client.kept)
        client.kept = NULL
        client.kept_size = 0
        client.input = client.input_end = NULL
        if client.paused & PAUSED_BY_INTAKE:
            client.paused &= ~<uint8_t>PAUSED_BY_INTAKE
            if client.state != GONE:
                self.rearm(client)

    cdef void deafen(self, Client *client) noexcept nogil:
        # Nothing that the client has sent, or will send, counts any more.
        self.take(client)
        self.drop_input(client)
        client_drop_message(client, &self.limits.shared)

    cdef void forget(self, Client *client) noexcept nogil:
        # The client goes: nothing may point to it any more.
        self.deafen(client)
        if client.received:
            self.received[client.received - 1] = NULL
            client.received = 0
        if self.current == client:
            self.current = NULL

    # ------------------------------------------------------------ what epoll tells of a client

    cdef void rearm(self, Client *client) noexcept nogil:
        cdef epoll_event event
        event.events = (0 if client.paused or self.lent else EPOLLIN) | (EPOLLOUT if client.writing else 0)
        event.data.ptr = client
        if epoll_ctl(self.epoll, EPOLL_CTL_MOD, client.fd, &event) < 0 and errno == ENOENT and not self.lent:
            epoll_ctl(self.epoll, EPOLL_CTL_ADD, client.fd, &event)

    cdef void pause(self, Client *client, uint8_t reason) noexcept nogil:
        if not client.paused & reason:
            client.paused |= reason
            self.take(client)
            self.rearm(client)

    cdef void resume(self, Client *client, uint8_t reason) noexcept nogil:
        if not client.paused & reason:
            return
        client.paused &= ~reason
        client.heard = milliseconds()  # a silence that we imposed does not count
        client.pinged = False
        if client.decoder != NULL:
            client.decoder.since = client.heard if client.decoder.since else 0
            client.decoder.begun = client.heard if client.decoder.begun else 0
        if client.paused == PAUSED_BY_INTAKE:
            if client.received == 0 and client != self.current and client.line_link == NULL:
                self.put(client, client.heard)
        else:
            self.rearm(client)

    cdef bint unread(self, Client *client) noexcept nogil:
        # Whether the client has sent something that nobody has looked at.
        cdef int size = 0
        if client.paused or client.line_link != NULL or client.received:
            return True
        return ioctl(client.fd, FIONREAD, &size) == 0 and size > 0
