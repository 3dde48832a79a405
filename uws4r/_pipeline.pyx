"""
Commands on their way to Redis, and what it says: pipelined RESP3, without any I/O.

What every message needs – its PUBLISH, the push, the answer – is packed and parsed here in C. All else that Redis says
is cut off as a whole and parsed by hiredis. The hub's loop moves the bytes.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memmove

from collections import deque

import hiredis

from uws4r.errors import LinkError


# Stores and publishes one message on several channels as one event: the pushes are neighbours on every link. Not
# MULTI: Redis before 7.2 puts the pushes of a connection that listens to what it publishes inside the array that
# EXEC answers. Where Redis does not store (out of memory, its disk is full) it still publishes, and the reply says
# why it has not stored; but for a replica, where a publish reaches only those who are there.
#
# Sent as EVAL, not by its digest: half a microsecond more for Redis, and no answer NOSCRIPT, after
# which a message would be published behind later ones.
PUBLISH_SCRIPT = (
    b"local why for _,name in ipairs(KEYS) do if ARGV[2]~='0' then "
    b"local said=redis.pcall('SET',name,ARGV[1],'EX',ARGV[2]) if said.err then "
    b"if string.find(said.err,'READONLY',1,true) then return said end why=said.err end end "
    b"redis.call('PUBLISH',name,ARGV[1]) end return why"
)

# The same for a message that is not stored. What is stored would then be given to newcomers as the last message, so it
# is emptied, where there is anything. KEEPTTL: nobody keeps a key alive with what is not kept.
PASSING_SCRIPT = PUBLISH_SCRIPT.replace(b"ARGV[1],'EX',ARGV[2]", b"'','XX','KEEPTTL'").replace(b"if said.", b"if said and said.")

cdef bytes PUBLISH = b"PUBLISH"

cdef enum:
    # Redis keeps 32 MiB for a link and then cuts it: what its own commands bring back must be far from that. A client that
    # keeps the hub busy gets a part of it only, so that others need not wait long behind what it has sent.
    WEIGHT_LIMIT = 4 << 20   # bytes that are expected, or not yet written
    IN_FLIGHT_LIMIT = 1000   # commands not yet answered
    HEAVY_WEIGHT_LIMIT = 1 << 20
    HEAVY_IN_FLIGHT_LIMIT = 250
    HEAD = 32               # bytes around a word, at most
    KEPT = 1 << 20          # bytes of a buffer that an idle link keeps
    DEEPEST = 9             # hiredis' limit, of values within values


# ---------------------------------------------------------------- buffers

cdef uint8_t *buffer_reserve(Buffer *buffer, size_t size) noexcept nogil:
    # Room for so many bytes behind those that are there; NULL when there is no memory.
    cdef size_t held = buffer.end - buffer.start, room
    cdef uint8_t *larger
    if buffer.room - buffer.end < size:
        if buffer.room - held >= size and held <= buffer.start:
            memmove(buffer.data, buffer.data + buffer.start, held)
        else:
            room = max(buffer.room, <size_t>4096)
            while room - held < size:
                room *= 2
            larger = <uint8_t *>malloc(room)
            if larger == NULL:
                return NULL
            if held:
                memcpy(larger, buffer.data + buffer.start, held)
            free(buffer.data)
            buffer.data = larger
            buffer.room = room
        buffer.start = 0
        buffer.end = held
    return buffer.data + buffer.end


cdef void buffer_drop(Buffer *buffer, size_t size) noexcept nogil:
    buffer.start += size
    if buffer.start == buffer.end:
        buffer.start = buffer.end = 0
        if buffer.room > KEPT:
            free(buffer.data)
            buffer.data = NULL
            buffer.room = 0


# ---------------------------------------------------------------- RESP3

cdef enum Found:
    WHOLE
    PARTIAL  # the rest has not come yet
    OTHER    # not what was looked for


cdef struct Piece:
    const uint8_t *data
    size_t size


cdef Found line_end(const uint8_t **at, const uint8_t *end) noexcept nogil:
    # Goes behind the next line break.
    cdef const uint8_t *found
    while at[0] < end:
        found = <const uint8_t *>memchr(at[0], c'\r', end - at[0])
        if found == NULL or found + 1 == end:
            break
        at[0] = found + 1
        if found[1] == c'\n':
            at[0] = found + 2
            return WHOLE
    return PARTIAL


cdef Found number_at(const uint8_t **at, const uint8_t *end, int64_t *number) noexcept nogil:
    # A number, and the line break behind it.
    cdef const uint8_t *digit = at[0]
    cdef bint negative = digit < end and digit[0] == c'-'
    cdef int count = 0
    number[0] = 0
    digit += negative
    while digit < end and c'0' <= digit[0] <= c'9':
        if count == 18:  # more might not fit
            return OTHER
        number[0] = number[0] * 10 + (digit[0] - c'0')
        digit += 1
        count += 1
    if digit == end:
        return PARTIAL
    if not count or digit[0] != c'\r':
        return OTHER
    if digit + 1 == end:
        return PARTIAL
    if digit[1] != c'\n':
        return OTHER
    if negative:
        number[0] = -number[0]
    at[0] = digit + 2
    return WHOLE


cdef Found bulk_at(const uint8_t **at, const uint8_t *end, Piece *piece) noexcept nogil:
    # A string with its length in front.
    cdef int64_t size
    cdef Found found
    if at[0] == end:
        return PARTIAL
    if at[0][0] != c'$':
        return OTHER
    at[0] += 1
    found = number_at(at, end, &size)
    if found != WHOLE:
        return found
    if size < 0:
        return OTHER
    if end - at[0] < size + 2:
        return PARTIAL
    piece.data = at[0]
    piece.size = size
    at[0] += size + 2
    return WHOLE


cdef Found message_at(const uint8_t **at, const uint8_t *end, Piece *name, Piece *data) noexcept nogil:
    # A message pushed; nothing else is as frequent.
    cdef const uint8_t *after = at[0] + 17
    cdef Found found
    if end - at[0] <= 17 or memcmp(at[0], b">3\r\n$7\r\nmessage\r\n", 17) != 0:
        return OTHER
    found = bulk_at(&after, end, name)
    if found == WHOLE:
        found = bulk_at(&after, end, data)
    if found == WHOLE:
        at[0] = after
    return found


cdef Found value_at(const uint8_t **at, const uint8_t *end, int depth) noexcept nogil:
    # Goes behind one whole value, whatever it is; OTHER for what is none. So are errors with a length, which hiredis does
    # not know, and verbatim strings, beyond whose end it reads: nothing that the link asks for is answered with one.
    cdef int64_t number
    cdef uint8_t kind
    cdef Found found
    if at[0] == end:
        return PARTIAL
    kind = at[0][0]
    at[0] += 1
    if kind == c'+' or kind == c'-' or kind == c':' or kind == c',' or kind == c'#' or kind == c'(' or kind == c'_':
        return line_end(at, end)
    if kind == c'$':
        found = number_at(at, end, &number)
        if found != WHOLE or number == -1:
            return found
        if number < 0:
            return OTHER
        if end - at[0] < number + 2:
            return PARTIAL
        at[0] += number + 2
        return WHOLE
    if kind == c'*' or kind == c'~' or kind == c'>' or kind == c'%':
        found = number_at(at, end, &number)
        if found != WHOLE or number == -1:
            return found
        if number < 0 or depth == DEEPEST:
            return OTHER
        if kind == c'%':
            number *= 2
        while number > 0:
            found = value_at(at, end, depth + 1)
            if found != WHOLE:
                return found
            number -= 1
        return WHOLE
    return OTHER


# ---------------------------------------------------------------- the pipeline

@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class Awaited:
    pass


cdef class Pipeline:
    """
    Args:
        on_push: Called with channel name and payload of each message, in order.
        on_reply: Called before each reply is handled: what was pushed before it came before it.

    ``heard`` is set whenever something has come.
    """

    def __init__(self, on_push, on_reply):
        self.on_push = on_push
        self.on_reply = on_reply
        self.nothing = object()  # False, hiredis's own sign for it, is also a RESP3 value
        self.reader = hiredis.Reader(notEnoughData=self.nothing)
        self.awaited = deque()

    def __dealloc__(self):
        free(self.input.data)
        free(self.output.data)

    @property
    def in_flight(self):
        """Commands that Redis has not answered."""
        return len(self.awaited)

    cdef bint ready(self, bint heavy) except -1:
        # Whether a publish may be sent now; else it has to wait for its place.
        cdef size_t weight = self.weight + (self.queued - self.written)
        if heavy:
            return <size_t>len(self.awaited) < HEAVY_IN_FLIGHT_LIMIT and weight < HEAVY_WEIGHT_LIMIT
        return <size_t>len(self.awaited) < IN_FLIGHT_LIMIT and weight < WEIGHT_LIMIT

    # ------------------------------------------------------------ commands

    cdef int reserve(self, size_t size) except -1:
        # Room for a whole command, so that none is written in part.
        if buffer_reserve(&self.output, size) == NULL:
            raise MemoryError
        return 0

    cdef void head(self, uint8_t kind, size_t number) noexcept:
        cdef uint8_t *target = self.output.data + self.output.end
        cdef uint8_t digits[20]
        cdef size_t first = 20, size
        while True:
            first -= 1
            digits[first] = c'0' + <uint8_t>(number % 10)
            number //= 10
            if not number:
                break
        size = 20 - first
        target[0] = kind
        memcpy(target + 1, digits + first, size)
        target[size + 1] = c'\r'
        target[size + 2] = c'\n'
        self.output.end += size + 3
        self.queued += size + 3

    cdef void word(self, bytes word) noexcept:
        cdef size_t size = PyBytes_GET_SIZE(word)
        cdef uint8_t *target
        self.head(c'$', size)
        target = self.output.data + self.output.end
        memcpy(target, PyBytes_AS_STRING(word), size)
        target[size] = c'\r'
        target[size + 1] = c'\n'
        self.output.end += size + 2
        self.queued += size + 2

    cdef Awaited expect(self, answer, context, size_t weight):
        # Before the command is written, which cannot fail: no reply may come that nobody waits for.
        cdef Awaited awaited = Awaited()
        awaited.weight = weight
        self.weight += weight
        awaited.answer = answer
        awaited.context = context
        self.awaited.append(awaited)
        return awaited

    def send(self, tuple words not None, answer, context=None, size_t weight=0):
        """
        Send a command of these words.

        Args:
            answer: Called with ``context`` and the reply, which may be an exception; None confirms a subscription.
            weight: Bytes that are expected in return.
        """
        cdef bytes word
        cdef size_t size = HEAD
        for word in words:
            size += HEAD + PyBytes_GET_SIZE(word)
        self.reserve(size)
        cdef Awaited awaited = self.expect(answer, context, weight)
        self.head(c'*', len(words))
        for word in words:
            self.word(word)
        awaited.end = self.queued

    cpdef publish(self, tuple names, bytes data, int64_t expire, answer, context=None, bint passing=False):
        """
        Publish on channels and, with ``expire`` > 0 seconds, store there.

        What is ``passing`` is not stored; with ``expire`` > 0 what is stored there is forgotten.

        ``answer`` gets the error, or the reply: bytes say why Redis has published and not stored.
        """
        cdef bytes name
        cdef Awaited awaited
        cdef size_t weight = PyBytes_GET_SIZE(data) * len(names)  # it may come back on each channel
        if expire <= 0 and len(names) == 1:
            name = names[0]
            self.reserve(4 * HEAD + PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(data))
            awaited = self.expect(answer, context, weight)
            self.head(c'*', 3)
            self.word(PUBLISH)
            self.word(name)
            self.word(data)
            awaited.end = self.queued
        else:
            script = PASSING_SCRIPT if passing else PUBLISH_SCRIPT
            self.send((b"EVAL", script, b"%d" % len(names), *names, data, b"%d" % max(expire, 0)), answer, context, weight)

    # ------------------------------------------------------------ input

    cdef bint takes(self) noexcept nogil:
        # Whether more may be read: of one value, however long, or while less than LINK_ROOM bytes wait.
        return self.partial or self.input.end - self.input.start < LINK_ROOM

    @property
    def full(self):
        """Whether so much waits to be handled that nothing more may be read."""
        return not self.takes()

    cdef void took(self, size_t size) noexcept nogil:
        # So many bytes have been read into the room reserved behind the input.
        self.input.end += size
        self.heard = True

    def feed(self, bytes data not None):
        """Take bytes that have been read elsewhere."""
        cdef uint8_t *target = buffer_reserve(&self.input, PyBytes_GET_SIZE(data))
        if target == NULL:
            raise MemoryError
        memcpy(target, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self.took(PyBytes_GET_SIZE(data))

    def dispatch(self, uint32_t limit):
        """
        Handle at most ``limit`` pushes and replies; return whether there may be more.

        Raises:
            LinkError: Redis sent something that is not RESP3, or that nobody asked for.
        """
        cdef const uint8_t *begin
        cdef const uint8_t *after
        cdef const uint8_t *end
        cdef Piece name, data
        cdef int64_t number
        cdef Found found
        self.partial = False
        for _ in range(limit):
            begin = after = self.input.data + self.input.start
            end = self.input.data + self.input.end
            found = message_at(&after, end, &name, &data)
            if found == WHOLE:
                channel = PyBytes_FromStringAndSize(<const char *>name.data, name.size)
                payload = PyBytes_FromStringAndSize(<const char *>data.data, data.size)
                buffer_drop(&self.input, after - begin)
                self.on_push(channel, payload)
                continue
            if found == OTHER:
                found = value_at(&after, end, 0)
            if found == PARTIAL:
                self.partial = True
                return False
            if found == OTHER:
                raise LinkError(f"not RESP3: what begins with {chr(begin[0])!r}")
            if begin[0] == c':' and after - begin < 20:
                begin += 1
                found = number_at(&begin, end, &number)
                if found == WHOLE:
                    buffer_drop(&self.input, after - (self.input.data + self.input.start))
                    self.answered(number)
                    continue
                begin -= 1
            item = self.parsed(begin, after - begin)
            buffer_drop(&self.input, after - begin)
            if type(item) is not hiredis.PushNotification:
                self.answered(item)
                continue
            kind = item[0] if item else None
            if kind == b"message":
                raise LinkError(f"a message without name and payload: {item!r:.100}")
            if kind in (b"subscribe", b"unsubscribe"):
                self.answered(None)
        return self.input.end > self.input.start

    cdef object parsed(self, const uint8_t *data, size_t size):
        cdef bytes value = PyBytes_FromStringAndSize(<const char *>data, size)
        try:
            self.reader.feed(value)
            item = self.reader.gets()
        except Exception as error:  # also a TypeError, for a map with arrays as keys, or a MemoryError
            raise LinkError(f"not RESP3: {error}") from error
        if item is self.nothing:
            raise LinkError(f"not RESP3: {value!r:.100}")
        return item

    cdef int answered(self, reply) except -1:
        cdef Awaited awaited
        if not self.awaited:
            raise LinkError(f"a reply without a command: {reply!r:.100}")
        awaited = self.awaited.popleft()
        self.weight -= awaited.weight
        self.on_reply()
        awaited.answer(awaited.context, reply)
        return 0

    # ------------------------------------------------------------ output

    @property
    def has_output(self):
        """Whether bytes wait to be written."""
        return self.written < self.queued

    def waiting(self, size_t limit):
        """Return the next bytes to be written, at most ``limit`` of them."""
        return PyBytes_FromStringAndSize(
            <char *>self.output.data + self.output.start, min(limit, self.output.end - self.output.start)
        )

    def wrote(self, size_t size):
        """So many bytes are out."""
        self.gave(size)

    cdef void gave(self, size_t size) noexcept nogil:
        self.written += size
        buffer_drop(&self.output, size)

    # ------------------------------------------------------------ the end

    def forget(self):
        """Let go of everything in flight, without an answer."""
        self.awaited.clear()

    def fail(self, str reason not None):
        """Answer everything in flight with a :class:`~uws4r.errors.LinkError`."""
        cdef Awaited awaited
        waiting, self.awaited = self.awaited, deque()
        for awaited in waiting:
            # Redis cannot have done what was not written as a whole.
            awaited.answer(awaited.context, LinkError(reason, unsent=awaited.end > self.written))
