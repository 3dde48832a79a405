"""What templates need to open a websocket: ``uws4r.context_processors.default``."""

import json
from typing import Any

from django.http import HttpRequest
from django.urls import get_script_prefix
from django.utils.safestring import mark_safe

from uws4r.conf import conf

# What would end a script, or an attribute, inside of which the literal stands.
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&'\u2028\u2029"}


def websocket_path(request: HttpRequest | None = None) -> str:
    """
    Return the path of the site's websockets: ``/ws/``, or ``/app/ws/`` where the site is mounted at ``/app``.

    A ``WEBSOCKET_URL`` that begins with that path already is taken as it is: its websockets are served elsewhere.

    Args:
        request: Of the page; without one it is what Django reverses its URLs with.
    """
    mounted = get_script_prefix() if request is None else request.META.get("SCRIPT_NAME", "")
    mounted = mounted.rstrip("/")
    url = conf.WEBSOCKET_URL
    return url if url.startswith(f"{mounted}/") else mounted + url


def websocket_uri(request: HttpRequest) -> str:
    """Return where the site's websockets are: ``ws://host/ws/``, or ``wss:`` where the page came over TLS."""
    return f"{'wss' if request.is_secure() else 'ws'}://{request.get_host()}{websocket_path(request)}"


def heartbeat_literal() -> str:
    """Return ``WS4REDIS_HEARTBEAT`` as a literal of JavaScript: a string, or null."""
    return mark_safe(json.dumps(conf.WS4REDIS_HEARTBEAT).translate(ESCAPES))


def default(request: HttpRequest) -> dict[str, Any]:
    """Return ``WEBSOCKET_URI``, and ``WS4REDIS_HEARTBEAT`` as :func:`heartbeat_literal` has it."""
    return {"WEBSOCKET_URI": websocket_uri(request), "WS4REDIS_HEARTBEAT": heartbeat_literal()}
