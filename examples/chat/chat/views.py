"""A page with a chat in it, and a view that says something in the chat."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from uws4r.publisher import RedisPublisher


def lobby(request: HttpRequest) -> HttpResponse:
    """Show the chat."""
    return render(request, "lobby.html")


@require_POST
def announce(request: HttpRequest) -> HttpResponse:
    """Publish a message from Django to every browser in the lobby."""
    publisher = RedisPublisher(facility="lobby", broadcast=True)
    publisher.publish_message({"from": "the server", "text": request.POST.get("text", "")})
    return HttpResponse(status=204)
