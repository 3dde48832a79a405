"""What templates need to open a websocket: ``uws4r.context_processors.default``."""

import json
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import mark_safe

from uws4r.conf import conf

# What would end a script, or an attribute, inside of which the literal stands.
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&'\u2028\u2029"}


def websocket_uri(request: HttpRequest) -> str:
    """Return where the site's websockets are: ``ws://host/ws/``, or ``wss:`` where the page came over TLS."""
    return f"{'wss' if request.is_secure() else 'ws'}://{request.get_host()}{conf.WEBSOCKET_URL}"


def heartbeat_literal() -> str:
    """Return ``WS4REDIS_HEARTBEAT`` as a literal of JavaScript: a string, or null."""
    return mark_safe(json.dumps(conf.WS4REDIS_HEARTBEAT).translate(ESCAPES))


def default(request: HttpRequest) -> dict[str, Any]:
    """Return ``WEBSOCKET_URI``, and ``WS4REDIS_HEARTBEAT`` as :func:`heartbeat_literal` has it."""
    return {"WEBSOCKET_URI": websocket_uri(request), "WS4REDIS_HEARTBEAT": heartbeat_literal()}
