"""Callbacks as sites write them, good and bad."""

from collections.abc import Iterable

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


def only_broadcast(request: HttpRequest, channels: list[str]) -> Iterable[str]:
    return set(channels).intersection({"subscribe-broadcast", "subscribe-group"})


def only_members(request: HttpRequest, channels: list[str]) -> Iterable[str]:
    """Asks the database."""
    if not request.user.is_authenticated or not request.user.groups.filter(name="chatters").exists():
        raise PermissionDenied("members only")
    return channels


def deny(request: HttpRequest, channels: Iterable[str] = ()) -> Iterable[str]:
    raise PermissionDenied("secret reason")


def forget(request: HttpRequest, channels: list[str]) -> None:
    set(channels).intersection({"subscribe-broadcast"})


def explode(request: HttpRequest, channels: list[str]) -> None:
    raise AttributeError("secret state")
