"""
The C loop of a hub: an epoll set with all of a worker's descriptors, receiving, sending, timers.

A turn is :meth:`Loop.wait` (one stretch without the GIL: epoll and every receive), the hub's
decisions, and :meth:`Loop.flush` (one stretch without the GIL: the fan-out and every send).
Everything here belongs to the one thread that runs the hub, except :meth:`Loop.wake`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

import os

from uws4r._clock cimport CLOCK_MONOTONIC, milliseconds, timespec
from uws4r._connection cimport (
    GONE,
    LINGERING,
    SENT_ALL,
    SENT_BLOCKED,
    SENT_ERROR,
    Client,
    Connection,
    Limits,
    Queue,
    Sent,
    client_drop_queue,
    client_forget,
    client_remember,
    client_send,
)
from uws4r._decoder cimport decoder_holds
from uws4r._fanout cimport Fanout
from uws4r._intake cimport Intake
from uws4r._pipeline cimport Pipeline, buffer_reserve


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int room, int timeout)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<sys/eventfd.h>" nogil:
    int c_eventfd "eventfd"(unsigned int value, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<sys/timerfd.h>" nogil:
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *value, itimerspec *old)
    int TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    int c_shutdown "shutdown"(int fd, int how)
    int MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RDWR, SHUT_WR

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *buffer, size_t size)
    ssize_t c_write "write"(int fd, const void *buffer, size_t size)
    int usleep(unsigned int microseconds)
    int c_close "close"(int fd)

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EWOULDBLOCK, EINTR

cdef enum:
    EVENTS = 512              # ready descriptors taken in one turn
    EARLY = 1 << 16           # bytes that a server may have read of a client itself
    LINK_SHARE = 1 << 20      # bytes that one turn reads from the link
    RUSH = 2                  # milliseconds between two calls, or less, are a rush
    PAUSE = 1000              # microseconds before each turn of one
    FRAME_COST = 64           # bytes that a frame in a queue takes, without its own
    TICK = 100                # milliseconds per slot of the timer wheel
    SLOTS = 256
    TAG_WAKE = 1              # what epoll reports instead of a client's address
    TAG_TIMER = 2
    TAG_LINK = 3
    TAGS = 4


@cython.final
cdef class Loop:
    """
    The descriptors of one worker and what is to be read from and written to them.

    Args:
        fanout: Knows which of them have something to send.
        max_queue: Bytes that may wait for a client before it counts as slow.
        limits: Those of all connections that it will have.
    """

    cdef Client **clients           # those whose descriptors are open; their connections are held
    cdef readonly uint32_t count    # of them; for any thread
    cdef uint32_t room
    cdef readonly bint woken        # this turn: another thread called wake()
    cdef bint waking                # wake() has been called, and what for has not been looked at yet
    cdef uint64_t woken_at          # milliseconds: the last time
    cdef uint64_t rush_until        # the same: calls come one after the other; 0: they do not
    cdef readonly bint link_ready   # this turn: the link has something to read
    cdef readonly bint link_ended   # this turn: the link has come to its end
    cdef readonly bint link_broken  # nothing can be written to it any more
    cdef int epoll
    cdef int wake_fd
    cdef int timer_fd
    cdef Pipeline link              # None while there is no link
    cdef int link_fd
    cdef bint link_raw
    cdef bint link_writing
    cdef size_t max_queue
    cdef Intake intake
    cdef epoll_event *events
    cdef Client **trouble           # after a flush: those that the hub has to look at
    cdef uint32_t trouble_count
    cdef uint32_t trouble_room
    cdef Fanout fanout
    cdef Client **wheel
    cdef uint64_t tick              # the wheel has been turned up to here
    cdef uint64_t armed             # what timer_fd is set to, in milliseconds; 0 for not at all

    def __cinit__(self, Fanout fanout not None, size_t max_queue, Limits limits not None):
        self.epoll = self.wake_fd = self.timer_fd = self.link_fd = -1
        self.fanout = fanout
        self.max_queue = max_queue
        self.events = <epoll_event *>malloc(EVENTS * sizeof(epoll_event))
        self.wheel = <Client **>calloc(SLOTS, sizeof(Client *))
        if not (self.events and self.wheel):
            raise MemoryError
        self.tick = milliseconds() // TICK
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.wake_fd = c_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        if self.epoll < 0 or self.wake_fd < 0 or self.timer_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.intake = Intake(self.epoll, limits)
        self.watch(self.wake_fd, EPOLL_CTL_ADD, EPOLLIN, TAG_WAKE)
        self.watch(self.timer_fd, EPOLL_CTL_ADD, EPOLLIN, TAG_TIMER)

    def __dealloc__(self):
        self.let_go()
        free(self.events)
        free(self.trouble)
        free(self.wheel)
        for fd in (self.epoll, self.wake_fd, self.timer_fd):
            if fd >= 0:
                c_close(fd)

    def fileno(self):
        """The one descriptor that is readable when a turn has something to do."""
        return self.epoll

    cdef int watch(self, int fd, int operation, uint32_t events, uint64_t tag) except -1:
        cdef epoll_event event
        event.events = events
        event.data.u64 = tag
        if epoll_ctl(self.epoll, operation, fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    # ------------------------------------------------------------ the first half of a turn

    def wake(self):
        """Make the running or the next :meth:`wait` return; the only method for other threads."""
        cdef uint64_t one = 1
        if not self.waking:
            self.waking = True
            c_write(self.wake_fd, &one, 8)

    def wait(self, bint block):
        """Wait until something is ready (or only look, without ``block``) and receive what is there."""
        cdef int timeout = 0
        if block and not self.fanout.dirty_count and not self.fanout.delivery_count and not self.intake.waits():
            timeout = -1
        self.woken = self.link_ready = self.link_ended = False
        with nogil:
            self.receive(timeout)
        self.waking = False  # before the hub looks what for

    cdef void receive(self, int timeout) noexcept nogil:
        cdef int i, ready
        cdef uint64_t tag, value
        cdef Client *client
        if timeout and self.rush_until and milliseconds() < self.rush_until:
            # In a rush of handshakes each of them would wake the hub more than once, and a turn costs more than what
            # it does for one. So some of them come together.
            usleep(PAUSE)
        ready = epoll_wait(self.epoll, self.events, EVENTS, timeout)
        self.intake.now = milliseconds()
        for i in range(ready):
            tag = self.events[i].data.u64
            if tag == TAG_WAKE:
                c_read(self.wake_fd, &value, 8)
                self.note_wake()
            elif tag == TAG_TIMER:
                c_read(self.timer_fd, &value, 8)
                self.armed = 0
            elif tag == TAG_LINK:
                self.receive_link(self.events[i].events)
            elif tag >= TAGS:
                client = <Client *>self.events[i].data.ptr
                if self.events[i].events & EPOLLOUT:
                    self.fanout.mark(client)
                self.intake.note(client, self.events[i].events)
        if self.intake.lent and self.link_fd >= 0:
            self.receive_link(EPOLLIN)
        self.intake.receive()

    cdef void note_wake(self) noexcept nogil:
        cdef uint64_t now = milliseconds()
        self.rush_until = now + RUSH if now - self.woken_at <= RUSH else 0
        self.woken_at = now
        self.woken = True

    cdef void receive_link(self, uint32_t events) noexcept nogil:
        cdef ssize_t size
        cdef size_t taken = 0
        cdef uint8_t *room
        self.link_ready = True
        if not self.link_raw:
            return  # TLS: the link reads it itself
        while taken < LINK_SHARE and self.link.takes():
            room = buffer_reserve(&self.link.input, LINK_SHARE - taken)
            if room == NULL:
                return  # no memory now: it stays readable
            size = recv(self.link_fd, room, LINK_SHARE - taken, MSG_DONTWAIT)
            if size < 0 and errno == EINTR:
                continue
            if size == 0 or (size < 0 and errno != EAGAIN and errno != EWOULDBLOCK):
                self.link_ended = True
            if size <= 0:
                return
            self.link.took(size)
            if <size_t>size < LINK_SHARE - taken:
                return  # asking again would only be told EAGAIN
            taken += size

    @property
    def has_input(self):
        """Whether the next turn has input of clients to work on that :meth:`fileno` does not tell of."""
        return bool(self.intake.waits())

    @property
    def behind(self):
        """Whether this turn goes on with clients whose input was too much for an earlier one."""
        return bool(self.intake.behind)

    def next_received(self, bint heavy):
        """
        Return the next connection whose input is to be looked at, for a share of the turn's time; None: no more now.

        To be called until it returns None: only then the last one's share is over.

        Args:
            heavy: One of those that have used much of the hub's time; to be called first for the others.
        """
        cdef Client *client = self.intake.next(heavy)
        return None if client == NULL else <Connection><PyObject *>client.owner

    def receive_from(self, Connection connection not None):
        """Receive what is there from one connection, which the engine has found readable, for :meth:`next_received`."""
        with nogil:
            self.intake.receive_one(&connection.client, NULL, 0)

    def receive_early(self, Connection connection not None, bytes data not None):
        """The same with what a server has read of the connection itself, at most 64 KiB."""
        cdef size_t size = min(<size_t>PyBytes_GET_SIZE(data), <size_t>EARLY)
        self.intake.receive_one(&connection.client, <const uint8_t *>PyBytes_AS_STRING(data), size)

    def unread(self, Connection connection not None):
        """Whether the client has sent something that nobody has looked at."""
        return bool(self.intake.unread(&connection.client))

    def deafen(self, Connection connection not None):
        """Forget what the client has sent, and the part of a message that it has begun: nothing of it counts any more."""
        self.intake.deafen(&connection.client)

    def crowding(self, size_t limit):
        """
        Return whose unfinished messages are the largest, so many that without them all others take ``limit`` bytes.
        """
        cdef size_t total = self.intake.limits.shared.unfinished
        cdef Client *client
        cdef uint32_t i
        cdef list held = [], crowding = []
        for i in range(self.count):
            client = self.clients[i]
            if client.decoder != NULL:
                held.append((decoder_holds(client.decoder), i))
        held.sort(reverse=True)
        for size, place in held:
            if total <= limit:
                break
            total -= size
            crowding.append(<Connection><PyObject *>self.clients[<uint32_t>place].owner)
        return crowding

    # ------------------------------------------------------------ clients

    def lend(self):
        """
        Leave it to the engine to wait for the clients and the link, to close the clients' descriptors, and to call
        :meth:`receive_from`. To be called before there are any.
        """
        self.intake.lent = True

    def take_back(self):
        """The opposite: the engine waits for nothing but :meth:`fileno` any more."""
        cdef Pipeline link = self.link
        cdef int fd = self.link_fd
        cdef uint32_t i
        self.intake.lent = False
        for i in range(self.count):
            self.intake.rearm(self.clients[i])
        if link is not None:
            self.unwatch_link()
            self.watch_link(link, fd, self.link_raw)

    def owns(self, int fd):
        """Whether ``fd`` is the loop's own epoll set, or a duplicate of it."""
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = TAG_WAKE
        return epoll_ctl(fd, EPOLL_CTL_MOD, self.wake_fd, &event) == 0

    @property
    def connections(self):
        """All connections whose descriptors are open, as they are now; for any thread."""
        cdef uint32_t i
        return [<Connection><PyObject *>self.clients[i].owner for i in range(self.count)]

    def add(self, Connection connection not None):
        """Take over a connection: from now on its descriptor is the loop's."""
        cdef Client *client = &connection.client
        cdef uint32_t room
        cdef Client **larger
        if self.count == self.room:
            room = self.room * 2 if self.room else 64
            larger = <Client **>realloc(self.clients, room * sizeof(Client *))
            if larger == NULL:
                raise MemoryError
            self.clients = larger
            self.room = room
        self.watch(client.fd, EPOLL_CTL_ADD, 0 if self.intake.lent else EPOLLIN, <uint64_t>client)
        if not client_remember(client):
            raise MemoryError
        self.intake.add(client)
        Py_INCREF(connection)
        self.clients[self.count] = client
        self.count += 1
        client.place = self.count

    def remove(self, Connection connection not None):
        """Close a connection's descriptor; it has to have left its channels."""
        cdef Client *client = &connection.client
        cdef int fd = client.fd
        self.unset_timer(client)
        self.fanout.part(client)
        self.intake.forget(client)
        client_drop_queue(client, False)
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, NULL)
        client_forget(client)
        c_shutdown(fd, SHUT_RDWR)  # duplicates, uWSGI's or a child's, do not keep it open
        if not self.intake.lent:  # or whoever waits for it finds it readable, and closes it
            c_close(fd)
        client.state = GONE
        if client.place:  # the last one takes it
            self.count -= 1
            self.clients[client.place - 1] = self.clients[self.count]
            self.clients[client.place - 1].place = client.place
            client.place = 0
            Py_DECREF(connection)

    def disown(self):
        """In a forked child: close the copies of all descriptors, and leave the parent's clients alone."""
        cdef uint32_t i
        for i in range(self.count):
            client_forget(self.clients[i])
            c_close(self.clients[i].fd)
            self.clients[i].state = GONE
        self.let_go()
        for fd in (self.epoll, self.wake_fd, self.timer_fd):
            c_close(fd)
        self.epoll = self.wake_fd = self.timer_fd = -1

    cdef void let_go(self) noexcept:
        cdef Client **clients = self.clients
        cdef uint32_t i, count = self.count
        self.clients = NULL
        self.count = self.room = 0
        memset(self.wheel, 0, SLOTS * sizeof(Client *))
        for i in range(count):
            clients[i].place = 0
            Py_DECREF(<Connection><PyObject *>clients[i].owner)
        free(clients)

    def close(self):
        """Give back descriptors and buffers, without waiting for the garbage collector; no turn may follow."""
        for fd in (self.epoll, self.wake_fd, self.timer_fd):
            c_close(fd)
        self.epoll = self.wake_fd = self.timer_fd = -1
        self.intake.close()

    def half_close(self, Connection connection not None):
        """Tell the client that nothing more will come; once is enough."""
        if not connection.client.half_closed:
            connection.client.half_closed = True
            c_shutdown(connection.client.fd, SHUT_WR)

    def silence(self, Connection connection not None):
        """Return for how many seconds nothing has come from the client."""
        return (milliseconds() - connection.client.heard) / 1000.0

    def age(self, Connection connection not None):
        """Return the seconds since the connection was added."""
        return (milliseconds() - connection.client.opened) / 1000.0

    def discard(self, Connection connection not None):
        """Forget what waits for a connection, but for the rest of a frame that is out in part."""
        client_drop_queue(&connection.client, True)

    # ------------------------------------------------------------ the second half of a turn

    def flush(self):
        """
        Send what this turn has queued: first what waits for the link, unless it writes itself.

        Returns:
            The connections that are to be looked at: broken, slow, or flushed while lingering. What became of the
            link says :attr:`link_broken`.
        """
        cdef bint blocked = False
        self.trouble_count = 0
        with nogil:
            if self.link_fd >= 0 and self.link_raw:
                blocked = self.write_link()
            self.fanout.fan_out()
            self.send_all()
        self.fanout.end_turn()
        if self.link_fd >= 0 and self.link_raw:
            self.want_link_writable(blocked)
        return [<Connection><PyObject *>self.trouble[i].owner for i in range(self.trouble_count)]

    cdef bint write_link(self) noexcept nogil:
        # Whether something is left that the kernel has not taken.
        cdef size_t waiting = self.link.output.end - self.link.output.start
        cdef ssize_t size
        if not waiting:
            return False
        size = send(self.link_fd, self.link.output.data + self.link.output.start, waiting, MSG_DONTWAIT | MSG_NOSIGNAL)
        if size < 0:
            self.link_broken = errno != EAGAIN and errno != EWOULDBLOCK and errno != EINTR
            return not self.link_broken
        self.link.gave(size)
        return <size_t>size < waiting

    cdef void send_all(self) noexcept nogil:
        cdef uint32_t i
        cdef Client *client
        cdef Sent outcome
        for i in range(self.fanout.dirty_count):
            client = self.fanout.dirty[i]
            if client == NULL:
                continue
            client.dirty = 0
            outcome = client_send(client)
            if outcome == SENT_ERROR:
                client.ended = True
            self.want_writable(client, outcome == SENT_BLOCKED)
            if client.ended or self.is_slow(client) or (outcome == SENT_ALL and client.state == LINGERING):
                self.report(client)
        self.fanout.dirty_count = 0

    cdef void report(self, Client *client) noexcept nogil:
        cdef Client **larger
        cdef uint32_t room
        if self.trouble_count == self.trouble_room:
            room = self.trouble_room * 2 if self.trouble_room else 64
            larger = <Client **>realloc(self.trouble, room * sizeof(Client *))
            if larger == NULL:
                self.fanout.mark(client)  # again in the next turn
                return
            self.trouble = larger
            self.trouble_room = room
        self.trouble[self.trouble_count] = client
        self.trouble_count += 1

    cdef bint is_slow(self, Client *client) noexcept nogil:
        # One frame alone is always accepted, however large. Of many small ones most of the memory is not their bytes.
        cdef Queue *queue = client.queue
        return queue != NULL and queue.count > 1 and queue.queued + <size_t>queue.count * FRAME_COST > self.max_queue

    def slow(self, Connection connection not None):
        """Whether more waits for the connection than may."""
        return bool(self.is_slow(&connection.client))

    cdef void want_writable(self, Client *client, bint wanted) noexcept nogil:
        if client.writing != wanted:
            client.writing = wanted
            self.intake.rearm(client)

    def pause(self, Connection connection not None, int reason):
        """
        Receive nothing more from the connection; its own TCP makes it wait.

        Args:
            reason: A bit. It goes on when every reason has been taken back with :meth:`resume`.
        """
        if connection.client.state != GONE:
            self.intake.pause(&connection.client, <uint8_t>reason)

    def resume(self, Connection connection not None, int reason):
        """Take back a reason of :meth:`pause`."""
        if connection.client.state != GONE:
            self.intake.resume(&connection.client, <uint8_t>reason)

    # ------------------------------------------------------------ the link's descriptor

    def watch_link(self, Pipeline link not None, int fd, bint raw):
        """Watch the link's descriptor; ``raw`` ones are read and written here, others (TLS) by the link."""
        if not self.intake.lent:
            self.watch(fd, EPOLL_CTL_ADD, EPOLLIN, TAG_LINK)
        self.link = link
        self.link_broken = False
        self.link_fd = fd
        self.link_raw = raw
        self.link_writing = False

    def unwatch_link(self):
        """Forget the link's descriptor, before the link closes it."""
        if self.link_fd >= 0:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.link_fd, NULL)
            self.link_fd = -1
            self.link = None
            self.link_broken = False

    def want_link_writable(self, bint wanted):
        """Wake up also when the link can be written to."""
        if self.link_fd < 0 or self.link_writing == wanted:
            return
        self.link_writing = wanted
        if self.intake.lent:
            self.watch(self.link_fd, EPOLL_CTL_ADD if wanted else EPOLL_CTL_DEL, EPOLLOUT, TAG_LINK)
        else:
            self.watch(self.link_fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT if wanted else EPOLLIN, TAG_LINK)

    # ------------------------------------------------------------ timers

    @property
    def now(self):
        """Seconds of the clock that timers use."""
        return milliseconds() / 1000.0

    def set_timer(self, Connection connection not None, double seconds):
        """Report the connection in :meth:`due` after ``seconds``, to within a tick of 0.1 s; replaces the last."""
        cdef Client *client = &connection.client
        self.unset_timer(client)
        client.due = <uint32_t>((milliseconds() + <uint64_t>(seconds * 1000)) // TICK + 1)
        self.put(client)

    cdef void put(self, Client *client) noexcept nogil:
        # A timer further away than the wheel reaches waits in the last slot and is put again from there.
        cdef uint64_t at = client.due if client.due > self.tick else self.tick + 1
        cdef Client **slot
        if at > self.tick + SLOTS - 1:
            at = self.tick + SLOTS - 1
        slot = &self.wheel[at % SLOTS]
        client.timer_next = slot[0]
        if slot[0] != NULL:
            slot[0].timer_link = &client.timer_next
        client.timer_link = slot
        slot[0] = client

    cdef void unset_timer(self, Client *client) noexcept nogil:
        if client.timer_link != NULL:
            client.timer_link[0] = client.timer_next
            if client.timer_next != NULL:
                client.timer_next.timer_link = client.timer_link
            client.timer_link = NULL
            client.timer_next = NULL

    def sweep(self, double frame_timeout, double message_timeout, uint32_t now):
        """
        Return ``(stuck, expired)``: connections whose frame or message has not become whole in time, or whose session
        ends.

        Args:
            frame_timeout, message_timeout: Seconds; 0 for as long as it takes.
            now: Seconds of the epoch.
        """
        cdef uint64_t present = milliseconds()
        cdef Client *client
        cdef uint32_t i
        cdef list stuck = [], expired = []
        for i in range(self.count):
            client = self.clients[i]
            if client.decoder != NULL and (
                (frame_timeout and client.decoder.since and present > client.decoder.since + frame_timeout * 1000)
                or (message_timeout and client.decoder.begun and present > client.decoder.begun + message_timeout * 1000)
            ):
                if not self.intake.unread(client):  # where its end may be
                    stuck.append(<Connection><PyObject *>client.owner)
            if client.expires and client.expires <= now:
                expired.append(<Connection><PyObject *>client.owner)
        return stuck, expired

    def due(self):
        """Turn the wheel up to now; return the connections whose timers have run out."""
        cdef uint64_t now = milliseconds() // TICK
        cdef Client *client
        cdef Client *following
        cdef list out = []
        while self.tick < now:
            self.tick += 1
            client = self.wheel[self.tick % SLOTS]
            self.wheel[self.tick % SLOTS] = NULL
            while client != NULL:
                following = client.timer_next
                client.timer_link = NULL
                client.timer_next = NULL
                if client.due <= self.tick:
                    out.append(<Connection><PyObject *>client.owner)
                else:
                    self.put(client)
                client = following
        return out

    def arm(self, double at):
        """Make :meth:`wait` return for the wheel's next slot in use, and at ``at`` seconds unless that is 0."""
        cdef uint64_t when = <uint64_t>(at * 1000)
        cdef int i
        for i in range(1, SLOTS):
            if self.wheel[(self.tick + i) % SLOTS] != NULL:
                if when == 0 or (self.tick + i) * TICK < when:
                    when = (self.tick + i) * TICK
                break
        if when == self.armed:
            return
        cdef itimerspec value
        memset(&value, 0, sizeof(value))
        value.it_value.tv_sec = when // 1000
        value.it_value.tv_nsec = (when % 1000) * 1000000
        timerfd_settime(self.timer_fd, TFD_TIMER_ABSTIME, &value, NULL)
        self.armed = when
