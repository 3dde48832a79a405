"""The groups of a user, stored in his session at login: a handshake finds them without the database."""

from typing import Any

from django.contrib.auth.signals import user_logged_in

from uws4r.channels import GROUPS_KEY


def store_groups(sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
    """Receiver of ``user_logged_in``; a login without a session (by token) leaves nothing to store in."""
    session = getattr(request, "session", None)
    groups = getattr(user, "groups", None)
    if session is not None and groups is not None:
        session[GROUPS_KEY] = [group.name for group in groups.all()]


def connect() -> None:
    """Connect the receivers; safe to call again."""
    user_logged_in.connect(store_groups, dispatch_uid="uws4r.signals.store_groups")
