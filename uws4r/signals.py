"""
What logins, logouts and changes of users and groups mean for websockets.

The groups of a user are stored in the session at login. Whatever takes rights away is told to all workers when
the transaction commits, so that open websockets lose them too.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from uws4r.attachment import quoted_user
from uws4r.channels import GROUPS_KEY, MODELS_KEY, channels_for
from uws4r.conf import conf
from uws4r.logins import LONGEST_CLAIM
from uws4r.orders import tell
from uws4r.rfc6455 import LOGGED_OUT

NAME_BEFORE = "_uws4r_name_before"  # an attribute of a user that is being saved under another name


def store_groups(sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
    """Receiver of ``user_logged_in``; a login without a session (by token) leaves nothing to store in."""
    session = getattr(request, "session", None)
    groups = getattr(user, "groups", None)
    if session is not None and groups is not None:
        names = [group.name for group in groups.all()]
        session[GROUPS_KEY], session[MODELS_KEY] = names, list(names)  # a site may add to the first


def _when_committed(using: str | None, **order: Any) -> None:
    connection = connections[using or DEFAULT_DB_ALIAS]
    if connection.vendor == "unknown":  # a site without a database
        tell(**order)
    else:
        connection.on_commit(partial(tell, **order))


def logged_out(sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
    """Receiver of ``user_logged_out``, which is sent while the session is still there."""
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key:
        _when_committed(None, do="close", sessions=[key], code=LOGGED_OUT, reason="logged out")


def session_renewed(sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
    """Receiver of ``user_logged_in``: the session that the browser had before has another key now, or is over."""
    before = getattr(request, "COOKIES", {}).get(settings.SESSION_COOKIE_NAME)
    key = getattr(getattr(request, "session", None), "session_key", None)
    if before and before != key and len(before) <= LONGEST_CLAIM:
        _when_committed(None, do="check", sessions=[before], user=_name(user))


def user_saving(sender: Any, instance: Any, raw: bool, using: str, **kwargs: Any) -> None:
    """Receiver of ``pre_save``: the websockets of a user that gets another name are open under the one before."""
    vars(instance).pop(NAME_BEFORE, None)
    fields = kwargs.get("update_fields")
    if raw or instance.pk is None or (fields is not None and instance.USERNAME_FIELD not in fields):
        return
    before = sender._base_manager.using(using).filter(pk=instance.pk).first()
    if before is not None and _name(before) != _name(instance):
        setattr(instance, NAME_BEFORE, _name(before))


def user_saved(sender: Any, instance: Any, created: bool, raw: bool, using: str, **kwargs: Any) -> None:
    """Receiver of ``post_save``: another password, another name, or no longer active."""
    before = vars(instance).pop(NAME_BEFORE, None)
    if created or raw or kwargs.get("update_fields") == frozenset({"last_login"}):  # the latter is every login
        return
    names = [_name(instance)] if before is None else [_name(instance), before]
    if not instance.is_active:
        _close_user(names, using)
    else:
        _when_committed(using, do="check", users=names)


def user_deleted(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    """Receiver of ``post_delete``."""
    _close_user([_name(instance)], using)


def _close_user(names: list[str], using: str) -> None:
    _when_committed(using, do="close", users=names, code=LOGGED_OUT, reason="no such user any more")


def _name(user: Any) -> str:
    return quoted_user(str(user.get_username()))


def membership_changed(
    sender: Any, instance: Any, action: str, reverse: bool, model: Any, pk_set: Any, using: str, **kwargs: Any
) -> None:
    """Receiver of ``m2m_changed`` between users and groups."""
    if action == "pre_clear":
        others = instance.user_set.all() if reverse else instance.groups.all()
    elif action == "post_remove":
        others = model._default_manager.using(using).filter(pk__in=pk_set)
    else:
        return
    users, groups = (list(others), [instance]) if reverse else ([instance], list(others))
    if users and groups:
        _when_committed(using, do="leave", users=[_name(user) for user in users], under=_channels_of(groups))


def group_saved(sender: Any, instance: Any, raw: bool, using: str, **kwargs: Any) -> None:
    """Receiver of ``pre_save`` of a group: under another name it has other channels."""
    before = None if raw else sender._default_manager.using(using).filter(pk=instance.pk).first()
    if before is not None and before.name != instance.name:
        group_deleted(sender, before, using)


def group_deleted(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    """Receiver of ``pre_delete`` of a group."""
    _when_committed(using, do="leave", everybody=True, under=_channels_of([instance]))


def _channels_of(groups: Iterable[Any]) -> list[str]:
    """Return what the names of the groups' channels begin with, whatever the facility."""
    without_facility = channels_for("", prefix=conf.WS4REDIS_PREFIX, groups=[group.name for group in groups])
    return [channel.name.decode("utf-8", "surrogatepass") for channel in without_facility]


def connect() -> None:
    """Connect the receivers; safe to call again."""
    user_logged_in.connect(store_groups, dispatch_uid="uws4r.signals.store_groups")
    user_logged_in.connect(session_renewed, dispatch_uid="uws4r.signals.session_renewed")
    user_logged_out.connect(logged_out, dispatch_uid="uws4r.signals.logged_out")


def connect_models(user_model: Any) -> None:
    """Connect the receivers that need the site's user model; safe to call again."""
    pre_save.connect(user_saving, sender=user_model, dispatch_uid="uws4r.signals.user_saving")
    post_save.connect(user_saved, sender=user_model, dispatch_uid="uws4r.signals.user_saved")
    post_delete.connect(user_deleted, sender=user_model, dispatch_uid="uws4r.signals.user_deleted")
    groups = getattr(user_model, "groups", None)
    if groups is not None and hasattr(groups, "through"):
        m2m_changed.connect(membership_changed, sender=groups.through, dispatch_uid="uws4r.signals.membership_changed")
        pre_save.connect(group_saved, sender=groups.rel.model, dispatch_uid="uws4r.signals.group_saved")
        pre_delete.connect(group_deleted, sender=groups.rel.model, dispatch_uid="uws4r.signals.group_deleted")
