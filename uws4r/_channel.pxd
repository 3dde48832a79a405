# What the fan-out needs of channels: their listeners, and the table of them by name.

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from uws4r._connection cimport Client


cdef union Places:
    Client *one     # while there is room for one, which is enough for most channels
    Client **many


cdef struct Listeners:
    Places places
    uint32_t count
    uint32_t room
    uint32_t changes  # how many of them want only changes
    uint32_t tapped   # how many of them the hub takes messages for


cdef inline Client **places_of(Listeners *listeners) noexcept nogil:
    return &listeners.places.one if listeners.room == 1 else listeners.places.many


@cython.final
@cython.no_gc  # a name refers to nothing
cdef class Channel:
    cdef Listeners listeners
    cdef readonly bytes name
    cdef uint64_t facility  # its hash: channels of one facility can carry copies of one message
    cdef public uint32_t interest


@cython.final
@cython.no_gc  # nor do channels
cdef class Channels:
    cdef PyObject **places  # of channels, each as near behind the place that its name's hash says as there was room
    cdef size_t mask        # their number less one; the number is a power of two
    cdef size_t count
    cdef size_t place_of(self, bytes name) except? -1
    cdef int grow(self) except -1
    cdef int add(self, Channel channel) except -1
    cdef int remove(self, Channel channel) except -1
    cpdef Channel get(self, bytes name)
