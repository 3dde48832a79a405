"""Cookies that came in several lines, and values that have a comma."""

import time

import pytest
from django.http import parse_cookie
from django.test import RequestFactory, override_settings

from uws4r.cookies import mend, mended

KEY = "0123456789abcdefghijklmnopqrstuv"


@pytest.mark.parametrize("comma", [", ", ","])
@pytest.mark.parametrize(
    ("lines", "cookies"),
    [
        (["theme=dark", f"sessionid={KEY}"], {"theme": "dark", "sessionid": KEY}),
        ([f"sessionid={KEY}", "theme=dark"], {"theme": "dark", "sessionid": KEY}),
        (["a=1; b=2", f"sessionid={KEY}; c=3"], {"a": "1", "b": "2", "sessionid": KEY, "c": "3"}),
        (["a=1", "b=2", f"sessionid={KEY}", "c=3"], {"a": "1", "b": "2", "sessionid": KEY, "c": "3"}),
        (["token=t", "csrftoken=c"], {"token": "t", "csrftoken": "c"}),
        ([f"sessionid={KEY}", 'quoted="a b"'], {"sessionid": KEY, "quoted": "a b"}),
        ([f"sessionid={KEY}", "sessionid=second"], {"sessionid": "second"}),  # as in one line: the last one counts
    ],
)
def test_cookies_of_several_lines_are_as_many_cookies(comma: str, lines: list[str], cookies: dict[str, str]) -> None:
    joined = comma.join(lines)
    assert parse_cookie(joined) != cookies
    assert parse_cookie(mended(joined)) == cookies


@pytest.mark.parametrize(
    "header",
    [
        "a=1, b=2",
        f"a=1, b=2; sessionid={KEY}",
        f"sessionid={KEY}; a=1,b=2,c=3",
        f"sessionid={KEY}; point=1,2; list=a, b, c",
        f'sessionid={KEY}; a="1, csrftoken=2"',
        f"sessionid={KEY}; a=1, sessionid=another",  # a value that a stranger may have chosen
        f"a=1, sessionid=another; sessionid={KEY}",
        "sessionid=a,b",
        "date=Mon, 01 Jan 2024",
        ", ,=,a=,;,",
    ],
)
def test_a_comma_in_a_value_stays_there(header: str) -> None:
    assert mended(header) == header


def test_a_cookie_that_is_there_is_not_replaced_by_what_a_value_says() -> None:
    header = f"sessionid={KEY}; a=1, csrftoken=c, sessionid=another"
    assert parse_cookie(mended(header)) == {"sessionid": KEY, "a": "1", "csrftoken": "c, sessionid=another"}


def test_the_sites_names_count() -> None:
    with override_settings(SESSION_COOKIE_NAME="sid"):
        assert parse_cookie(mended(f"a=1, sid={KEY}")) == {"a": "1", "sid": KEY}
        assert mended(f"a=1, sessionid={KEY}") == f"a=1, sessionid={KEY}"


def test_everybody_who_reads_them_sees_the_same() -> None:
    environ = RequestFactory().get("/ws/f", HTTP_COOKIE=f"a=1, sessionid={KEY}").META
    mend(environ)
    assert environ["HTTP_COOKIE"] == f"a=1; sessionid={KEY}"
    mend({})


def test_a_long_header_takes_no_long_time() -> None:
    begin = time.process_time()
    mended("sessionid=x, " + "a=b; " * 10_000 + "c=d, " * 10_000 + "e,f=,g" * 10_000)
    assert time.process_time() - begin < 0.5
