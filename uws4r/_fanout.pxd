# What the C loop needs of the fan-out: the clients to write to, and the hand-out without the GIL.

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from uws4r._channel cimport Channel, Channels, Listeners
from uws4r._connection cimport Client, Connection
from uws4r._deflate cimport Deflater
from uws4r._frames cimport Frame, Runs


cdef struct Delivery:
    # A message on its way from the link to the queues of a channel's listeners.
    Listeners *listeners
    void *channel
    Frame *frame
    uint64_t run
    uint64_t digest
    bint packable  # long enough to be compressed


cdef struct Tapped:
    # A listener that the hub takes the message for, and whether the rules on duplicates withhold it.
    Client *client
    bint withheld


@cython.final
@cython.no_gc
cdef class Framed:
    cdef Frame *frame
    cdef bint packable


@cython.final
cdef class Fanout:
    cdef readonly Channels channels  # those that a connection listens or waits to
    cdef readonly uint64_t sent      # messages handed to clients' queues, ever
    cdef readonly uint64_t withheld  # not handed over because of the rules on duplicates, ever
    cdef readonly uint64_t planned   # deliveries of this turn
    cdef readonly bint binary        # some message was not text
    cdef Client **dirty              # those with something to send; NULL for one that has gone
    cdef uint32_t dirty_count
    cdef uint32_t dirty_room
    cdef Delivery *deliveries
    cdef uint32_t delivery_count
    cdef uint32_t delivery_room
    cdef Frame **batches             # while those are handed out: the same, joined to few frames
    cdef uint32_t batch_count
    cdef uint32_t batch_room
    cdef bint batches_packable       # one of the messages is long enough to be compressed
    cdef public size_t batch_size    # bytes of joined frames, at most; a longer frame remains alone
    cdef uint64_t expecting          # own copies expected by all clients together
    cdef Connection published        # its copies of publishes up to ``published_number`` die with the next reply
    cdef uint64_t published_number
    cdef Runs runs
    cdef public object on_tapped     # called with (connection, channel, payload, text, withheld)
    cdef public bytes control        # the name of the channel of orders for workers; None for none
    cdef public object on_control    # called with each of them
    cdef public bytes heartbeat      # a payload that is never delivered; None for none
    cdef public uint64_t compress_over  # bytes; a longer message is compressed for those who agreed on it
    cdef Deflater deflater
    cdef dict greetings              # (payload, text) -> Framed: the persisted values sent in this turn
    cdef Tapped *tapped
    cdef uint32_t tapped_count
    cdef uint32_t tapped_room

    cdef Framed framed(self, int opcode, bytes payload)
    cdef void send(self, Client *client, Frame *frame, bint packable) except *
    cdef void end_turn(self)
    cdef bint mark(self, Client *client) noexcept nogil
    cdef bint queue(self, Client *client, Frame *frame) noexcept nogil
    cdef void part(self, Client *client) noexcept
    cdef void unlist(self, Channel channel, Client *client, uint32_t index)
    cdef void settle(self) noexcept
    cdef void fan_out(self) noexcept nogil
    cdef void make_batches(self, uint32_t start, uint32_t end) noexcept nogil
    cdef bint add_batch(self, Frame **frames, uint32_t count) noexcept nogil
    cdef bint takes_batches(self, Client *client, uint32_t start) noexcept nogil
    cdef void deliver_batches(self, Client *client, uint32_t start, uint32_t end) noexcept nogil
    cdef void deliver(self, Client *client, Delivery *delivery) noexcept nogil
    cdef bint withhold(self, Client *client, Delivery *delivery) noexcept nogil
    cdef bint tap(self, Client *client, bint withheld) noexcept nogil
    cdef void hand_over(self, bytes name, bytes payload, bint text)
    cdef bint changed(self, Client *client, Delivery *delivery) noexcept nogil
