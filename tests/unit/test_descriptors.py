"""What a handshake does with descriptors."""

import os
import resource
import socket

import pytest

from uws4r._descriptors import duplicate, lowest_free


def test_the_next_descriptor_gets_the_lowest_free_number() -> None:
    told = lowest_free(0)
    taken = os.dup(0)
    assert taken == told
    assert lowest_free(0) > told
    os.close(taken)
    assert lowest_free(0) == told


def test_a_duplicate_is_the_same_socket_and_does_not_wait_with_small_writes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        with socket.socket(fileno=duplicate(client.fileno())) as same:
            assert same.getsockname() == client.getsockname()
            assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert not same.get_inheritable()


def test_a_unix_socket_has_no_delay_anyway() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(fileno=duplicate(ours.fileno())) as same:
        same.send(b"x")
        assert theirs.recv(1) == b"x"


def test_errors_are_pythons() -> None:
    closed = lowest_free(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        duplicate(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lowest_free(closed)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filled = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (closed + 1, hard))
        filled.append(os.dup(0))
        with pytest.raises(OSError, match="Too many open files"):
            lowest_free(0)
        with pytest.raises(OSError, match="Too many open files"):
            duplicate(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filled:
            os.close(fd)
