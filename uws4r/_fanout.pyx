"""
Who listens to what, and the way of a message from the link to the queues of its listeners.

A message is framed once; its listeners queue the same frame. Which of them do not get it is decided
by the rules on duplicates, here and in ``_frames``. What a delivery touches is C data only, so the
hand-out runs without the GIL. Nothing here reads or writes a descriptor.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memmove

from time import monotonic

from uws4r._channel cimport Channel, Channels, Listeners, places_of
from uws4r._connection cimport Client, Connection, Subscription, client_queue
from uws4r._deflate cimport deflater_clear
from uws4r._frames cimport (
    Frame,
    Runs,
    digest_of,
    frame_batch,
    frame_for,
    frame_new,
    frame_release,
    own_expect,
    own_forget,
    own_take,
    unwrap_payload,
)

cdef enum:
    TEXT = 1
    BINARY = 2


cdef inline uint32_t expected_by(Client *client) noexcept nogil:
    return client.own.count if client.own != NULL else 0


@cython.final
@cython.no_gc
cdef class Framed:
    # Holds a frame for as long as Python code refers to it.

    def __dealloc__(self):
        if self.frame != NULL:
            frame_release(self.frame)


@cython.final
cdef class Fanout:
    """The channels of a worker, their listeners, and the deliveries of the present turn."""

    def __cinit__(self):
        self.channels = Channels()
        self.batch_size = 65536
        self.deflater.limited = True
        self.greetings = {}
        self.runs = Runs()

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.delivery_count):
            frame_release(self.deliveries[i].frame)
        free(self.deliveries)
        free(self.batches)
        free(self.dirty)
        free(self.tapped)
        deflater_clear(&self.deflater)

    @property
    def compressed(self):
        """Messages compressed, ever: each counts once for each of the two windows that its listeners have."""
        return self.deflater.count

    # ------------------------------------------------------------ clients to write to

    def write(self, Connection connection not None, int opcode, bytes payload not None):
        """Queue one frame for one connection."""
        cdef Framed framed = self.framed(opcode, payload)
        self.send(&connection.client, framed.frame, framed.packable)

    cdef Framed framed(self, int opcode, bytes payload):
        cdef Framed framed = Framed()
        cdef bint data = opcode == TEXT or opcode == BINARY
        framed.frame = frame_new(
            <uint8_t>opcode, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
        )
        if framed.frame == NULL:
            raise MemoryError
        framed.packable = data and <uint64_t>PyBytes_GET_SIZE(payload) > self.compress_over
        return framed

    cdef void send(self, Client *client, Frame *frame, bint packable) except *:
        if client.window and packable:
            frame = frame_for(frame, client.window, &self.deflater)
        if not self.queue(client, frame):
            raise MemoryError
        if not frame.wire[0] & 8:
            client.messages_out += 1

    cdef void end_turn(self):
        # Those who join in one turn share the frames of what is persisted; longer, those would only take memory.
        if self.greetings:
            self.greetings.clear()
        self.planned = 0

    def mark_dirty(self, Connection connection not None):
        """Try in this turn's flush to send what waits for the connection."""
        if not self.mark(&connection.client):
            raise MemoryError

    cdef bint mark(self, Client *client) noexcept nogil:
        # Remember that this client is to be written to in this turn.
        cdef Client **larger
        cdef uint32_t room
        if client.dirty:
            return True
        if self.dirty_count == self.dirty_room:
            room = self.dirty_room * 2 if self.dirty_room else 64
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

    cdef void part(self, Client *client) noexcept:
        # The client goes: nothing may point to it any more. It has left its channels before.
        if client.dirty:
            self.dirty[client.dirty - 1] = NULL
            client.dirty = 0
        self.expecting -= expected_by(client)
        own_forget(&client.own, <uint64_t>-1)

    # ------------------------------------------------------------ channels

    def want(self, bytes name not None, facility):
        """Return ``(channel, new)`` for a connection that is going to join it; ``new`` has to be subscribed."""
        cdef Channel channel = self.channels.get(name)
        cdef bint new = channel is None
        if new:
            channel = Channel(name, facility)
            self.channels.add(channel)
        channel.interest += 1
        return channel, bool(new)

    def unwant(self, Channel channel not None):
        """Undo one :meth:`want`; return whether nobody wants the channel any more, and forget it then."""
        channel.interest -= 1
        if channel.interest:
            return False
        self.settle()  # deliveries point into the channel
        self.channels.remove(channel)
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
        cdef uint64_t *delivered
        if client.changes:
            delivered = <uint64_t *>realloc(client.delivered, (client.joined_count + 1) * sizeof(uint64_t))
            if delivered == NULL:
                raise MemoryError
            client.delivered = delivered
            delivered[client.joined_count] = 0
        cdef Client **larger
        if listeners.count == listeners.room:
            room = listeners.room * 2
            if listeners.room == 1:
                larger = <Client **>malloc(room * sizeof(Client *))
                if larger != NULL:
                    larger[0] = listeners.places.one
            else:
                larger = <Client **>realloc(listeners.places.many, room * sizeof(Client *))
            if larger == NULL:
                raise MemoryError
            listeners.places.many = larger
            listeners.room = room
        joined[client.joined_count].channel = <void *>channel
        joined[client.joined_count].index = listeners.count
        client.joined_count += 1
        places_of(listeners)[listeners.count] = client
        listeners.count += 1
        listeners.changes += client.changes
        listeners.tapped += client.tapped
        client.last_run = self.runs.number

    def listens(self, Connection connection not None, Channel channel not None):
        """Whether the connection gets the channel's messages."""
        cdef uint32_t i
        for i in range(connection.client.joined_count):
            if connection.client.joined[i].channel == <void *>channel:
                return True
        return False

    def leave(self, Connection connection not None, Channel channel not None):
        """Deliver nothing more of one channel to the connection."""
        cdef Client *client = &connection.client
        cdef uint32_t i, after
        self.settle()
        for i in range(client.joined_count):
            if client.joined[i].channel == <void *>channel:
                self.unlist(channel, client, client.joined[i].index)
                client.joined_count -= 1
                after = client.joined_count - i
                memmove(client.joined + i, client.joined + i + 1, after * sizeof(Subscription))
                if client.changes:
                    memmove(client.delivered + i, client.delivered + i + 1, after * sizeof(uint64_t))
                return

    def channels_of(self, Connection connection not None):
        """Return the channels that the connection listens to."""
        return [<Channel><PyObject *>connection.client.joined[i].channel for i in range(connection.client.joined_count)]

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
        free(client.delivered)
        client.joined = NULL
        client.delivered = NULL
        client.joined_count = 0
        return left

    cdef void unlist(self, Channel channel, Client *client, uint32_t index):
        # The last listener takes the place of the one that goes.
        cdef Listeners *listeners = &channel.listeners
        cdef Client *last
        cdef uint32_t i
        listeners.count -= 1
        listeners.changes -= client.changes
        listeners.tapped -= client.tapped
        last = places_of(listeners)[listeners.count]
        places_of(listeners)[index] = last
        for i in range(last.joined_count):
            if last.joined[i].channel == <void *>channel:
                last.joined[i].index = index

    # ------------------------------------------------------------ messages

    def push(self, bytes name not None, bytes data not None):
        """A message came over the link: frame it once, for all who listen to the channel at this place."""
        cdef Channel channel = self.channels.get(name)
        if channel is None:
            self.runs.end()
            if name == self.control:
                self.on_control(data)
            return  # of others: unsubscribed, but the confirmation is still on its way
        cdef bytes payload
        cdef bint text
        payload, text, _ = unwrap_payload(data)
        if self.heartbeat is not None and payload == self.heartbeat:
            self.runs.end()
            return
        cdef uint64_t run = self.runs.note(
            name, channel.facility, payload, text, monotonic()
        )
        if not channel.listeners.count or not payload:
            return
        self.binary |= not text
        cdef Delivery *larger
        cdef uint32_t room
        if self.delivery_count == self.delivery_room:
            room = self.delivery_room * 2 if self.delivery_room else 64
            larger = <Delivery *>realloc(self.deliveries, room * sizeof(Delivery))
            if larger == NULL:
                raise MemoryError
            self.deliveries = larger
            self.delivery_room = room
        cdef Frame *frame
        if self.delivery_count and self.deliveries[self.delivery_count - 1].run == run:  # a copy
            frame = self.deliveries[self.delivery_count - 1].frame
            frame.holders += 1
        else:
            frame = frame_new(
                TEXT if text else BINARY, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
            )
            if frame == NULL:
                raise MemoryError
        cdef Delivery *delivery = &self.deliveries[self.delivery_count]
        delivery.listeners = &channel.listeners
        delivery.channel = <void *>channel
        delivery.frame = frame
        delivery.run = run
        delivery.packable = <uint64_t>PyBytes_GET_SIZE(payload) > self.compress_over
        # Nobody asks for the digest unless somebody expects a copy of his own or wants changes only.
        delivery.digest = digest_of(payload, text) if self.expecting or channel.listeners.changes else 0
        self.delivery_count += 1
        self.planned += channel.listeners.count
        if channel.listeners.tapped:
            self.settle()
            self.hand_over(name, payload, text)

    cdef void hand_over(self, bytes name, bytes payload, bint text):
        # To the hub, what the fan-out has just set aside for it.
        cdef uint32_t i
        cdef list taken = [
            (<Connection><PyObject *>self.tapped[i].client.owner, bool(self.tapped[i].withheld))
            for i in range(self.tapped_count)
        ]
        self.tapped_count = 0
        for connection, withheld in taken:
            self.on_tapped(connection, name, payload, bool(text), withheld)

    cdef void settle(self) noexcept:
        # Before the listeners, or what they expect, change: hand out what came before that.
        if self.delivery_count:
            self.fan_out()

    def reply(self):
        """
        A reply came over the link, or none can come any more: what follows belongs to another publish.

        Copies expected from before the last one do not come either.
        """
        self.settle()
        self.runs.end()
        if self.published is not None:
            self.forget(self.published, self.published_number)
            self.published = None

    cdef void fan_out(self) noexcept nogil:
        # Neighbours on one channel are handed out together: each listener's data is fetched once.
        cdef uint32_t start = 0, end, i, k
        cdef Listeners *listeners
        cdef Client **places
        while start < self.delivery_count:
            listeners = self.deliveries[start].listeners
            places = places_of(listeners)
            end = start + 1
            while end < self.delivery_count and self.deliveries[end].listeners == listeners:
                end += 1
            if end - start > 1 and listeners.count > 4:
                self.make_batches(start, end)
            for k in range(listeners.count):
                if self.batch_count and self.takes_batches(places[k], start):
                    self.deliver_batches(places[k], start, end)
                else:
                    for i in range(start, end):
                        self.deliver(places[k], &self.deliveries[i])
            for i in range(start, end):
                frame_release(self.deliveries[i].frame)
            for i in range(self.batch_count):
                frame_release(self.batches[i])
            self.batch_count = 0
            start = end
        self.delivery_count = 0

    cdef void make_batches(self, uint32_t start, uint32_t end) noexcept nogil:
        # The same frames, joined to few; without memory for that there are none.
        cdef Frame *frames[64]
        cdef Frame **larger
        cdef uint32_t i, count = 0
        cdef size_t size = 0
        if self.batch_room < end - start:
            larger = <Frame **>realloc(self.batches, (end - start) * sizeof(Frame *))
            if larger == NULL:
                return
            self.batches = larger
            self.batch_room = end - start
        self.batches_packable = False
        for i in range(start, end):
            if count and (count == 64 or size + self.deliveries[i].frame.size > self.batch_size):
                if not self.add_batch(frames, count):
                    return
                count = 0
                size = 0
            frames[count] = self.deliveries[i].frame
            size += frames[count].size
            count += 1
            self.batches_packable |= self.deliveries[i].packable
        self.add_batch(frames, count)

    cdef bint add_batch(self, Frame **frames, uint32_t count) noexcept nogil:
        cdef Frame *batch = frames[0]
        cdef uint32_t i
        if count > 1:
            batch = frame_batch(frames, count)
        else:
            batch.holders += 1
        if batch == NULL:
            for i in range(self.batch_count):
                frame_release(self.batches[i])
            self.batch_count = 0
            return False
        self.batches[self.batch_count] = batch
        self.batch_count += 1
        return True

    cdef bint takes_batches(self, Client *client, uint32_t start) noexcept nogil:
        # Whether no rule on duplicates can withhold one of the messages, and nobody wants them otherwise. Of a run
        # only the first may have come to the client already, on another channel.
        return (
            client.own == NULL
            and not client.changes
            and not client.tapped
            and client.last_run != self.deliveries[start].run
            and not (client.window and self.batches_packable)
        )

    cdef void deliver_batches(self, Client *client, uint32_t start, uint32_t end) noexcept nogil:
        cdef uint32_t i
        client.last_run = self.deliveries[end - 1].run
        client.messages_out += end - start
        self.sent += end - start
        for i in range(self.batch_count):
            if not self.queue(client, self.batches[i]):
                client.ended = True  # as in deliver()
                return

    cdef void deliver(self, Client *client, Delivery *delivery) noexcept nogil:
        cdef bint withheld = self.withhold(client, delivery)
        cdef Frame *frame = delivery.frame
        cdef bint done
        if withheld:
            self.withheld += 1
            done = not client.tapped or self.tap(client, True)
        else:
            client.last_run = delivery.run
            if client.window and delivery.packable and not client.tapped:
                frame = frame_for(frame, client.window, &self.deflater)
            done = self.tap(client, False) if client.tapped else self.queue(client, frame)
            client.messages_out += not client.tapped
            self.sent += 1
        if not done:
            client.ended = True  # no memory: to skip a message silently is worse than to lose the client

    cdef bint withhold(self, Client *client, Delivery *delivery) noexcept nogil:
        # The rules on duplicates. "Changes" is asked first: it also notes the message, whatever withholds it.
        cdef bint fresh = not client.changes or self.changed(client, delivery)
        if client.own != NULL and own_take(&client.own, delivery.channel, delivery.digest):
            self.expecting -= 1
            return True
        return client.last_run == delivery.run or not fresh

    cdef bint tap(self, Client *client, bint withheld) noexcept nogil:
        cdef Tapped *larger
        cdef uint32_t room
        if self.tapped_count == self.tapped_room:
            room = self.tapped_room * 2 if self.tapped_room else 16
            larger = <Tapped *>realloc(self.tapped, room * sizeof(Tapped))
            if larger == NULL:
                return False
            self.tapped = larger
            self.tapped_room = room
        self.tapped[self.tapped_count].client = client
        self.tapped[self.tapped_count].withheld = withheld
        self.tapped_count += 1
        return True

    cdef bint changed(self, Client *client, Delivery *delivery) noexcept nogil:
        cdef uint32_t i
        for i in range(client.joined_count):
            if client.joined[i].channel == delivery.channel:
                if client.delivered[i] == delivery.digest:
                    return False
                client.delivered[i] = delivery.digest
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
        cdef Framed framed
        for data in values:
            if isinstance(data, bytes) and data:
                payload, text, _ = unwrap_payload(data)
                if client.changes and i < client.joined_count:
                    client.delivered[i] = digest_of(payload, text)
                if payload and payload != self.heartbeat and (payload, text) not in seen:
                    seen.add((payload, text))
                    framed = self.greetings.get((payload, text))
                    if framed is None:
                        framed = self.greetings[payload, text] = self.framed(TEXT if text else BINARY, payload)
                    self.send(client, framed.frame, framed.packable)
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

    def answered(self, Connection connection not None, uint64_t publish):
        """Redis has answered this publish: the own copy has come, or comes right behind the answer."""
        if connection.client.own != NULL:
            self.published = connection
            self.published_number = publish

    def forget(self, Connection connection not None, uint64_t publish):
        """Copies of the connection's publishes up to this one can no longer come."""
        cdef Client *client = &connection.client
        self.settle()
        self.expecting -= expected_by(client)
        own_forget(&client.own, publish)
        self.expecting += expected_by(client)
