"""Views through which a test acts as a site would."""

import ctypes
import gc
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.contrib.auth import authenticate, login, logout, update_session_auth_hash
from django.contrib.staticfiles.views import serve
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import Context, Engine
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from uws4r.context_processors import default as websockets
from uws4r.publisher import RedisPublisher
from uws4r.redis_store import SELF

from .callbacks import claims

PAGES = Path(__file__).parent / "pages"


@csrf_exempt
def log_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(username=request.POST["username"], password=request.POST["username"])
    if user is None:
        return HttpResponse(status=403)
    login(request, user)
    return HttpResponse(request.session.session_key)


@csrf_exempt
def change_password(request: HttpRequest) -> HttpResponse:
    """Set one's own password, as Django's own view does."""
    request.user.set_password(request.POST["password"])
    request.user.save()
    update_session_auth_hash(request, request.user)
    return HttpResponse(request.session.session_key)


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse()


@csrf_exempt
def publish(request: HttpRequest) -> HttpResponse:
    """Publish ``message`` on ``facility`` to ``audience``: broadcast, or the request's own user, group, session."""
    audience = request.POST["audience"]
    to = {"broadcast": True} if audience == "broadcast" else {f"{audience}s": [SELF]}
    publisher = RedisPublisher(facility=request.POST["facility"], request=request, **to)
    return JsonResponse({"reached": publisher.publish_message(request.POST["message"])})


@csrf_exempt
def publish_everywhere(request: HttpRequest) -> HttpResponse:
    """Publish one message to everybody, a user and a group."""
    publisher = RedisPublisher(
        facility=request.POST["facility"], broadcast=True, users=[request.POST["user"]], groups=[request.POST["group"]]
    )
    publisher.publish_message(request.POST["message"])
    return HttpResponse()


@csrf_exempt
def visit(request: HttpRequest) -> HttpResponse:
    """Give an anonymous visitor a session."""
    request.session["visited"] = True
    return HttpResponse()


def forwarded(request: HttpRequest) -> JsonResponse:
    """What proxies have said of the request, and what Django makes of it."""
    response = JsonResponse(claims(request))
    response["Content-Length"] = len(response.content)
    return response


@csrf_exempt
def digest(request: HttpRequest) -> HttpResponse:
    """The size and the SHA-256 of what has been uploaded."""
    body = f"{len(request.body)} {hashlib.sha256(request.body).hexdigest()}"
    return HttpResponse(body, headers={"Content-Length": len(body)})


@csrf_exempt
def unread(request: HttpRequest) -> HttpResponse:
    """An answer to an upload that nobody reads."""
    return HttpResponse("no, thanks", status=403, headers={"Content-Length": 10})


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Something at once, and a lot of it later."""

    def parts() -> Iterator[bytes]:
        yield b"first"
        time.sleep(1)
        for _ in range(50):
            yield b"x" * 100_000

    return StreamingHttpResponse(parts())


def sleep(request: HttpRequest) -> HttpResponse:
    """Take longer than anybody waits."""
    print("a request sleeps", flush=True)
    time.sleep(60)
    return HttpResponse()


def compute(request: HttpRequest, seconds: int) -> HttpResponse:
    """Have a thread keep the GIL as busy as pure Python can, beginning now."""

    def work() -> None:
        while time.monotonic() < end:
            pass

    end = time.monotonic() + seconds
    threading.Thread(target=work, daemon=True).start()
    return HttpResponse()


def page(request: HttpRequest, name: str) -> HttpResponse:
    """A page for a browser, with what the context processor puts into templates."""
    context = {"STATIC_URL": settings.STATIC_URL, "request": request, **websockets(request)}
    return HttpResponse(Engine(dirs=[PAGES]).get_template(f"{name}.html").render(Context(context)))


class Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and newer."""

    _fields_ = (("counts", ctypes.c_size_t * 10),)


def from_malloc() -> int:
    """Bytes that this process has from malloc: exact, where what the kernel counts is pages."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    counts = mallinfo().counts
    mapped, used = counts[4], counts[7]  # hblkhd, uordblks
    return mapped + used


def allocated(request: HttpRequest) -> HttpResponse:
    """How many bytes this process has from malloc."""
    body = str(from_malloc())
    return HttpResponse(body, headers={"Content-Length": len(body)})


def blocks(request: HttpRequest) -> HttpResponse:
    """How many blocks of memory Python's objects have in this process, garbage apart, and bytes from malloc."""
    gc.collect()
    body = json.dumps({"blocks": sys.getallocatedblocks(), "malloc": from_malloc()})
    return HttpResponse(body, headers={"Content-Length": len(body)})


urlpatterns = [
    path("allocated/", allocated),
    path("blocks/", blocks),
    path("login/", log_in),
    path("logout/", log_out),
    path("password/", change_password),
    path("publish/", publish),
    path("everywhere/", publish_everywhere),
    path("visit/", visit),
    path("forwarded/", forwarded),
    path("digest/", digest),
    path("unread/", unread),
    path("stream/", stream),
    path("sleep/", sleep),
    path("compute/<int:seconds>/", compute),
    path("page/<slug:name>/", page),
    path("static/<path:path>", serve, {"insecure": True}),
]
