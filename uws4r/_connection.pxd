# One client as the hub's C loop sees it. Only the hub's thread touches it.

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from uws4r._decoder cimport Decoder
from uws4r._frames cimport Frame, OwnCopies


cdef enum State:
    OPEN = 0
    CLOSING = 1    # our close frame is out or queued, the client's is awaited
    LINGERING = 2  # nothing of the client counts any more: flush, half-close, await its end
    GONE = 3       # the descriptor is closed


cdef enum:
    PAUSED_BY_LINK = 1       # reasons to receive nothing from a client: Redis is slower than it
    PAUSED_BY_OVERRIDES = 2  # methods of its subscriber are
    PAUSED_BY_INTAKE = 4     # there is input of it that has not been looked at
    PAUSED_BY_FETCHES = 8    # its place on the link has not been asked for


cdef enum:
    HEAVY = 4  # the first level of clients that others need not wait for


cdef struct Subscription:
    void *channel       # a Channel of the hub, which outlives this entry
    uint32_t index      # of this client among the channel's listeners


cdef struct Queue:
    # Frames that wait for one client, oldest first.
    uint32_t first      # index of the oldest
    uint32_t count
    uint32_t room       # allocated
    size_t sent         # bytes of the oldest frame that are out
    size_t queued       # bytes waiting, without those
    Frame *frames[1]


cdef struct Client:
    # What a delivery touches comes first: 64 bytes, one line of the processor's cache.
    Queue *queue          # NULL while nothing waits
    OwnCopies *own
    uint64_t last_run     # number of the last run of copies delivered
    uint64_t bytes_out
    uint32_t messages_out
    uint32_t dirty        # 1 + index in the hub's list of clients to write to, 0 for not in it
    uint32_t place        # the same in the loop's list of all clients
    int fd
    uint16_t close_code
    uint8_t state         # a State
    uint8_t echo
    uint8_t changes
    uint8_t writing       # EPOLLOUT is on
    uint8_t window        # bits of what it inflates messages with (RFC 7692); 0: it takes none compressed
    uint8_t paused        # why nothing is received, one bit for each reason; 0: it is
    uint8_t tapped        # the hub hands over its messages, instead of queueing them
    uint8_t half_closed
    uint8_t pinged        # an unanswered ping is out
    uint8_t ended         # end of input, or an error of the socket
    uint8_t answered      # the client's close frame is here: nothing to wait for after the flush
    uint8_t level         # by how much of the hub's time it has used of late
    # Then what receiving touches.
    void *owner           # the Connection; alive as long as the loop's list holds it
    Decoder *decoder      # NULL between two messages: an idle client needs none
    const uint8_t *input  # what has been received and not looked at: in the hub's arena, or in ``kept``
    const uint8_t *input_end
    uint8_t *kept         # memory for what a turn has left of it, NULL for none
    uint32_t kept_size
    uint32_t received     # 1 + index among those that this turn has received from, 0 for not there
    Client *line_next     # the intake's lines
    Client **line_link    # what points to this client there, NULL when it is in none
    uint32_t used         # microseconds spent on what it sends; half of that is forgotten in a second
    uint32_t used_at      # milliseconds of the hub's clock, as many as fit: when that was
    uint64_t bytes_in
    uint64_t heard        # milliseconds of the hub's clock, of the last bytes received
    double messages_until  # the same: up to when what the client has sent is its share
    double bytes_until
    uint32_t messages_in
    uint32_t outgoing     # messages of it that wait to be published
    # And the rest.
    uint32_t joined_count
    Subscription *joined
    uint64_t *delivered   # digests of the last message of each of them, for ``&changes``; NULL without
    uint64_t opened       # milliseconds of the hub's clock
    Client *timer_next    # the timer wheel's list
    Client **timer_link   # what points to this client there, NULL when no timer is set
    uint32_t due          # tick of the wheel, since the machine has started
    uint32_t expires      # seconds of the epoch, when the session ends; 0: it has none that is known


cdef struct Shared:
    # What all clients of a hub have together.
    size_t unfinished  # bytes of memory for messages that are not yet whole
    uint64_t deadline  # nanoseconds: when the share of the client at hand is over; 0: it has any time
    bint begun         # the client at hand has had something of it


cdef enum Sent:
    SENT_ALL
    SENT_BLOCKED
    SENT_ERROR


cdef bint client_remember(Client *client) noexcept nogil
cdef void client_forget(Client *client) noexcept nogil
cdef bint client_queue(Client *client, Frame *frame) noexcept nogil
cdef Sent client_send(Client *client) noexcept nogil
cdef void client_drop_queue(Client *client, bint keep_partial) noexcept nogil
cdef void client_drop_message(Client *client, Shared *shared) noexcept nogil


@cython.final
@cython.no_gc
cdef class Limits:
    cdef readonly size_t message_size
    cdef double per_message  # milliseconds that a client has to wait for each, on the average; 0: no limit
    cdef double per_byte
    cdef Shared shared


@cython.final
@cython.no_gc  # what it refers to never refers back
cdef class Connection:  # without methods of C, a pointer to which each would hold
    cdef Client client
    cdef Limits limits
    cdef bytes who            # bytes take 16 less than a str
    cdef public tuple publishes
    cdef bytes session_key    # None for none
    cdef readonly object expire
    cdef public object attachment
    cdef public str close_reason
