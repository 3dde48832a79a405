"""``{% websocket_uri "news" "subscribe-broadcast" %}`` and ``{% websocket_heartbeat %}``."""

from typing import Any
from urllib.parse import quote

from django import template
from django.utils.safestring import mark_safe

from uws4r.context_processors import heartbeat_literal, websocket_path, websocket_uri

register = template.Library()


@register.simple_tag(takes_context=True, name="websocket_uri")
def websocket_uri_tag(context: Any, facility: str = "", *flags: str) -> str:
    """
    Return the address of a facility's websockets, with the flags as its query.

    Without a ``request`` in the context it is a path, which uws4r.js takes as well.
    """
    request = context.get("request")
    base = websocket_path() if request is None else websocket_uri(request)
    query = "?" + "&".join(map(quote, flags)) if flags else ""
    # What quote() leaves ends neither a script nor an attribute; "&amp;" would be wrong inside a script.
    return mark_safe(quote(base, safe=":/[]") + quote(facility) + query)


@register.simple_tag
def websocket_heartbeat() -> str:
    """Return ``WS4REDIS_HEARTBEAT`` as a literal of JavaScript: a string, or null."""
    return heartbeat_literal()
