"""Whose share of something an address uses, where each client may have so much of it."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for (``::ffff:192.0.2.1``), or the address itself."""
    return (address.version == 6 and address.ipv4_mapped) or address


def share_of(address: str) -> str:
    """
    Return the share that an address belongs to, as text.

    Of IPv6 it is the network of 64 bits: whoever has one address there has 18 quintillions. An IPv4 address is its own
    share, also where it is written as an IPv6 address.

    Args:
        address: As :class:`~uws4r.attachment.Identity` has it. What is no IP address is a share of its own.
    """
    try:
        found = unmapped(ip_address(address))
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    if found in NAT64:
        return str(IPv4Address(int(found) & 0xFFFFFFFF))
    return f"{IPv6Address(int(found) >> 64 << 64)}/64"
