"""
Who is addressed: audiences, :data:`SELF`, and the names of channels in Redis.

The only caller of :func:`uws4r._frames.join_name`, so that a name is built in one place. Requests are
looked at by their attributes (``user``, ``session``); nothing here imports Django.
"""

import logging
import sys
import warnings
from collections.abc import Iterable
from enum import Enum
from numbers import Number
from types import FrameType
from typing import Any, NamedTuple

from uws4r._frames import join_name

logger = logging.getLogger("uws4r.channels")

GROUPS_KEY = "ws4redis:memberof"  # in the session: the names of the user's groups, stored at login; and a site's own
MODELS_KEY = "uws4r:groups"  # in the session: which of them were groups of the model then
LOGIN_KEY = "_auth_user_id"  # in the session: django.contrib.auth.SESSION_KEY

AUDIENCES = ("session", "user", "group", "broadcast")  # from the narrowest to the widest


class SelfType:
    """The type of :data:`SELF`."""

    def __repr__(self) -> str:
        return "SELF"


SELF = SelfType()  # in ``users``, ``groups``, ``sessions``: those of the request


class Channel(NamedTuple):
    """A channel by name; ``facility`` tells which channels can carry copies of one message."""

    name: bytes
    facility: str


def user_names(request: Any) -> list[str]:
    """Return the name of the request's user; none for an anonymous one."""
    user = getattr(request, "user", None)
    return [str(user.get_username())] if user is not None and user.is_authenticated else []


def group_names(request: Any) -> list[str]:
    """
    Return the names of the user's groups as they are now, and those that a site keeps in the session.

    The session's list (:data:`GROUPS_KEY`) is that of the login, and the site may have added to it. A name that came
    from the model counts only while the user is in that group: not when the group is deleted, nor in another group of
    that name. Of a session that does not say which these are (:data:`MODELS_KEY`) they may be all.
    """
    if not user_names(request):
        return []
    session = getattr(request, "session", None)
    stored = list(session.get(GROUPS_KEY, ())) if session is not None else []
    groups = getattr(request.user, "groups", None)
    if groups is None:
        return stored
    present = [str(getattr(group, "name", group)) for group in groups.all()]
    others = set(stored) - set(present)
    if others and session is not None:
        others -= set(session.get(MODELS_KEY, stored if session.get(LOGIN_KEY) is not None else ()))
    if others and hasattr(groups, "model"):
        others -= set(groups.model._default_manager.filter(name__in=others).values_list("name", flat=True))
    return [*(name for name in stored if name in present or name in others), *(n for n in present if n not in stored)]


def in_cookies(store: type) -> bool:
    """
    Whether sessions of this class are kept in the browser: then nothing names one.

    What Django calls the key there is all of the cookie, which is another one after each change.
    """
    return any(each.__module__ == "django.contrib.sessions.backends.signed_cookies" for each in store.__mro__)


def session_keys(request: Any) -> list[str]:
    """Return the key of the request's session; none where there is no session, or none that has a name."""
    session = getattr(request, "session", None)
    key = getattr(session, "session_key", None)
    return [key] if key and not in_cookies(session.__class__) else []


_told: set[tuple[str, str]] = set()


def _tell_once(argument: str, what: str = "SELF") -> None:
    if (argument, what) not in _told:
        _told.add((argument, what))
        logger.info(
            "%s in `%s` is nobody for a request without a user, a group or a session "
            "(ws4redis had one channel for all of those); said once",
            what,
            argument,
        )


_OWN = {"users": user_names, "groups": group_names, "sessions": session_keys}


def _outside() -> int:
    """Return the ``stacklevel`` of the nearest caller that is not uws4r."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("uws4r."):
        level, frame = level + 1, frame.f_back
    return level


# What each argument has names of, and what to write in place of something else.
_KINDS = {
    "users": ("user", "the user, or what user.get_username() returns; not its pk"),
    "groups": ("group", "the group, or its name; not its pk"),
    "sessions": ("session", "the key: request.session.session_key"),
}


def _own_name(argument: str, value: Any) -> Any:
    """Return what has the name of an object of Django's, as a function; None where it is no such object."""
    if isinstance(value, type):
        return None
    if argument == "users" and callable(getattr(value, "get_username", None)):
        # An anonymous user has no name, and no channel.
        return lambda: str(value.get_username()) if getattr(value, "is_authenticated", True) else None
    if argument == "groups" and hasattr(value, "pk") and isinstance(getattr(value, "name", None), str):
        return lambda: value.name
    if argument == "sessions" and hasattr(value, "session_key"):
        return lambda: value.session_key
    return None


def name_of(argument: str, value: Any) -> str | None:
    """
    Return the name that an entry of ``users``, ``groups`` or ``sessions`` (the ``argument``) stands for.

    Args:
        value: A text, bytes of UTF-8, a user, a group, a session; or what is a text when it is asked for one, such as
            a lazy text or a UUID.
    Returns:
        None for an anonymous user, and for a session without a key.
    Raises:
        ValueError: It is something else, and would be a name that nobody has.
    """
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration, too
    if isinstance(value, Enum):
        return name_of(argument, value.value)
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"Argument `{argument}` contains {value!r:.80}, which is no UTF-8") from None
    own = _own_name(argument, value)
    if own is not None:
        return own()
    kind, instead = _KINDS[argument]
    wrong = (Number, list, tuple, dict, set, frozenset, memoryview, type)
    if (
        value is None
        or isinstance(value, wrong)
        or type(value).__str__ is object.__str__
        or hasattr(value, "pk")  # another model's
    ):
        raise ValueError(f"Argument `{argument}` contains {value!r:.80}, which is no name of a {kind}: pass {instead}")
    return str(value)


def listed(argument: str, names: Any) -> Iterable[Any]:
    """
    Return ``users``, ``groups`` or ``sessions`` (the ``argument``) as an iterable of names.

    Args:
        names: An iterable of names. A plain string, a single user, group or session, ``True`` (for SELF) and ``False``
            are the old forms.
    Raises:
        ValueError: Something else.
    """
    if type(names) in (list, tuple):  # as nearly always, in each handshake
        return names
    if names is False or names is None:
        return ()
    if names is True or isinstance(names, (str, SelfType)) or _own_name(argument, names) is not None:
        warnings.warn(f"Wrap {argument}={names!r} into a list or tuple", DeprecationWarning, _outside())
        return [SELF if names is True else names]
    if not isinstance(names, Iterable) or isinstance(names, (bytes, bytearray)):
        raise ValueError(f"Argument `{argument}` must be a list or tuple, not {names!r}")
    return names


def resolve(argument: str, names: Any, request: Any) -> list[str]:
    """
    Return the names that ``users``, ``groups`` or ``sessions`` (the ``argument``) stands for.

    Args:
        names: An iterable of names (see :func:`name_of`), which may contain :data:`SELF`; or an old form.
    Raises:
        ValueError: Something else; or SELF, but no request to take it from.
    """
    if names == ():
        return []
    resolved: list[str] = []
    for name in listed(argument, names):
        if isinstance(name, SelfType):
            if request is None:
                raise ValueError(f"SELF in `{argument}` needs a request: pass request=…")
            own = _OWN[argument](request)
            if not own:
                _tell_once(argument)
            resolved += own
        elif (text := name_of(argument, name)) is not None:
            resolved.append(text)
        else:
            _tell_once(argument, type(name).__name__)
    return list(dict.fromkeys(resolved))


def at_hand(names: Any) -> bool:
    """Whether ``users``, ``groups`` or ``sessions`` have their names in them; others may ask a database."""

    def plain(value: Any) -> bool:
        # By the type itself: to ask a lazy object for its class is to load it.
        return issubclass(type(value), (str, bytes, bytearray, Number, type(None))) and value is not True

    return plain(names) or (type(names) in (list, tuple, set, frozenset) and all(map(plain, names)))


def facility_name(facility: Any) -> str:
    """
    Return a facility as a text; a lazy text and a whole number are taken for what they look like.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(facility, str):
        return str.__str__(facility)
    if isinstance(facility, (bytes, bytearray, bool, list, tuple, dict, set, type)) or facility is None:
        raise ValueError(f"facility must be a text, not {facility!r:.80}")
    if not isinstance(facility, int) and type(facility).__str__ is object.__str__:
        raise ValueError(f"facility must be a text, not {facility!r:.80}")
    return str(facility)


def channels_for(
    facility: str,
    *,
    prefix: str = "",
    request: Any = None,
    broadcast: bool = False,
    groups: Any = (),
    users: Any = (),
    sessions: Any = (),
) -> list[Channel]:
    """
    Return the channels of one facility for these audiences, each once, from the narrowest to the widest.

    Args:
        request: Where :data:`SELF` takes its names from; an anonymous user has none.
        prefix: Put in front of every name, without the separating colon.
    """
    facility = facility_name(facility)
    names = [join_name(prefix, "session", key, facility) for key in resolve("sessions", sessions, request)]
    names += [join_name(prefix, "user", name, facility) for name in resolve("users", users, request)]
    names += [join_name(prefix, "group", name, facility) for name in resolve("groups", groups, request)]
    if broadcast:
        names.append(join_name(prefix, "broadcast", None, facility))
    return [Channel(name, facility) for name in dict.fromkeys(names)]
