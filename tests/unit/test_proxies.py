"""The client's address behind proxies; with real ones it is in the end-to-end tests."""

import pytest
from django.test import override_settings

from uws4r.errors import ConfigurationError
from uws4r.proxies import client_address, parsed_address


@pytest.mark.parametrize(
    ("proxies", "remote", "forwarded", "client"),
    [
        (["unix"], "198.51.100.1", "203.0.113.7", "198.51.100.1"),
        (["unix"], "", "203.0.113.7", "203.0.113.7"),
        (["unix"], "0.0.0.0", "203.0.113.7", "203.0.113.7"),
        (["unix"], "", "10.0.0.1, 203.0.113.7", "203.0.113.7"),
        (["unix"], "", "", "unix"),
        ([], "", "203.0.113.7", "unix"),
        (["unix", "10.0.0.0/8"], "", "203.0.113.7, 10.1.2.3", "203.0.113.7"),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", "203.0.113.7", "203.0.113.7"),
        (["10.0.0.0/8"], "::ffff:192.0.2.1", "203.0.113.7", "192.0.2.1"),
        (["10.0.0.1"], "10.0.0.1", "1.1.1.1, 2001:db8::1", "2001:db8::1"),
        (["10.0.0.1"], "10.0.0.2", "1.1.1.1", "10.0.0.2"),
        (["10.0.0.1"], "10.0.0.1", "<script>", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "evil\n, 10.0.0.2", "10.0.0.2"),
        (["10.0.0.0/8"], "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (["::1"], "::1", "203.0.113.7", "203.0.113.7"),
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.7:51000", "203.0.113.7"),
        (["10.0.0.0/8"], "10.0.0.1", "[2001:db8::1]:443, 10.0.0.2:8080", "2001:db8::1"),
        (["2001:db8::/32"], "2001:DB8:0::1", "203.0.113.7", "203.0.113.7"),
        ([], "2001:DB8:0::1", "203.0.113.7", "2001:db8::1"),
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.7, unknown", "10.0.0.1"),
    ],
)
def test_the_clients_address_is_the_nearest_that_is_no_proxy(
    proxies: list[str], remote: str, forwarded: str, client: str
) -> None:
    with override_settings(UWS4R_PROXIES=proxies):
        assert client_address({"REMOTE_ADDR": remote, "HTTP_X_FORWARDED_FOR": forwarded}) == client


def test_a_proxy_that_is_no_address_is_an_error() -> None:
    with (
        override_settings(UWS4R_PROXIES=["nginx"]),
        pytest.raises(ConfigurationError, match="must be a list"),
    ):
        client_address({"REMOTE_ADDR": "10.0.0.1"})


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:51000", "203.0.113.7"),
        ('"203.0.113.7:51000"', "203.0.113.7"),
        ("203.0.113.7:_port", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::0001", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::ffff:cb00:7107]:443", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_has_one_spelling_however_a_proxy_writes_it(written: str, address: str) -> None:
    assert parsed_address(written) == address


@pytest.mark.parametrize(
    "written",
    [
        "",
        "unknown",
        "_hidden",
        "203.0.113",
        "203.0.113.7:1:2",
        '"203.0.113.7',
        "[203.0.113.7",
        "203.0.113.7 evil",
        "[]",
    ],
)
def test_what_is_no_address_is_not_taken_for_one(written: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        parsed_address(written)
