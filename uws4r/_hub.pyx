"""
The C loop of a hub: an epoll set with all of a worker's descriptors, who listens to what, timers.

A turn is :meth:`Loop.wait` (one stretch without the GIL: epoll and every receive), the hub's
decisions, and :meth:`Loop.flush` (one stretch without the GIL: the fan-out and every send). What a
delivery touches is C data only. Everything here belongs to the one thread that runs the hub, except
:meth:`Loop.wake`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

import os

from uws4r._connection cimport (
    GONE,
    LINGERING,
    SENT_ALL,
    SENT_BLOCKED,
    SENT_ERROR,
    Client,
    Connection,
    Sent,
    State,
    Subscription,
    client_drop_queue,
    client_queue,
    client_send,
)
from uws4r._frames cimport (
    Frame,
    Runs,
    digest_of,
    frame_new,
    frame_release,
    own_expect,
    own_forget,
    own_take,
    unwrap_payload,
)


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
    struct timespec:
        long tv_sec
        long tv_nsec
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *value, itimerspec *old)
    int TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME

cdef extern from "<time.h>" nogil:
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    int c_shutdown "shutdown"(int fd, int how)
    int MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RDWR, SHUT_WR

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *buffer, size_t size)
    ssize_t c_write "write"(int fd, const void *buffer, size_t size)
    int c_close "close"(int fd)

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EWOULDBLOCK, EINTR

cdef enum:
    EVENTS = 512              # ready descriptors taken in one turn
    ARENA = 1 << 20           # bytes that one turn receives from all clients together
    CLIENT_SHARE = 1 << 16    # and from one of them
    LINK_ROOM = 1 << 20       # bytes that one turn reads from the link
    TICK = 100                # milliseconds per slot of the timer wheel
    SLOTS = 256
    TAG_WAKE = 1              # what epoll reports instead of a client's address
    TAG_TIMER = 2
    TAG_LINK = 3
    TAGS = 4
    TEXT = 1
    BINARY = 2


cdef struct Listeners:
    Client **items
    Client *only  # what ``items`` points to while one place is enough, as it is for most channels
    uint32_t count
    uint32_t room
    uint32_t changes  # how many of them want only changes


cdef struct Delivery:
    # A message on its way from the link to the queues of a channel's listeners.
    Listeners *listeners
    void *channel
    Frame *frame
    uint64_t run
    uint64_t digest


cdef uint64_t milliseconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


@cython.final
@cython.no_gc
cdef class Channel:
    """
    A Redis channel that this worker is subscribed to, and its listeners.

    ``interest`` counts the connections that listen or wait to: the channel is kept while it is not 0.
    """

    cdef Listeners listeners
    cdef readonly bytes name
    cdef readonly object facility
    cdef public uint32_t interest

    def __cinit__(self, bytes name not None, facility):
        memset(&self.listeners, 0, sizeof(Listeners))
        self.listeners.items = &self.listeners.only
        self.listeners.room = 1
        self.name = name
        self.facility = facility
        self.interest = 0

    def __dealloc__(self):
        if self.listeners.items != &self.listeners.only:
            free(self.listeners.items)

    def __len__(self):
        return self.listeners.count

    def connections(self):
        """Return the connections that listen."""
        cdef uint32_t i
        return [<Connection><PyObject *>self.listeners.items[i].owner for i in range(self.listeners.count)]


@cython.final
cdef class Loop:
    """
    The descriptors of one worker and what is to be read from and written to them.

    Args:
        max_queue: Bytes that may wait for a client before it counts as slow.
    """

    cdef readonly dict channels     # name -> Channel
    cdef readonly set connections   # every one whose descriptor is open
    cdef readonly bint woken        # this turn: another thread called wake()
    cdef readonly bint link_ready   # this turn: the link has something to read
    cdef readonly bint link_ended   # this turn: the link has come to its end
    cdef readonly uint64_t sent     # messages handed to clients' queues, ever
    cdef readonly uint64_t withheld  # not handed over because of the rules on duplicates, ever
    cdef int epoll
    cdef int wake_fd
    cdef int timer_fd
    cdef int link_fd
    cdef bint link_raw
    cdef bint link_writing
    cdef size_t max_queue
    cdef uint8_t *arena
    cdef uint8_t *link_room
    cdef size_t link_size
    cdef epoll_event *events
    cdef Client **received
    cdef uint32_t received_count
    cdef Client **dirty
    cdef uint32_t dirty_count
    cdef uint32_t dirty_room
    cdef Client **trouble
    cdef uint32_t trouble_count
    cdef Delivery *deliveries
    cdef uint32_t delivery_count
    cdef uint32_t delivery_room
    cdef uint64_t expecting         # own copies expected by all clients together
    cdef Client **wheel
    cdef uint64_t tick              # the wheel has been turned up to here
    cdef uint64_t armed             # what timer_fd is set to, in milliseconds; 0 for not at all
    cdef Runs runs

    def __cinit__(self, size_t max_queue):
        self.epoll = self.wake_fd = self.timer_fd = self.link_fd = -1
        self.max_queue = max_queue
        self.events = <epoll_event *>malloc(EVENTS * sizeof(epoll_event))
        self.arena = <uint8_t *>malloc(ARENA)
        self.link_room = <uint8_t *>malloc(LINK_ROOM)
        self.received = <Client **>malloc(EVENTS * sizeof(Client *))
        self.wheel = <Client **>calloc(SLOTS, sizeof(Client *))
        if not (self.events and self.arena and self.link_room and self.received and self.wheel):
            raise MemoryError
        self.tick = milliseconds() // TICK
        self.channels = {}
        self.connections = set()
        self.runs = Runs()
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.wake_fd = c_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        if self.epoll < 0 or self.wake_fd < 0 or self.timer_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.watch(self.wake_fd, EPOLL_CTL_ADD, EPOLLIN, TAG_WAKE)
        self.watch(self.timer_fd, EPOLL_CTL_ADD, EPOLLIN, TAG_TIMER)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.delivery_count):
            frame_release(self.deliveries[i].frame)
        free(self.deliveries)
        free(self.events)
        free(self.arena)
        free(self.link_room)
        free(self.received)
        free(self.dirty)
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
        c_write(self.wake_fd, &one, 8)

    def wait(self, bint block):
        """Wait until something is ready (or only look, without ``block``) and receive what is there."""
        cdef int timeout = -1 if block and not self.dirty_count and not self.delivery_count else 0
        self.woken = self.link_ready = self.link_ended = False
        with nogil:
            self.receive(timeout)

    cdef void receive(self, int timeout) noexcept nogil:
        cdef int i, ready
        cdef uint64_t tag, value
        cdef size_t used = 0
        cdef Client *client
        self.received_count = 0
        self.link_size = 0
        ready = epoll_wait(self.epoll, self.events, EVENTS, timeout)
        for i in range(ready):
            tag = self.events[i].data.u64
            if tag == TAG_WAKE:
                c_read(self.wake_fd, &value, 8)
                self.woken = True
            elif tag == TAG_TIMER:
                c_read(self.timer_fd, &value, 8)
                self.armed = 0
            elif tag == TAG_LINK:
                self.receive_link(self.events[i].events)
            elif tag >= TAGS:
                client = <Client *>self.events[i].data.ptr
                if self.events[i].events & EPOLLOUT:
                    self.mark(client)
                if self.events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) and ARENA - used >= CLIENT_SHARE:
                    used += self.receive_client(client, self.arena + used)

    cdef size_t receive_client(self, Client *client, uint8_t *buffer) noexcept nogil:
        cdef ssize_t size = recv(client.fd, buffer, CLIENT_SHARE, MSG_DONTWAIT)
        if size < 0 and (errno == EAGAIN or errno == EWOULDBLOCK or errno == EINTR):
            return 0
        client.input = buffer
        client.input_end = buffer
        if size <= 0:
            client.ended = True
            size = 0
        else:
            client.input_end += size
            client.bytes_in += size
            client.heard = milliseconds()
            client.pinged = False
        self.received[self.received_count] = client
        self.received_count += 1
        return size

    cdef void receive_link(self, uint32_t events) noexcept nogil:
        cdef ssize_t size
        self.link_ready = True
        if not self.link_raw:
            return  # TLS: the link reads it itself
        while self.link_size < LINK_ROOM:
            size = recv(self.link_fd, self.link_room + self.link_size, LINK_ROOM - self.link_size, MSG_DONTWAIT)
            if size < 0 and errno == EINTR:
                continue
            if size == 0 or (size < 0 and errno != EAGAIN and errno != EWOULDBLOCK):
                self.link_ended = True
            if size <= 0:
                return
            self.link_size += size

    def received_from(self):
        """Return the connections that this turn received bytes or an end from."""
        cdef uint32_t i
        return [<Connection><PyObject *>self.received[i].owner for i in range(self.received_count)]

    def link_data(self):
        """Return the bytes that this turn read from the link."""
        return PyBytes_FromStringAndSize(<char *>self.link_room, self.link_size)

    # ------------------------------------------------------------ clients

    def add(self, Connection connection not None):
        """Take over a connection: from now on its descriptor is the loop's."""
        cdef Client *client = &connection.client
        self.watch(client.fd, EPOLL_CTL_ADD, EPOLLIN, <uint64_t>client)
        client.opened = client.heard = milliseconds()
        self.connections.add(connection)

    def remove(self, Connection connection not None):
        """Close a connection's descriptor; it has to have left its channels."""
        cdef Client *client = &connection.client
        cdef int fd = client.fd
        self.unset_timer(client)
        if client.dirty:
            self.dirty[client.dirty - 1] = NULL
            client.dirty = 0
        client_drop_queue(client, False)
        self.expecting -= client.own.count
        own_forget(&client.own, <uint64_t>-1)
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, NULL)
        c_shutdown(fd, SHUT_RDWR)  # duplicates, uWSGI's or a child's, do not keep it open
        c_close(fd)
        client.state = GONE
        self.connections.discard(connection)

    def disown(self):
        """In a forked child: close the copies of all descriptors, and leave the parent's clients alone."""
        cdef Connection connection
        for connection in self.connections:
            c_close(connection.client.fd)
            connection.client.state = GONE
        self.connections.clear()
        for fd in (self.epoll, self.wake_fd, self.timer_fd):
            c_close(fd)
        self.epoll = self.wake_fd = self.timer_fd = -1

    def half_close(self, Connection connection not None):
        """Tell the client that nothing more will come; once is enough."""
        if not connection.client.half_closed:
            connection.client.half_closed = True
            c_shutdown(connection.client.fd, SHUT_WR)

    def set_state(self, Connection connection not None, int state):
        connection.client.state = <State>state

    def set_pinged(self, Connection connection not None):
        connection.client.pinged = True

    def set_answered(self, Connection connection not None):
        connection.client.answered = True

    def count_message(self, Connection connection not None):
        connection.client.messages_in += 1

    def silence(self, Connection connection not None):
        """Return for how many seconds nothing has come from the client."""
        return (milliseconds() - connection.client.heard) / 1000.0

    def age(self, Connection connection not None):
        """Return the seconds since the connection was added."""
        return (milliseconds() - connection.client.opened) / 1000.0

    def write(self, Connection connection not None, int opcode, bytes payload not None):
        """Queue one frame for one connection."""
        cdef Frame *frame = frame_new(
            <uint8_t>opcode, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
        )
        if frame == NULL:
            raise MemoryError
        cdef bint queued = self.queue(&connection.client, frame)
        frame_release(frame)
        if not queued:
            raise MemoryError
        if opcode == TEXT or opcode == BINARY:
            connection.client.messages_out += 1

    def mark_dirty(self, Connection connection not None):
        """Try in this turn's flush to send what waits for the connection."""
        if not self.mark(&connection.client):
            raise MemoryError

    def discard(self, Connection connection not None):
        """Forget what waits for a connection, but for the rest of a frame that is out in part."""
        client_drop_queue(&connection.client, True)

    cdef bint mark(self, Client *client) noexcept nogil:
        # Remember that this client is to be written to in this turn.
        cdef Client **larger
        cdef uint32_t room
        if client.dirty:
            return True
        if self.dirty_count == self.dirty_room:
            room = self.dirty_room * 2 if self.dirty_room else 64
            larger = <Client **>realloc(self.trouble, room * sizeof(Client *))
            if larger == NULL:
                return False
            self.trouble = larger  # as long as the list it is made from
            larger = <Client **>realloc(self.dirty, room * sizeof(Client *))
            if larger == NULL:
                return False
            self.dirty = larger
            self.dirty_room = room
        self.dirty[self.dirty_count] = client
        self.dirty_count += 1
        client.dirty = self.dirty_count
        return True

    cdef bint queue(self, Client *client, Frame *frame) noexcept nogil:
        return self.mark(client) and client_queue(client, frame)

    # ------------------------------------------------------------ channels

    def want(self, bytes name not None, facility):
        """Return ``(channel, new)`` for a connection that is going to join it; ``new`` has to be subscribed."""
        cdef Channel channel = self.channels.get(name)
        cdef bint new = channel is None
        if new:
            channel = self.channels[name] = Channel(name, facility)
        channel.interest += 1
        return channel, bool(new)

    def unwant(self, Channel channel not None):
        """Undo one :meth:`want`; return whether nobody wants the channel any more, and forget it then."""
        channel.interest -= 1
        if channel.interest:
            return False
        self.settle()  # deliveries point into the channel
        del self.channels[channel.name]
        return True

    def join(self, Connection connection not None, Channel channel not None):
        """Deliver the channel's messages to the connection, from this place of the link on."""
        cdef Client *client = &connection.client
        cdef Listeners *listeners = &channel.listeners
        cdef uint32_t room
        self.settle()
        cdef Subscription *joined = <Subscription *>realloc(
            client.joined, (client.joined_count + 1) * sizeof(Subscription)
        )
        if joined == NULL:
            raise MemoryError
        client.joined = joined
        cdef Client **larger
        if listeners.count == listeners.room:
            room = listeners.room * 2
            if listeners.items == &listeners.only:
                larger = <Client **>malloc(room * sizeof(Client *))
                if larger != NULL:
                    larger[0] = listeners.only
            else:
                larger = <Client **>realloc(listeners.items, room * sizeof(Client *))
            if larger == NULL:
                raise MemoryError
            listeners.items = larger
            listeners.room = room
        joined[client.joined_count].channel = <void *>channel
        joined[client.joined_count].index = listeners.count
        joined[client.joined_count].delivered = 0
        client.joined_count += 1
        listeners.items[listeners.count] = client
        listeners.count += 1
        listeners.changes += client.changes
        client.last_run = self.runs.number

    def listens(self, Connection connection not None, Channel channel not None):
        """Whether the connection gets the channel's messages."""
        cdef uint32_t i
        for i in range(connection.client.joined_count):
            if connection.client.joined[i].channel == <void *>channel:
                return True
        return False

    def leave_all(self, Connection connection not None):
        """Deliver nothing more to the connection; return the channels that it listened to."""
        cdef Client *client = &connection.client
        cdef list left = []
        cdef Channel channel
        cdef uint32_t i
        self.settle()
        for i in range(client.joined_count):
            channel = <Channel><PyObject *>client.joined[i].channel
            left.append(channel)
            self.unlist(channel, client, client.joined[i].index)
        free(client.joined)
        client.joined = NULL
        client.joined_count = 0
        return left

    cdef void unlist(self, Channel channel, Client *client, uint32_t index):
        # The last listener takes the place of the one that goes.
        cdef Listeners *listeners = &channel.listeners
        cdef Client *last
        cdef uint32_t i
        listeners.count -= 1
        listeners.changes -= client.changes
        last = listeners.items[listeners.count]
        listeners.items[index] = last
        for i in range(last.joined_count):
            if last.joined[i].channel == <void *>channel:
                last.joined[i].index = index

    # ------------------------------------------------------------ messages

    def push(self, bytes name not None, bytes data not None):
        """A message came over the link: frame it once, for all who listen to the channel at this place."""
        cdef Channel channel = self.channels.get(name)
        if channel is None:  # unsubscribed, but the confirmation is still on its way
            self.runs.end()
            return
        cdef bytes payload
        cdef bint text
        payload, text, _ = unwrap_payload(data)
        cdef uint64_t run = self.runs.note(
            name, channel.facility, payload, text, <double>milliseconds() / 1000.0
        )
        if not channel.listeners.count or not payload:
            return
        cdef Delivery *larger
        cdef uint32_t room
        if self.delivery_count == self.delivery_room:
            room = self.delivery_room * 2 if self.delivery_room else 64
            larger = <Delivery *>realloc(self.deliveries, room * sizeof(Delivery))
            if larger == NULL:
                raise MemoryError
            self.deliveries = larger
            self.delivery_room = room
        cdef Frame *frame = frame_new(
            TEXT if text else BINARY, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
        )
        if frame == NULL:
            raise MemoryError
        cdef Delivery *delivery = &self.deliveries[self.delivery_count]
        delivery.listeners = &channel.listeners
        delivery.channel = <void *>channel
        delivery.frame = frame
        delivery.run = run
        # Nobody asks for the digest unless somebody expects a copy of his own or wants changes only.
        delivery.digest = digest_of(payload, text) if self.expecting or channel.listeners.changes else 0
        self.delivery_count += 1

    cdef void settle(self) noexcept:
        # Before the listeners, or what they expect, change: hand out what came before that.
        if self.delivery_count:
            self.fan_out()

    def reply(self):
        """A reply came over the link: what comes after it belongs to another publish."""
        self.settle()
        self.runs.end()

    cdef void fan_out(self) noexcept nogil:
        # Neighbours on one channel are handed out together: each listener's data is fetched once.
        cdef uint32_t start = 0, end, i, k
        cdef Listeners *listeners
        while start < self.delivery_count:
            listeners = self.deliveries[start].listeners
            end = start + 1
            while end < self.delivery_count and self.deliveries[end].listeners == listeners:
                end += 1
            for k in range(listeners.count):
                for i in range(start, end):
                    self.deliver(listeners.items[k], &self.deliveries[i])
            for i in range(start, end):
                frame_release(self.deliveries[i].frame)
            start = end
        self.delivery_count = 0

    cdef void deliver(self, Client *client, Delivery *delivery) noexcept nogil:
        # Asked first: it also notes the message, whatever withholds it.
        cdef bint fresh = not client.changes or self.changed(client, delivery)
        if client.own.count and own_take(&client.own, delivery.channel, delivery.digest):
            self.expecting -= 1
            self.withheld += 1
            return
        if client.last_run == delivery.run:
            self.withheld += 1
            return
        if not fresh:
            self.withheld += 1
            return
        if not self.queue(client, delivery.frame):
            client.ended = True  # no memory: to skip a message silently is worse than to lose the client
            return
        client.last_run = delivery.run
        client.messages_out += 1
        self.sent += 1

    cdef bint changed(self, Client *client, Delivery *delivery) noexcept nogil:
        cdef uint32_t i
        for i in range(client.joined_count):
            if client.joined[i].channel == delivery.channel:
                if client.joined[i].delivered == delivery.digest:
                    return False
                client.joined[i].delivered = delivery.digest
        return True

    def greet(self, Connection connection not None, list values not None):
        """
        Queue the persisted values of a connection's channels, in their order, equal ones once.

        Args:
            values: What Redis holds for each channel that the connection has just joined; None for nothing.
        """
        cdef Client *client = &connection.client
        cdef set seen = set()
        cdef bytes payload
        cdef bint text
        cdef uint32_t i = 0
        for data in values:
            if isinstance(data, bytes) and data:
                payload, text, _ = unwrap_payload(data)
                if i < client.joined_count:
                    client.joined[i].delivered = digest_of(payload, text)
                if payload and (payload, text) not in seen:
                    seen.add((payload, text))
                    self.write(connection, TEXT if text else BINARY, payload)
            i += 1

    def expect(self, Connection connection not None, list channels not None, bytes payload not None,
               bint text, uint64_t publish):
        """The connection publishes ``payload``: withhold its own copy on each of ``channels``."""
        cdef Client *client = &connection.client
        cdef uint64_t digest = digest_of(payload, text)
        cdef Channel channel
        self.settle()  # what came before the publish is no copy of it
        for channel in channels:
            if not own_expect(&client.own, <void *>channel, digest, publish):
                raise MemoryError
            self.expecting += 1

    def forget(self, Connection connection not None, uint64_t publish):
        """Copies of the connection's publishes up to this one can no longer come."""
        cdef Client *client = &connection.client
        self.settle()
        self.expecting -= client.own.count
        own_forget(&client.own, publish)
        self.expecting += client.own.count

    # ------------------------------------------------------------ the second half of a turn

    def flush(self, bytes output not None, size_t offset):
        """
        Send what this turn has queued, the link's ``output`` from ``offset`` on first.

        Returns:
            ``(size, trouble)``: bytes that the link took (-1 when it is broken), and the connections that
            are to be looked at: broken, slow, or flushed while lingering.
        """
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(output) + offset
        cdef size_t size = PyBytes_GET_SIZE(output) - offset
        cdef ssize_t taken = 0
        cdef uint32_t i
        with nogil:
            if size and self.link_raw:
                taken = send(self.link_fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
                if taken < 0 and (errno == EAGAIN or errno == EWOULDBLOCK or errno == EINTR):
                    taken = 0
                elif taken < 0:
                    taken = -1
            self.fan_out()
            self.send_all()
        if self.link_fd >= 0 and self.link_raw:
            self.want_link_writable(taken >= 0 and <size_t>taken < size)
        return taken, [<Connection><PyObject *>self.trouble[i].owner for i in range(self.trouble_count)]

    cdef void send_all(self) noexcept nogil:
        cdef uint32_t i
        cdef Client *client
        cdef Sent outcome
        self.trouble_count = 0
        for i in range(self.dirty_count):
            client = self.dirty[i]
            if client == NULL:
                continue
            client.dirty = 0
            outcome = client_send(client)
            if outcome == SENT_ERROR:
                client.ended = True
            self.want_writable(client, outcome == SENT_BLOCKED)
            if client.ended or self.is_slow(client) or (outcome == SENT_ALL and client.state == LINGERING):
                self.trouble[self.trouble_count] = client
                self.trouble_count += 1
        self.dirty_count = 0

    cdef bint is_slow(self, Client *client) noexcept nogil:
        # One frame alone is always accepted, however large.
        return client.queued > self.max_queue and client.count > 1

    def slow(self, Connection connection not None):
        """Whether more waits for the connection than may."""
        return bool(self.is_slow(&connection.client))

    cdef void want_writable(self, Client *client, bint wanted) noexcept nogil:
        if client.writing != wanted:
            client.writing = wanted
            self.rearm(client)

    cdef void rearm(self, Client *client) noexcept nogil:
        cdef epoll_event event
        event.events = (0 if client.paused else EPOLLIN) | (EPOLLOUT if client.writing else 0)
        event.data.ptr = client
        epoll_ctl(self.epoll, EPOLL_CTL_MOD, client.fd, &event)

    def pause(self, Connection connection not None, bint paused):
        """Receive nothing from the connection until further notice, or again; its own TCP makes it wait."""
        if connection.client.state != GONE and connection.client.paused != paused:
            connection.client.paused = paused
            connection.client.heard = milliseconds()  # a silence that we imposed does not count
            self.rearm(&connection.client)

    # ------------------------------------------------------------ the link's descriptor

    def watch_link(self, int fd, bint raw):
        """Watch the link's descriptor; ``raw`` ones are read and written here, others (TLS) by the link."""
        self.watch(fd, EPOLL_CTL_ADD, EPOLLIN, TAG_LINK)
        self.link_fd = fd
        self.link_raw = raw
        self.link_writing = False

    def unwatch_link(self):
        """Forget the link's descriptor, before the link closes it."""
        if self.link_fd >= 0:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.link_fd, NULL)
            self.link_fd = -1
            self.link_size = 0

    def want_link_writable(self, bint wanted):
        """Wake up also when the link can be written to."""
        if self.link_fd >= 0 and self.link_writing != wanted:
            self.link_writing = wanted
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
        client.due = (milliseconds() + <uint64_t>(seconds * 1000)) // TICK + 1
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

