"""Channel names, byte for byte as in ws4redis, and safe where ws4redis was not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uws4r._frames import join_name
from uws4r.channels import SELF, channels_for


class User:
    is_authenticated = True

    def get_username(self) -> str:
        return "mary"


class Session(dict):
    session_key = "k3y"


class Request:
    user = User()
    session = Session({"ws4redis:memberof": ["staff", "chatters"]})


class Nobody:
    class user:
        is_authenticated = False

    session = Session()
    session.session_key = None  # type: ignore[assignment]


def names(**arguments: object) -> list[bytes]:
    return [channel.name for channel in channels_for("foo", **arguments)]  # type: ignore[arg-type]


def test_names_are_those_of_ws4redis() -> None:
    assert join_name("", "broadcast", None, "foo") == b"broadcast:foo"
    assert join_name("ws", "broadcast", None, "foo/bar") == b"ws:broadcast:foo/bar"
    assert join_name("", "user", "john", "") == b"user:john:"
    assert join_name("", "group", "the chatters", "caf\u00e9") == "group:the chatters:caf\u00e9".encode()


def test_a_separator_in_a_name_is_quoted() -> None:
    assert join_name("", "user", "a:b", "c") == b"user:a%3Ab:c"
    assert join_name("", "user", "a%3Ab", "c") == b"user:a%253Ab:c"


@given(st.tuples(*[st.text(alphabet="a:%3A\u20ac", max_size=6)] * 4))
def test_two_names_never_meet(parts: tuple[str, str, str, str]) -> None:
    name, facility, other_name, other_facility = parts
    same = join_name("", "user", name, facility) == join_name("", "user", other_name, other_facility)
    assert same == ((name, facility) == (other_name, other_facility))


def test_self_is_the_request() -> None:
    every = {"users": [SELF], "groups": [SELF], "sessions": [SELF], "broadcast": True}
    assert names(request=Request(), prefix="p", **every) == [
        b"p:session:k3y:foo",
        b"p:user:mary:foo",
        b"p:group:staff:foo",
        b"p:group:chatters:foo",
        b"p:broadcast:foo",
    ]


def test_self_of_an_anonymous_request_is_no_channel() -> None:
    assert names(request=Nobody(), users=[SELF], groups=[SELF], sessions=[SELF]) == []


def test_self_without_a_request_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a request"):
        names(users=[SELF])


def test_names_may_be_any_iterable_and_repeat() -> None:
    assert names(users=("mary", "mary")) == [b"user:mary:foo"]
    assert sorted(names(groups={"a", "b"})) == [b"group:a:foo", b"group:b:foo"]
    assert names(users=iter(["x"]), broadcast=False) == [b"user:x:foo"]


def test_the_old_forms_warn() -> None:
    with pytest.warns(DeprecationWarning, match="list or tuple"):
        assert names(users="john") == [b"user:john:foo"]
    with pytest.warns(DeprecationWarning, match="list or tuple"):
        assert names(users=True, request=Request()) == [b"user:mary:foo"]
    assert names(users=False) == []


@pytest.mark.parametrize("wrong", [5, 1.5, b"john", object()])
def test_what_is_no_list_of_names_is_an_error(wrong: object) -> None:
    with pytest.raises(ValueError, match="Argument `users` must be a list or tuple"):
        names(users=wrong)
