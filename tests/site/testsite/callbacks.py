"""Callbacks as sites write them, good and bad."""

import json
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from uws4r.access import attach_session_and_user


def claims(request: HttpRequest) -> dict[str, Any]:
    """What proxies have said of the request, and what Django makes of it."""
    return {
        **{name: request.META.get(f"HTTP_X_FORWARDED_{name}") for name in ("FOR", "PROTO", "HOST")},
        "host": request.get_host(),
        "secure": request.is_secure(),
    }


def tell_claims(request: HttpRequest, channels: list[str]) -> Iterable[str]:
    """Grants everything, and writes :func:`claims` into the log for a facility that asks for it."""
    if request.path_info.startswith("/ws/claims-"):
        print("claims of", request.path_info, json.dumps(claims(request)), flush=True)
    return channels


def only_broadcast(request: HttpRequest, channels: list[str]) -> Iterable[str]:
    return set(channels).intersection({"subscribe-broadcast", "subscribe-group"})


def only_members(request: HttpRequest, channels: list[str]) -> Iterable[str]:
    """Asks the database."""
    if not request.user.is_authenticated or not request.user.groups.filter(name="chatters").exists():
        raise PermissionDenied("members only")
    return channels


def deny(request: HttpRequest, channels: Iterable[str] = ()) -> Iterable[str]:
    raise PermissionDenied("secret reason")


def nothing(request: HttpRequest, channels: list[str]) -> list[str]:
    return []


def forget(request: HttpRequest, channels: list[str]) -> None:
    set(channels).intersection({"subscribe-broadcast"})


def explode(request: HttpRequest, channels: list[str]) -> None:
    raise AttributeError("secret state")


def by_token(request: HttpRequest) -> None:
    """Sets the user itself, from a token in the URL."""
    from django.contrib.auth.models import User

    token = request.GET.get("token")
    if token == "wrong":  # noqa: S105
        raise PermissionDenied("wrong token")
    request.session = None
    request.user = User.objects.filter(username=token).first()


def only_authenticated(request: HttpRequest, channels: list[str]) -> list[str]:
    if not request.user.is_authenticated:
        raise PermissionDenied("Not allowed to subscribe nor to publish on the Websocket!")
    return channels


def members_of_ws4redis_manual(request: HttpRequest, channels: list[str]) -> list[str]:
    """As the old manual has it: no method any more in today's Django."""
    if not request.user.is_authenticated():
        raise PermissionDenied("secret")
    return channels


def repeat(request: HttpRequest, channels: list[str]) -> list[str]:
    """A bug whose text is what the client has sent."""
    raise KeyError("\n".join([request.path, *request.GET]))


def deny_with_a_reason(request: HttpRequest, channels: list[str]) -> list[str]:
    raise PermissionDenied("\n".join([request.path, *request.GET]))


def by_token_beside_a_cookie(request: HttpRequest) -> None:
    """Sets the user from a token in the URL, whatever cookie there is; the token's id names the login."""
    from django.contrib.auth.models import User

    if "token" not in request.GET:
        attach_session_and_user(request)
        return
    request.session = None
    request.user = User.objects.filter(username=request.GET.get("token")).first()
    request.login_key = request.GET.get("id")


def of_the_tenant(request: HttpRequest) -> None:
    """As a site does whose sessions are where Django's are not; who comes to no tenant has Django's."""
    if "tenant" not in request.COOKIES:
        attach_session_and_user(request)
        return

    class Session:
        session_key = request.COOKIES.get("tenant")

    request.session = Session()
    request.user = None


def as_ws4redis_did(request: HttpRequest) -> None:
    """What ws4redis' own process_request() was."""
    from django.contrib.auth import get_user
    from django.contrib.sessions.backends.db import SessionStore
    from django.utils.functional import SimpleLazyObject

    request.session = SessionStore(request.COOKIES.get("sessionid"))
    request.user = SimpleLazyObject(lambda: get_user(request))


def still_holds(key: str, user: str | None) -> object:
    """Asks Redis what a test says of a login: its end in seconds of the epoch, nothing while it goes on."""
    from uws4r.redis_clients import redis_client

    told = redis_client().get(f"login of {user}: {key}")
    return True if told is None else float(told)
