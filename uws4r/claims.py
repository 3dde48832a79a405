"""
Whether a client can claim another address or scheme than its own: the doctor tries.

uWSGI takes ``X_Forwarded_For`` for ``X-Forwarded-For``, so a proxy that minds only one of them passes the other on.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

from uws4r.attachment import Identity
from uws4r.diagnosis import OK, WARNING, Finding
from uws4r.probe import Answer, Probe, Target

MADE_UP = "192.0.2.99"  # nobody's (RFC 5737)
PAUSE = 0.05  # seconds between two questions to the workers

DROP = (
    "what is in front: drop every spelling with _ and set the header itself; NGiNX: underscores_in_headers off; "
    "Apache: RequestHeader unset X_Forwarded_{0}; Caddy: header_up -X_Forwarded_*"
)


class Dial(Protocol):
    """Opens a websocket on a connection of its own."""

    def ask(self, path: str, headers: dict[str, str]) -> tuple[Probe | None, Answer]:
        """Return the answer, with the websocket where there is one."""


def spelled(name: str, value: str) -> dict[str, str]:
    """Return a header in the spellings that uWSGI takes for one."""
    words = name.split("-")
    return {"-".join(words): value, "_".join(words): value}


def of_claims(
    dial: Dial, target: Target, path: str, headers: dict[str, str], who: Callable[[], list[str]], timeout: float
) -> Iterator[Finding]:
    """
    Yield what a client can claim; that it can claim nothing, otherwise.

    Args:
        path: Of a websocket of the doctor's own.
        headers: With which it is opened.
        who: Returns the identities of its connections, from the workers.
        timeout: Seconds until the workers have to know it.
    """
    found = False
    if _address_is_believed(dial, path, headers, who, timeout):
        found = True
        yield Finding(
            WARNING,
            f"the address {MADE_UP}, which the doctor made up in X-Forwarded-For, is believed",
            "every client can claim any address: limits for each address are void, and the log lies",
            f"{DROP.format('For')}; without a proxy in front: settings.py: UWS4R_PROXIES = []",
        )
    if _scheme_is_believed(dial, target, path, headers):
        found = True
        yield Finding(
            WARNING,
            "the scheme that the doctor made up in X-Forwarded-Proto is believed",
            "every client can claim to use TLS, or not to, whatever Django makes of that",
            f"{DROP.format('Proto')}; without a proxy in front: settings.py: no SECURE_PROXY_SSL_HEADER",
        )
    if not found:
        yield Finding(OK, "an address and a scheme that a client makes up are not believed")


def _address_is_believed(
    dial: Dial, path: str, headers: dict[str, str], who: Callable[[], list[str]], timeout: float
) -> bool:
    probe, _ = dial.ask(path, {**headers, **spelled("X-Forwarded-For", MADE_UP)})
    if probe is None:
        return False
    with closing(probe):
        deadline = time.monotonic() + timeout
        while not (identities := who()) and time.monotonic() < deadline:
            time.sleep(PAUSE)  # the 101 is out before the hub has it
    return any(Identity.parsed(identity).address == MADE_UP for identity in identities)


def _scheme_is_believed(dial: Dial, target: Target, path: str, headers: dict[str, str]) -> bool:
    """A page of the other scheme is foreign, unless the claim is believed."""
    other = "http" if target.secure else "https"
    headers = {**headers, "Origin": f"{other}://{target.authority}"}

    def opens(more: dict[str, Any]) -> bool:
        probe, _ = dial.ask(path, {**headers, **more})
        if probe is not None:
            probe.close()
        return probe is not None

    return not opens({}) and opens(spelled("X-Forwarded-Proto", other))
