"""
The pages of the example site, one for each audience.

Lobby and group publish from the browser; people, session and notes publish from a view, which knows
who the sender is.
"""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from uws4r.publisher import RedisPublisher
from uws4r.redis_store import SELF


def chat(request: HttpRequest, page: str, title: str, flags: str, explanation: str, **context: Any) -> HttpResponse:
    """Render a chat whose websocket listens to the facility named like the page."""
    context |= {"page": page, "facility": page, "title": title, "flags": flags, "explanation": explanation}
    return render(request, "chat.html", context)


def lobby(request: HttpRequest) -> HttpResponse:
    return chat(
        request,
        "lobby",
        "Lobby",
        "subscribe-broadcast&publish-broadcast&echo",
        "Everybody who has this page open reads what you write here (broadcast).",
    )


@login_required
def people(request: HttpRequest) -> HttpResponse:
    return chat(
        request,
        "people",
        "People",
        "subscribe-user",
        "Write to one person, who sees it in all of his windows (user).",
        action=reverse("people-send"),
        recipients=User.objects.exclude(pk=request.user.pk).order_by("username").values_list("username", flat=True),
    )


@login_required
@require_POST
def people_send(request: HttpRequest) -> HttpResponse:
    """Publish to the recipient and to the sender: two users, one publish, one copy for each window."""
    recipient = get_object_or_404(User, username=request.POST.get("to", ""))
    publisher = RedisPublisher(facility="people", users=[recipient.get_username(), SELF], request=request)
    return publish(request, publisher)


@login_required
def group(request: HttpRequest) -> HttpResponse:
    return chat(
        request,
        "group",
        "Chatters",
        "subscribe-group&publish-group&echo",
        "The members of the group “chatters” are among themselves here (group).",
    )


def session(request: HttpRequest) -> HttpResponse:
    if not request.session.session_key:
        request.session.create()
    return chat(
        request,
        "session",
        "This session",
        "subscribe-session",
        "Open this page in two windows of one browser: what you send comes to both, and to no other browser (session).",
        action=reverse("session-send"),
    )


@require_POST
def session_send(request: HttpRequest) -> HttpResponse:
    return publish(request, RedisPublisher(facility="session", sessions=[SELF], request=request))


@login_required
def notes(request: HttpRequest) -> HttpResponse:
    return chat(
        request,
        "notes",
        "Notes to myself",
        "subscribe-user",
        "The form posts to Django, and Django sends it back to you over the websocket (users=[SELF]).",
        action=reverse("notes-send"),
    )


@login_required
@require_POST
def notes_send(request: HttpRequest) -> HttpResponse:
    return publish(request, RedisPublisher(facility="notes", users=[SELF], request=request))


def publish(request: HttpRequest, publisher: RedisPublisher) -> HttpResponse:
    """Publish the form's text in the name of the user."""
    publisher.publish_message({"from": request.user.get_username() or "me", "text": request.POST.get("text", "")})
    return HttpResponse(status=204)
