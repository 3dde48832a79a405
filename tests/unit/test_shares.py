"""Which addresses share a limit."""

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from uws4r.admission import Census
from uws4r.attachment import NO_ADDRESS, Identity
from uws4r.errors import HandshakeError
from uws4r.shares import share_of


@pytest.mark.parametrize(
    ("address", "share"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:cb00:7107", "203.0.113.7"),
        ("64:ff9b::203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%25eth0", "fe80::/64"),
        ("::1", "::/64"),
        (NO_ADDRESS, NO_ADDRESS),
        ("unix:", "unix:"),
        ("", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_a_share(address: str, share: str) -> None:
    assert share_of(address) == share


@given(st.ip_addresses(v=6), st.integers(0, (1 << 64) - 1))
def test_a_network_of_64_bits_is_one_share(address: object, other: int) -> None:
    network = int(address) >> 64 << 64  # type: ignore[call-overload]
    one, another = (str(type(address)(network | low)) for low in (1, other))  # type: ignore[call-arg]
    if network >> 64 not in (0, 0x64FF9B << 32):  # where IPv4 addresses are
        assert share_of(one) == share_of(another)


def test_a_network_has_as_many_websockets_as_an_address() -> None:
    census = Census()

    def admit(address: str) -> object:
        return census.admit(str(Identity.of(address, None, "/ws/f")))

    with override_settings(UWS4R_MAX_CONNECTIONS_PER_IP=2):
        first, _ = admit("2001:db8::1"), admit("2001:db8::2")
        with pytest.raises(HandshakeError) as refused:
            admit("2001:db8::ffff:3")
        assert refused.value.status == 429
        admit("2001:db8:0:1::1")
        admit("192.0.2.1")
        admit("::ffff:192.0.2.1")
        with pytest.raises(HandshakeError):
            admit("192.0.2.1")
        for _ in range(5):
            assert admit(NO_ADDRESS) is None
        first()  # type: ignore[operator]
        admit("2001:db8::4")
