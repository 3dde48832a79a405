"""
A channel with its listeners, and the table of a worker's channels.

Most clients of a large site have channels of their own: what a channel takes counts as much as what a client takes.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset


@cython.final
@cython.no_gc
cdef class Channel:
    """
    A Redis channel that this worker is subscribed to, and its listeners.

    ``interest`` counts the connections that listen or wait to: the channel is kept while it is not 0.
    """

    def __cinit__(self, bytes name not None, facility):
        memset(&self.listeners, 0, sizeof(Listeners))
        self.listeners.room = 1
        self.name = name
        # Nothing of the name is kept: clients choose it. Python's hash is keyed: nobody can choose two that meet.
        self.facility = <uint64_t>hash(facility)
        self.interest = 0

    def __dealloc__(self):
        if self.listeners.room > 1:
            free(self.listeners.places.many)

    def __len__(self):
        return self.listeners.count


@cython.final
@cython.no_gc
cdef class Channels:
    """
    Channels by name; iterating gives the names.

    A place of the table takes 8 bytes, one of a dict about 20.
    """

    def __cinit__(self):
        self.mask = 7
        self.places = <PyObject **>calloc(self.mask + 1, sizeof(PyObject *))
        if self.places == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef size_t i
        if self.places != NULL:
            for i in range(self.mask + 1):
                if self.places[i] != NULL:
                    Py_DECREF(<Channel>self.places[i])
        free(self.places)

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter([channel.name for channel in self.values()])

    def values(self):
        """Return the channels, in no order."""
        cdef size_t i
        return [<Channel>self.places[i] for i in range(self.mask + 1) if self.places[i] != NULL]

    cpdef Channel get(self, bytes name):
        """Return the channel of this name; None if there is none."""
        cdef size_t place = self.place_of(name)
        return <Channel>self.places[place] if self.places[place] != NULL else None

    cdef size_t place_of(self, bytes name) except? -1:
        # Where it is, or where it would be put. Python's hash is keyed: nobody can choose names that meet.
        cdef size_t place = <size_t>hash(name) & self.mask
        while self.places[place] != NULL and (<Channel>self.places[place]).name != name:
            place = (place + 1) & self.mask
        return place

    cdef int add(self, Channel channel) except -1:
        # One whose name is not in the table.
        if 4 * (self.count + 1) > 3 * (self.mask + 1):
            self.grow()
        self.places[self.place_of(channel.name)] = <PyObject *>channel
        Py_INCREF(channel)
        self.count += 1
        return 0

    cdef int grow(self) except -1:
        cdef size_t i, size = self.mask + 1
        cdef PyObject **old = self.places
        cdef PyObject **places = <PyObject **>calloc(2 * size, sizeof(PyObject *))
        if places == NULL:
            raise MemoryError
        self.places = places
        self.mask = 2 * size - 1
        for i in range(size):
            if old[i] != NULL:
                places[self.place_of((<Channel>old[i]).name)] = old[i]
        free(old)
        return 0

    cdef int remove(self, Channel channel) except -1:
        # Those behind it come up, as far as the next free place; but none before the place that its hash says.
        cdef size_t gap = self.place_of(channel.name), place = gap, home
        if self.places[place] != <PyObject *>channel:
            raise KeyError(channel.name)
        while True:
            place = (place + 1) & self.mask
            if self.places[place] == NULL:
                break
            home = <size_t>hash((<Channel>self.places[place]).name) & self.mask
            if (place - home) & self.mask >= (place - gap) & self.mask:
                self.places[gap] = self.places[place]
                gap = place
        self.places[gap] = NULL
        self.count -= 1
        Py_DECREF(channel)
        return 0
