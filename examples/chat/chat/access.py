"""Which flags of a websocket's URL this site grants (``WS4REDIS_ALLOWED_CHANNELS``)."""

from collections.abc import Iterable

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from uws4r.subscriber import facility_of

GRANTED = {
    "lobby": {"subscribe-broadcast", "publish-broadcast"},
    "people": {"subscribe-user"},
    "group": {"subscribe-group", "publish-group"},
    "session": {"subscribe-session"},
    "notes": {"subscribe-user"},
}
PUBLIC = {"lobby", "session"}


def allowed_channels(request: HttpRequest, channels: Iterable[str]) -> set[str]:
    """Grant what the facility is for; all but the public ones want a login."""
    facility = facility_of(request.path_info)
    if facility not in PUBLIC and not request.user.is_authenticated:
        raise PermissionDenied("log in first")
    return GRANTED.get(facility, set()).intersection(channels)
