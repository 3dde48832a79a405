"""What access decides by itself; sessions, callbacks and Origins are in the end-to-end tests."""

import pytest
from django.test import override_settings

from uws4r.access import client_address
from uws4r.errors import ConfigurationError


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
        (["10.0.0.0/8"], "::ffff:192.0.2.1", "203.0.113.7", "::ffff:192.0.2.1"),
        (["10.0.0.1"], "10.0.0.1", "1.1.1.1, 2001:db8::1", "2001:db8::1"),
        (["10.0.0.1"], "10.0.0.2", "1.1.1.1", "10.0.0.2"),
        (["10.0.0.1"], "10.0.0.1", "<script>", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "evil\n, 10.0.0.2", "10.0.0.2"),
        (["10.0.0.0/8"], "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (["::1"], "::1", "203.0.113.7", "203.0.113.7"),
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
