"""
One client: its descriptor, the state of its decoder, the frames waiting for it, its counters.

It decides nothing: the hub does. It knows the codec; Redis and Django are unknown to it.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from uws4r._clock cimport nanoseconds
from uws4r._decoder cimport (
    STEP_EVENT,
    STEP_FAILED,
    STEP_NEED,
    Decoder,
    Step,
    decoder_free,
    decoder_holds,
    decoder_idle,
    decoder_in_frame,
    decoder_new,
    decoder_spend,
    decoder_step,
)
from uws4r._frames cimport Frame, frame_release, own_free

from uws4r.errors import ProtocolError
from uws4r.quoting import brief


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EWOULDBLOCK, EINTR

cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef enum:
    PIECES = 1024  # IOV_MAX of Linux
    BURST_TIME = 10000  # milliseconds
    POLICY_VIOLATION = 1008

BURST = BURST_TIME / 1000  # seconds of its rates that a client may have saved up


cdef extern from *:
    """
    static void (*uws4r_farewell)(void);
    __attribute__((destructor)) static void uws4r_at_exit(void) { if (uws4r_farewell) uws4r_farewell(); }
    """
    void (*uws4r_farewell)() noexcept nogil


# ---------------------------------------------------------------- an end that no Python code is told of

# By descriptor, the clients whose websockets are open in this process.
cdef Client **open_clients = NULL
cdef size_t open_room = 0
cdef int open_in = 0  # the process


cdef void farewell() noexcept nogil:
    # uWSGI calls no hook of Python's in a worker that is inside a request when it has to end. What is still open when
    # the process has done everything else gets its close frame (1012) here, from C.
    cdef size_t fd
    cdef Client *client
    if open_in != getpid():  # a forked child ends, and its parent's clients are not its own
        return
    for fd in range(open_room):
        client = open_clients[fd]
        if client != NULL and client.state == OPEN and (client.queue == NULL or client.queue.sent == 0):
            send(<int>fd, b"\x88\x02\x03\xf4", 4, MSG_DONTWAIT | MSG_NOSIGNAL)


cdef bint client_remember(Client *client) noexcept nogil:
    global open_clients, open_room, open_in
    cdef size_t fd = client.fd, room
    cdef Client **larger
    if open_in != getpid():
        free(open_clients)
        open_clients = NULL
        open_room = 0
        open_in = getpid()
    if fd >= open_room:
        room = 2 * open_room if 2 * open_room > fd else fd + 64
        larger = <Client **>realloc(open_clients, room * sizeof(Client *))
        if larger == NULL:
            return False
        memset(larger + open_room, 0, (room - open_room) * sizeof(Client *))
        open_clients = larger
        open_room = room
    open_clients[fd] = client
    return True


cdef void client_forget(Client *client) noexcept nogil:
    cdef int fd = client.fd
    if 0 <= fd and <size_t>fd < open_room and open_clients[fd] == client:
        open_clients[fd] = NULL


uws4r_farewell = farewell


# ---------------------------------------------------------------- the queue

cdef Queue *more_room(Client *client) noexcept nogil:
    # In the place of frames that have gone, or in a larger queue: for one message, or for those of a busy turn.
    cdef Queue *queue = client.queue
    cdef Queue *larger
    cdef uint32_t room
    if queue != NULL and queue.first:
        memmove(queue.frames, queue.frames + queue.first, queue.count * sizeof(Frame *))
        queue.first = 0
        return queue
    room = 4 if queue == NULL else max(queue.room * 2, <uint32_t>16)
    larger = <Queue *>realloc(queue, sizeof(Queue) + (room - 1) * sizeof(Frame *))
    if larger == NULL:
        return NULL
    if queue == NULL:
        memset(larger, 0, sizeof(Queue))
    larger.room = room
    client.queue = larger
    return larger


cdef bint client_queue(Client *client, Frame *frame) noexcept nogil:
    # Takes a hold of its own on the frame; False when there is no memory.
    cdef Queue *queue = client.queue
    if queue == NULL or queue.first + queue.count == queue.room:
        queue = more_room(client)
        if queue == NULL:
            return False
    frame.holders += 1
    queue.frames[queue.first + queue.count] = frame
    queue.count += 1
    queue.queued += frame.size
    return True


cdef void forget_queue(Client *client) noexcept nogil:
    # An idle client costs no memory for its queue.
    free(client.queue)
    client.queue = NULL


cdef void client_drop_queue(Client *client, bint keep_partial) noexcept nogil:
    # A frame that is out in part has to be completed before anything else may follow it.
    cdef Queue *queue = client.queue
    cdef uint32_t i, kept
    if queue == NULL:
        return
    kept = 1 if keep_partial and queue.sent else 0
    for i in range(kept, queue.count):
        queue.queued -= queue.frames[queue.first + i].size
        frame_release(queue.frames[queue.first + i])
    queue.count = kept
    if not kept:
        forget_queue(client)


cdef void client_drop_message(Client *client, Shared *shared) noexcept nogil:
    # What there is of a message that is not whole.
    if client.decoder != NULL:
        shared.unfinished -= decoder_holds(client.decoder)
        decoder_free(client.decoder)
        client.decoder = NULL


cdef void taken_by_kernel(Client *client, size_t size) noexcept nogil:
    cdef Queue *queue = client.queue
    cdef Frame *frame
    client.bytes_out += size
    queue.queued -= size
    size += queue.sent
    queue.sent = 0
    while queue.count:
        frame = queue.frames[queue.first]
        if size < frame.size:
            queue.sent = size
            return
        size -= frame.size
        frame_release(frame)
        queue.first += 1
        queue.count -= 1
    forget_queue(client)


cdef Sent client_send(Client *client) noexcept nogil:
    # All frames that wait, in as few system calls as IOV_MAX allows.
    cdef iovec pieces[PIECES]
    cdef msghdr message
    cdef uint32_t i, count
    cdef size_t whole
    cdef ssize_t size
    cdef Frame *frame
    cdef Queue *queue
    while client.queue != NULL:
        queue = client.queue
        frame = queue.frames[queue.first]
        if queue.count == 1:
            whole = frame.size - queue.sent
            size = send(client.fd, frame.wire + queue.sent, whole, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            count = queue.count if queue.count < PIECES else PIECES
            pieces[0].iov_base = frame.wire + queue.sent
            pieces[0].iov_len = whole = frame.size - queue.sent
            for i in range(1, count):
                frame = queue.frames[queue.first + i]
                pieces[i].iov_base = frame.wire
                pieces[i].iov_len = frame.size
                whole += frame.size
            memset(&message, 0, sizeof(message))
            message.msg_iov = pieces
            message.msg_iovlen = count
            size = sendmsg(client.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if size < 0:
            if errno == EINTR:
                continue
            return SENT_BLOCKED if errno == EAGAIN or errno == EWOULDBLOCK else SENT_ERROR
        taken_by_kernel(client, size)
        if <size_t>size < whole:
            return SENT_BLOCKED  # asking again would only be told EAGAIN
    return SENT_ALL


@cython.final
@cython.no_gc
cdef class Limits:
    """
    What each client of a worker may send.

    Args:
        message_size: Bytes of one message.
        message_rate: Messages and control frames a second; 0: any number.
        byte_rate: Bytes a second, inflated; 0: any number.

    The rates are averages: a client may save up to :data:`BURST` seconds of them.
    """

    @property
    def unfinished(self):
        """Bytes of memory that messages take which are not yet whole, of all clients."""
        return self.shared.unfinished

    def __cinit__(self, size_t message_size, double message_rate=0.0, double byte_rate=0.0):
        self.message_size = message_size
        self.per_message = 1000.0 / message_rate if message_rate else 0.0
        self.per_byte = 1000.0 / byte_rate if byte_rate else 0.0


# ---------------------------------------------------------------- what comes in

cdef int decode(Connection connection) except -1:
    # Up to the next event of the input at hand: 1 for one, 0 for none left, or no time.
    cdef Client *client = &connection.client
    cdef Shared *shared = &connection.limits.shared
    cdef uint8_t *cursor = <uint8_t *>client.input
    cdef Step step
    # However late it is, each share is good for something.
    if shared.begun and shared.deadline and nanoseconds() >= shared.deadline:
        return 0
    shared.begun = True
    if client.decoder == NULL:
        client.decoder = decoder_new(connection.limits.message_size, client.window != 0)
        if client.decoder == NULL:
            raise MemoryError
    client.decoder.deadline = shared.deadline
    shared.unfinished -= decoder_holds(client.decoder)
    step = decoder_step(client.decoder, &cursor, client.input_end)
    shared.unfinished += decoder_holds(client.decoder)
    count_input(client, connection.limits, cursor - client.input, step == STEP_EVENT)
    client.input = cursor
    if step == STEP_FAILED:
        client.input = client.input_end
        raise ProtocolError(client.decoder.failure.decode(), client.decoder.failure_code)
    if step == STEP_NEED:
        used_up(client, shared)
    return step == STEP_EVENT


cdef void used_up(Client *client, Shared *shared) noexcept nogil:
    # All that came of the client has been decoded; between two messages nothing is left of that.
    cdef Decoder *decoder = client.decoder
    if decoder_idle(decoder):
        client_drop_message(client, shared)
        return
    if decoder_in_frame(decoder) and decoder.since == 0:
        decoder.since = client.heard
    if decoder.message_opcode and decoder.begun == 0:
        decoder.begun = client.heard


cdef int count_input(Client *client, Limits limits, size_t size, bint event) except -1:
    # Each message and byte puts off the time up to which the client has had its share.
    cdef double now = <double>client.heard
    if event:
        client.messages_until = max(client.messages_until, now) + limits.per_message
        if client.decoder.compressed and not client.decoder.opcode & 8:
            size += client.decoder.payload_size
    client.bytes_until = max(client.bytes_until, now) + limits.per_byte * size
    if client.messages_until > now + BURST_TIME:
        raise ProtocolError("too many messages", POLICY_VIOLATION)
    if client.bytes_until > now + BURST_TIME:
        raise ProtocolError("too many bytes", POLICY_VIOLATION)
    return 0


@cython.final
@cython.no_gc
cdef class Connection:
    """
    One open websocket of a client.

    Args:
        fd: The socket; the hub closes it.
        identity: Who it is, for the log.
        publishes: Names of the channels that the client's messages go to.
        expire: Seconds for which a client's message is also stored; 0 for not at all.
        limits: What the client may send.
        echo: Give the client its own messages back.
        changes: Withhold a message equal to the one before on the same channel.
        window: Bits, 9 or 15, where the handshake agreed on compressing messages (RFC 7692); else 0.
        attachment: What it waits to join; the hub clears it.
    """

    def __cinit__(
        self, int fd, str identity not None, tuple publishes, expire, Limits limits not None, bint echo, bint changes, int window,
        attachment,
    ):
        memset(&self.client, 0, sizeof(self.client))
        self.limits = limits
        self.client.owner = <void *>self
        self.client.fd = fd
        self.client.echo = echo
        self.client.changes = changes
        self.client.window = <uint8_t>window
        self.who = identity.encode()
        self.publishes = publishes
        self.expire = expire
        self.attachment = attachment
        self.close_reason = ""

    def __dealloc__(self):
        client_forget(&self.client)
        client_drop_queue(&self.client, False)
        client_drop_message(&self.client, &self.limits.shared)
        free(self.client.kept)
        own_free(&self.client.own)
        free(self.client.joined)
        free(self.client.delivered)

    def __str__(self):
        return f"#{self.client.fd} {brief(self.identity)}"

    @property
    def identity(self):
        """Who it is, as the text that it was made with."""
        return self.who.decode()

    @property
    def session(self):
        """The key of the client's session; None where it has none."""
        return None if self.session_key is None else self.session_key.decode("utf-8", "surrogatepass")

    @session.setter
    def session(self, key):
        self.session_key = None if key is None else str(key).encode("utf-8", "surrogatepass")

    def next_event(self):
        """
        Return the next ``(opcode, payload)`` of what this turn received, None when there is no more.

        Raises:
            ProtocolError: The client broke RFC 6455; see :class:`~uws4r._frames.FrameDecoder`.
        """
        if not decode(self):
            return None
        cdef Client *client = &self.client
        cdef Shared *shared = &self.limits.shared
        cdef bytes payload = PyBytes_FromStringAndSize(<char *>client.decoder.payload, client.decoder.payload_size)
        cdef object event = (client.decoder.opcode, payload)
        shared.unfinished -= decoder_holds(client.decoder)
        decoder_spend(client.decoder)
        shared.unfinished += decoder_holds(client.decoder)
        if client.input == client.input_end:
            used_up(client, shared)
        return event

    @property
    def fd(self):
        """The descriptor's number; -1 when it is closed."""
        return self.client.fd

    def set_state(self, int state):
        """Go on to another ``State``; there is no way back."""
        self.client.state = <uint8_t>state

    def count_message(self):
        """One more message has come from the client."""
        self.client.messages_in += 1

    @property
    def is_open(self):
        """Whether messages still go in and out."""
        return self.client.state == OPEN

    @property
    def reads(self):
        """Whether there may be a next event: there is input, what the client sends still counts, and nothing has to wait."""
        cdef Client *client = &self.client
        return (
            (client.input != client.input_end or (client.decoder != NULL and client.decoder.inflater != NULL))
            and client.state <= CLOSING
            and not client.paused & ~PAUSED_BY_INTAKE
        )

    @property
    def lingers(self):
        """Whether only the end is awaited: of the flush, and of the client's side."""
        return self.client.state == LINGERING

    @property
    def answered(self):
        """Whether the client's close frame has come."""
        return bool(self.client.answered)

    @answered.setter
    def answered(self, bint answered):
        self.client.answered = answered

    @property
    def is_gone(self):
        """Whether the descriptor is closed."""
        return self.client.state == GONE

    @property
    def ended(self):
        """Whether the client's side has ended: no more input will come."""
        return bool(self.client.ended)

    @property
    def unread(self):
        """Whether there is something of the client that has been received, still counts, and has not been looked at."""
        cdef Client *client = &self.client
        return client.state <= CLOSING and (
            client.input != client.input_end or (client.decoder != NULL and client.decoder.inflater != NULL)
        )

    @property
    def pinged(self):
        """Whether a ping is unanswered."""
        return bool(self.client.pinged)

    @pinged.setter
    def pinged(self, bint pinged):
        self.client.pinged = pinged

    @property
    def paused(self):
        """Whether nothing is received from the client for now."""
        return self.client.paused != 0

    @property
    def goes_on(self):
        """Whether there is input of the client that the hub may look at as soon as it has time."""
        return self.client.paused == PAUSED_BY_INTAKE

    @property
    def tapped(self):
        """Whether what the client would get is handed to the hub; to be set before it joins a channel."""
        return bool(self.client.tapped)

    @tapped.setter
    def tapped(self, bint tapped):
        self.client.tapped = tapped

    @property
    def echo(self):
        """Whether the client gets its own messages back."""
        return bool(self.client.echo)

    @property
    def close_code(self):
        """The code that the connection ends with; 0 while it is open."""
        return self.client.close_code

    @close_code.setter
    def close_code(self, int code):
        self.client.close_code = code

    @property
    def expires(self):
        """When the client's session ends, in seconds of the epoch; 0: it has none that is known."""
        return self.client.expires

    @expires.setter
    def expires(self, uint64_t expires):
        self.client.expires = <uint32_t>min(expires, <uint64_t>0xFFFFFFFF)  # in 2106: nobody stays so long

    @property
    def queued(self):
        """Bytes that wait for the client; only the hub's thread may ask."""
        return self.client.queue.queued if self.client.queue != NULL else 0

    @property
    def traffic(self):
        """``(messages in, bytes in, messages out, bytes out)``; bytes as on the wire."""
        return self.client.messages_in, self.client.bytes_in, self.client.messages_out, self.client.bytes_out
