"""Commands packed and replies parsed without a Redis: what is fast has to be what hiredis would have said."""

import itertools
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uws4r._pipeline import PASSING_SCRIPT, PUBLISH_SCRIPT, Pipeline
from uws4r.errors import LinkError

Said = list[tuple[str, Any]]


def made(said: Said, awaited: int = 0) -> Pipeline:
    pipeline = Pipeline(lambda name, data: said.append(("push", (name, data))), lambda: said.append(("reply", None)))
    for number in range(awaited):
        pipeline.send((b"HELLO", b"3"), lambda context, reply: said.append((f"answer {context}", reply)), number)
    return pipeline


def heard(*parts: bytes, awaited: int = 0) -> Said:
    said: Said = []
    pipeline = made(said, awaited)
    for part in parts:
        pipeline.feed(part)
        assert not pipeline.dispatch(1000)
    return said


def message(name: bytes, data: bytes) -> bytes:
    return b">3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(data), data)


def sent(pipeline: Pipeline) -> list[list[bytes]]:
    """The commands in the output, as a Redis would read them."""
    reader = hiredis.Reader(notEnoughData=reader_end)
    reader.feed(pipeline.waiting(1 << 30))
    commands: list[list[bytes]] = []
    while (command := reader.gets()) is not reader_end:
        commands.append(command)
    return commands


reader_end = object()

VALUES = st.recursive(
    st.one_of(
        st.none().map(lambda _: b"_\r\n"),
        st.integers(-(1 << 63), (1 << 63) - 1).map(lambda n: b":%d\r\n" % n),
        st.binary(max_size=40).map(lambda data: b"$%d\r\n%b\r\n" % (len(data), data)),
        st.just(b"$-1\r\n"),
        st.just(b"*-1\r\n"),
        st.sampled_from([b"+OK\r\n", b"-ERR no\r\n", b"#t\r\n", b",1.5\r\n", b"(123456789012345678901\r\n"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: b"*%d\r\n%b" % (len(items), b"".join(items))),
        st.lists(inner, max_size=3).map(
            lambda items: b"%%%d\r\n%b" % (len(items), b"".join(b"+k%d\r\n%b" % pair for pair in enumerate(items)))
        ),
    ),
    max_leaves=8,
)
PUSHES = st.tuples(st.binary(max_size=20), st.binary(max_size=300)).map(lambda both: message(*both))


@given(st.lists(st.one_of(VALUES, PUSHES), max_size=12), st.lists(st.integers(0, 2000), max_size=6))
def test_however_it_is_cut_it_is_what_hiredis_says(values: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(values)
    reader = hiredis.Reader(notEnoughData=reader_end)
    reader.feed(stream)
    expected: Said = []
    replies = 0
    while (item := reader.gets()) is not reader_end:
        if isinstance(item, hiredis.PushNotification):
            expected.append(("push", tuple(item[1:])))
        else:
            expected += [("reply", None), (f"answer {replies}", item)]
            replies += 1
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    parts = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
    got = heard(*parts, awaited=replies)
    assert [(kind, repr(what)) for kind, what in got] == [(kind, repr(what)) for kind, what in expected]


@given(
    st.lists(st.binary(max_size=50), min_size=1, max_size=3, unique=True), st.binary(max_size=3000), st.integers(-1, 5)
)
def test_what_is_packed_is_what_was_meant(names: list[bytes], data: bytes, expire: int) -> None:
    pipeline = made([])
    pipeline.publish(tuple(names), data, expire, print)
    pipeline.send((b"MGET", *names), print)
    plain = expire <= 0 and len(names) == 1
    stored = [b"EVAL", PUBLISH_SCRIPT, b"%d" % len(names), *names, data, b"%d" % max(expire, 0)]
    assert sent(pipeline) == [[b"PUBLISH", names[0], data] if plain else stored, [b"MGET", *names]]
    assert pipeline.in_flight == 2


def test_what_passes_empties_what_may_be_stored() -> None:
    pipeline = made([])
    pipeline.publish((b"a",), b"data", 5, print, None, True)
    pipeline.publish((b"a",), b"data", 0, print, None, True)
    assert sent(pipeline) == [
        [b"EVAL", PASSING_SCRIPT, b"1", b"a", b"data", b"5"],
        [b"PUBLISH", b"a", b"data"],
    ]


def test_a_subscription_is_confirmed_by_a_push() -> None:
    confirmed = b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n>3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"
    assert heard(confirmed, awaited=2) == [("reply", None), ("answer 0", None), ("reply", None), ("answer 1", None)]


def test_other_pushes_are_nobodys() -> None:
    assert heard(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n" + message(b"a", b"b")) == [("push", (b"a", b"b"))]


def test_at_most_so_many_at_once() -> None:
    said: Said = []
    pipeline = made(said)
    pipeline.feed(message(b"a", b"1") * 3)
    assert pipeline.dispatch(2)
    assert len(said) == 2
    assert not pipeline.dispatch(2)
    assert len(said) == 3


def test_a_message_larger_than_any_buffer_so_far() -> None:
    data = bytes(range(256)) * 20_000
    whole = message(b"a", b"first") + message(b"a", data) + message(b"b", b"last")
    parts = [whole[at : at + 100_000] for at in range(0, len(whole), 100_000)]
    assert heard(*parts) == [("push", (b"a", b"first")), ("push", (b"a", data)), ("push", (b"b", b"last"))]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "not RESP3: what begins with 'H'"),
        (b"$12x\r\n", "not RESP3: what begins with '$'"),
        (b"$-2\r\n", "not RESP3: what begins with '$'"),
        (b"*9999999999999999999\r\n", "not RESP3: what begins with '*'"),
        (b"*1\r\n" * 12 + b":1\r\n", "not RESP3"),
        (b"*1\r\n|1\r\n+a\r\n+b\r\n:1\r\n", "not RESP3"),
        (b"=8\r\ntxt:more\r\n", "not RESP3"),
        (b"!2\r\nno\r\n", "not RESP3"),
        (b":1x\r\n", "not RESP3"),
        (b"#maybe\r\n", "not RESP3"),
        (b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n:1\r\n", "a message without name and payload"),
        (b">2\r\n$7\r\nmessage\r\n$1\r\na\r\n", "a message without name and payload"),
        (b":1\r\n", "a reply without a command: 1"),
    ],
)
def test_what_is_wrong_ends_the_link(said: bytes, why: str) -> None:
    with pytest.raises(LinkError, match=why.replace("$", r"\$").replace("*", r"\*")):
        heard(message(b"a", b"b") + said)


def test_what_was_not_sent_as_a_whole_can_be_sent_again() -> None:
    said: Said = []
    pipeline = made(said, 2)
    size = len(pipeline.waiting(1 << 20))
    pipeline.wrote(size - 1)
    assert pipeline.has_output
    pipeline.fail("gone")
    assert [(kind, str(reply), reply.unsent) for kind, reply in said] == [
        ("answer 0", "gone", False),
        ("answer 1", "gone", True),
    ]
    assert pipeline.in_flight == 0


def test_a_word_that_is_no_bytes_leaves_no_half_a_command() -> None:
    pipeline = made([])
    with pytest.raises(TypeError):
        pipeline.send((b"GET", "a"), print)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pipeline.publish(("a",), b"data", 0, print)  # type: ignore[arg-type]
    assert not pipeline.has_output
    assert pipeline.in_flight == 0
