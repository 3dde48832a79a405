"""
The client's address, where proxies stand in between.

Each proxy adds the address that it was called from at the end of X-Forwarded-For. Which proxies are believed says
``UWS4R_PROXIES``.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from uws4r.attachment import NO_ADDRESS
from uws4r.conf import conf
from uws4r.errors import ConfigurationError
from uws4r.shares import unmapped

# With a port, in brackets, in quotes: RFC 7239 §6. An IPv6 address without brackets has no port.
NODE = re.compile(r'("?)(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[\w.-]*)?\1', re.ASCII).fullmatch


def parsed_address(text: str) -> str:
    """
    Return the address that a proxy has written, in the one spelling that it has here.

    Known are ``203.0.113.7``, ``203.0.113.7:51000``, ``2001:db8::1`` and ``[2001:db8::1]:443``, each in quotes too.
    ``::ffff:203.0.113.7`` is an IPv4 address.

    Raises:
        ValueError: It is no address (``unknown``, for one).
    """
    node = NODE(text)
    found = unmapped(ip_address((node[2] or node[3]) if node else text))
    if isinstance(found, IPv6Address) and found.scope_id is not None:  # the name of an interface of the proxy's
        return str(IPv6Address(int(found)))
    return str(found)


@lru_cache(maxsize=8)
def _networks(proxies: tuple[str, ...]) -> tuple[bool, list[Any]]:
    try:
        return "unix" in proxies, [ip_network(proxy, strict=False) for proxy in proxies if proxy != "unix"]
    except ValueError as error:
        raise ConfigurationError(
            f"UWS4R_PROXIES must be a list of addresses and networks, or 'unix': {error}"
        ) from None


def _is_in(address: str, networks: list[Any]) -> bool:
    found = ip_address(address)
    return any(found in network for network in networks)


def client_address(meta: Mapping[str, Any]) -> str:
    """
    Return the client's address: the nearest one that is no proxy of ``UWS4R_PROXIES``.

    What a client has written into X-Forwarded-For itself stands in front of what the proxies add, and is never reached.
    """
    address = meta.get("REMOTE_ADDR", "")
    if address in ("", "0.0.0.0"):
        address = NO_ADDRESS
    elif ":" in address:
        address = _spelled(address)
    unix, networks = _networks(tuple(conf.UWS4R_PROXIES))
    if "HTTP_X_FORWARDED_FOR" not in meta:
        return address
    forwarded = meta["HTTP_X_FORWARDED_FOR"].split(",")
    while forwarded:
        try:
            trusted = unix if address == NO_ADDRESS else _is_in(address, networks)
            if not trusted:
                break
            address = parsed_address(forwarded[-1].strip())
        except ValueError:  # no address: something else than a proxy has written it
            break
        forwarded.pop()
    return address


def _spelled(address: str) -> str:
    try:
        return parsed_address(address)
    except ValueError:
        return address
