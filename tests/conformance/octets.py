"""
Python 2's ``str`` for the cases of the Autobahn|Testsuite, which are written in it.

There a string holds octets. On Python 3 it stays a ``str``, each of whose characters stands for one octet: that is
Latin-1. So the cases can be left as they are, and only what goes to Autobahn or comes from it is translated.
"""

import binascii


def octets(text: str | bytes) -> bytes:
    """Return what a string of Python 2 holds."""
    return text.encode("latin-1") if isinstance(text, str) else text


def string(data: bytes) -> str:
    """Return Python 2's string of these octets."""
    return data.decode("latin-1")


def hexlify(text: str | bytes) -> str:
    """Return octets in hexadecimal, as ``binascii.b2a_hex`` did."""
    return binascii.b2a_hex(octets(text)).decode()
