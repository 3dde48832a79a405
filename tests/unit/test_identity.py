"""Who a client is, as text: no two values become one, and none becomes a sign of ours."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.hubs import Bench
from tests.unit.test_control import order
from uws4r.attachment import NO_ADDRESS, NOBODY, Identity, quoted_path, quoted_user, unquoted_user
from uws4r.control import Control

# Whatever Python takes for text, surrogates included, and often what looks quoted or like a sign.
ANY = st.text(st.characters(codec=None) | st.characters(categories=["Cs"]), max_size=8)
NAMES = ANY | st.text("-%2D5unix ?\ufffd\ud800", max_size=6)
LIKE_SIGNS = ("-", "", "%", "%2D", "%252D", "%25", "--", "unix", "%75nix", " ", "?", "\ud800", "\ufffd", "None")


@pytest.mark.parametrize("quoted", [quoted_user, quoted_path])
def test_names_that_look_like_signs_are_all_different(quoted: Callable[[str], str]) -> None:
    texts = [quoted(name) for name in LIKE_SIGNS]
    assert len(set(texts)) == len(LIKE_SIGNS)
    assert quoted is quoted_path or NOBODY not in texts


@given(NAMES, NAMES)
@example("-", "%2D")
@example("", "%")
@example("\ud800", "\udfff")
def test_two_users_never_become_one_nor_nobody(one: str, other: str) -> None:
    assert (unquoted_user(quoted_user(one)), unquoted_user(NOBODY)) == (one, None)
    assert (quoted_user(one) == quoted_user(other)) == (one == other)
    assert NOBODY not in (quoted_user(one), quoted_user(other))


@given(NAMES, NAMES)
def test_two_paths_never_become_one(one: str, other: str) -> None:
    assert (quoted_path(one) == quoted_path(other)) == (one == other)


@given(st.just(NO_ADDRESS) | st.ip_addresses().map(str) | ANY, st.none() | NAMES, NAMES)
def test_who_a_client_is_survives_as_text(address: str, user: str | None, path: str) -> None:
    identity = Identity.of(address, user, f"/ws/{path}")
    assert Identity.parsed(str(identity)) == identity
    assert (identity.user == NOBODY) == (user is None)
    assert str(identity).isprintable()
    assert str(identity).isascii()


def test_an_order_for_nobody_meets_no_anonymous_client(bench: Bench) -> None:
    control = Control(bench.hub)
    anonymous = bench.join("broadcast:f", identity=str(Identity.of("203.0.113.7", None, "/ws/f")))
    named = bench.join("broadcast:f", identity=str(Identity.of("203.0.113.7", "-", "/ws/f")))
    order(bench, control, do="close", code=4403, users=[NOBODY])
    assert (anonymous.ping(), named.ping()) == ([], [])
    order(bench, control, do="close", code=4403, users=[quoted_user("-")])
    assert named.receive_close().close_code == 4403
    assert anonymous.ping() == []
