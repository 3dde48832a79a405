"""
Descriptors of a handshake.

Python's own functions give the GIL away around each of these system calls, which take less than a microsecond: the
hub's thread takes it then, and the request waits until it has it back. These keep it.
"""

cdef extern from "<fcntl.h>" nogil:
    int F_DUPFD_CLOEXEC
    int fcntl(int fd, int command, ...)

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<sys/socket.h>" nogil:
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

from cpython.exc cimport PyErr_SetFromErrno


def lowest_free(int fd):
    """
    Return the number that the next descriptor gets: the kernel gives out the lowest free one.

    Args:
        fd: An open one.
    Raises:
        OSError: There is none left.
    """
    cdef int number = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if number < 0:
        PyErr_SetFromErrno(OSError)
    c_close(number)
    return number


def duplicate(int fd):
    """
    Return a duplicate of a client's socket, over TCP without Nagle's algorithm: joining small writes is the hub's job.

    Raises:
        OSError: It is not open, or there is no descriptor left.
    """
    cdef int on = 1
    cdef int number = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if number < 0:
        PyErr_SetFromErrno(OSError)
    setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))  # fails on a Unix socket, which has no such thing
    return number
