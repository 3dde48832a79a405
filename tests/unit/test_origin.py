"""Which pages may open a websocket: Origin against Host and settings, row by row."""

import pytest
from django.test import RequestFactory, override_settings

from uws4r.access import check_origin
from uws4r.errors import HandshakeError

SITE = {
    "ALLOWED_HOSTS": ["example.com", ".example.org", "xn--bcher-kva.example", "[2001:db8::1]"],
    "CSRF_TRUSTED_ORIGINS": ["https://trusted.example", "https://*.wild.example", "https://port.example:8443"],
    "UWS4R_ALLOWED_ORIGINS": [
        "http://localhost:3000",
        "https://b\u00fccher.example",
        "https://*.cdn.example",
        "app://-",
    ],
    "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
}
PLAIN, TLS = "http", "https"


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "allowed"),
    [
        # The site itself.
        (PLAIN, "example.com", "http://example.com", True),
        (TLS, "example.com", "https://example.com", True),
        (PLAIN, "example.com:8000", "http://example.com:8000", True),
        (TLS, "example.com:443", "https://example.com", True),
        (PLAIN, "example.com:80", "http://example.com", True),
        (PLAIN, "EXAMPLE.com", "http://example.com", True),
        (PLAIN, "sub.example.org", "http://sub.example.org", True),
        (PLAIN, "xn--bcher-kva.example", "http://xn--bcher-kva.example", True),
        (PLAIN, "[2001:db8::1]:8000", "http://[2001:db8::1]:8000", True),
        # Almost the site itself.
        (PLAIN, "example.com", "https://example.com", False),
        (TLS, "example.com", "http://example.com", False),
        (PLAIN, "example.com", "http://example.com:8000", False),
        (PLAIN, "example.com:8000", "http://example.com", False),
        (PLAIN, "example.com:8000", "http://example.com:8001", False),
        (PLAIN, "example.com", "http://www.example.com", False),
        (PLAIN, "sub.example.org", "http://example.org", False),
        (PLAIN, "example.com", "http://example.com.evil.example", False),
        (PLAIN, "example.com", "http://evilexample.com", False),
        (PLAIN, "example.com", "http://user@example.com", False),
        (PLAIN, "example.com", "http://example.com/", False),
        (PLAIN, "example.com", "http://example.com#", False),
        (PLAIN, "example.com", "http://example.com evil", False),
        (PLAIN, "example.com", "http://example.com:80:80", False),
        (PLAIN, "example.com", "ws://example.com", False),
        (PLAIN, "xn--bcher-kva.example", "http://bucher.example", False),
        # No page's origin.
        (PLAIN, "example.com", "null", False),
        (PLAIN, "example.com", "", False),
        (PLAIN, "example.com", "file://", False),
        (PLAIN, "example.com", "example.com", False),
        (PLAIN, "example.com", "*", False),
        (PLAIN, "example.com", "http://[::1", False),
        # Other sites that settings name.
        (TLS, "example.com", "https://trusted.example", True),
        (PLAIN, "example.com", "https://trusted.example", True),
        (TLS, "example.com", "http://trusted.example", False),
        (TLS, "example.com", "https://trusted.example:444", False),
        (TLS, "example.com", "https://trusted.example:443", True),
        (TLS, "example.com", "https://port.example:8443", True),
        (TLS, "example.com", "https://port.example", False),
        (TLS, "example.com", "https://a.wild.example", True),
        (TLS, "example.com", "https://a.b.wild.example", True),
        (TLS, "example.com", "https://wild.example", True),  # as for Django's own check of Origins
        (TLS, "example.com", "http://a.wild.example", False),
        (TLS, "example.com", "https://evilwild.example", False),
        (TLS, "example.com", "https://a.wild.example.evil.example", False),
        (PLAIN, "example.com", "http://localhost:3000", True),
        (PLAIN, "example.com", "http://localhost:3001", False),
        (PLAIN, "example.com", "http://127.0.0.1:3000", False),
        (PLAIN, "example.com", "https://xn--bcher-kva.example", True),
        (PLAIN, "example.com", "https://x.cdn.example", True),
        (PLAIN, "example.com", "app://-", True),
        (PLAIN, "example.com", "app://other", False),
        # Not a browser.
        (PLAIN, "example.com", None, True),
    ],
)
def test_an_origin_is_allowed_or_not(scheme: str, host: str, origin: str | None, allowed: bool) -> None:
    headers = {"HTTP_HOST": host, "HTTP_X_FORWARDED_PROTO": scheme}
    if origin is not None:
        headers["HTTP_ORIGIN"] = origin
    request = RequestFactory().get("/ws/f", **headers)
    with override_settings(**SITE):
        if allowed:
            check_origin(request)
        else:
            with pytest.raises(HandshakeError) as caught:
                check_origin(request)
            assert caught.value.status == 403


def test_an_origin_may_be_required() -> None:
    request = RequestFactory().get("/ws/f", HTTP_HOST="localhost")
    with (
        override_settings(UWS4R_REQUIRE_ORIGIN=True),
        pytest.raises(HandshakeError, match="An Origin is required here") as caught,
    ):
        check_origin(request)
    assert caught.value.status == 403


def test_the_host_of_a_proxy_counts_where_django_is_told_so() -> None:
    request = RequestFactory().get(
        "/ws/f", HTTP_HOST="10.0.0.1:8000", HTTP_X_FORWARDED_HOST="localhost", HTTP_ORIGIN="http://localhost"
    )
    with override_settings(USE_X_FORWARDED_HOST=True):
        check_origin(request)
    with override_settings(USE_X_FORWARDED_HOST=False), pytest.raises(HandshakeError):
        check_origin(request)


def test_a_star_allows_every_page() -> None:
    request = RequestFactory().get("/ws/f", HTTP_HOST="localhost", HTTP_ORIGIN="null")
    with override_settings(UWS4R_ALLOWED_ORIGINS=["*"]):
        check_origin(request)


@pytest.mark.parametrize("origin", ["null", "file://"])
def test_what_apps_send_instead_of_an_origin_can_be_listed(origin: str) -> None:
    request = RequestFactory().get("/ws/f", HTTP_HOST="localhost", HTTP_ORIGIN=origin)
    with override_settings(UWS4R_ALLOWED_ORIGINS=[origin]):
        check_origin(request)
    others = ["https://example.com", "null" if origin == "file://" else "file://"]
    for listed in (others, []):
        with override_settings(UWS4R_ALLOWED_ORIGINS=listed), pytest.raises(HandshakeError):
            check_origin(request)


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("https://localhost", "SECURE_PROXY_SSL_HEADER"),
        ("https://www.example.com", "proxy_set_header Host $http_host;"),
    ],
)
def test_the_log_says_what_may_be_wrong_with_the_proxy(
    origin: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = RequestFactory().get("/ws/f", HTTP_HOST="localhost", HTTP_ORIGIN=origin)
    with pytest.raises(HandshakeError):
        check_origin(request)
    assert advice in caplog.text
