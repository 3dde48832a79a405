"""
A Cookie header that came in several lines, which servers join with a comma.

HTTP/2 lets a client send each cookie in a line of its own, and says that "; " stands between them when they are put
together (RFC 9113 §8.2.3). Where a front does not do that, uWSGI puts ", " there, as for every other header, and
Django's server ",". A comma may also be part of a value, though no value of Django's has one, and RFC 6265 allows none.
"""

import re
from collections import Counter
from typing import Any

from django.conf import settings

COOKIE = "HTTP_COOKIE"  # in an environ
# A comma, and behind it what could be the next cookie: a token of HTTP and an equals sign.
JOINT = re.compile(r", ?(?=[!#$%&'*+\-.^_`|~0-9A-Za-z]+=)")


def mend(environ: dict[str, Any]) -> None:
    """Put the cookies of an environ together as RFC 9113 has it, where a comma stands between two of them."""
    header = environ.get(COOKIE)
    if header is not None and "," in header:
        environ[COOKIE] = mended(header)


def mended(header: str) -> str:
    """
    Return a Cookie header with "; " between all its cookies.

    It counts as joined only where a cookie of Django's says so: one whose value ends at a comma, or one that is there
    only if it begins behind a comma. All others stay as they are: the comma is part of a value.
    """
    known = {settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME, settings.LANGUAGE_COOKIE_NAME, "messages"}
    cookies = [_parts(cookie) for cookie in header.split(";")]
    firsts = Counter(_name(first) for first, *_ in cookies)
    if not any(
        rest and (_name(first) in known or any((name := _name(part)) in known and not firsts[name] for part in rest))
        for first, *rest in cookies
    ):
        return header
    found = []
    for first, *rest in cookies:
        found.append(first.strip())
        for part in rest:
            # What a value says does not take the place of a cookie that stands elsewhere.
            if firsts[_name(part)] > (_name(part) == _name(first)):
                found[-1] += f", {part}"
            else:
                found.append(part.strip())
    return "; ".join(found)


def _parts(cookie: str) -> list[str]:
    """Split at the commas that may stand between two cookies: not at those in a quoted value."""
    parts: list[str] = []
    quoted = False
    for part in JOINT.split(cookie):
        if quoted:
            parts[-1] += f", {part}"
        else:
            parts.append(part)
        quoted ^= part.count('"') % 2 == 1
    return parts


def _name(cookie: str) -> str:
    return cookie.partition("=")[0].strip()
