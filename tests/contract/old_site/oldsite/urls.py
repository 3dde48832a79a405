from django.contrib.auth import authenticate, login
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.generic.base import View
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import SELF, RedisMessage


class MyTypicalView(View):
    facility = "unique-named-facility"
    audience = {"broadcast": True}  # noqa: RUF012

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.redis_publisher = RedisPublisher(facility=self.facility, **self.audience)

    def get(self, request):
        message = "A message passed to all browsers listening on the named facility"
        self.redis_publisher.publish_message(message)
        return HttpResponse()


@csrf_exempt
def log_in(request):
    login(request, authenticate(username=request.POST["username"], password=request.POST["username"]))
    return HttpResponse()


def to_myself(request):
    RedisPublisher(facility="foobar", users=[SELF], request=request).publish_message(RedisMessage("to myself"))
    return HttpResponse(RedisPublisher().fetch_message(request, "foobar", "any"))


def page(request):
    return render(request, "page.html")


urlpatterns = [
    path("typical/", MyTypicalView.as_view()),
    path("login/", log_in),
    path("to-myself/", to_myself),
    path("page/", page),
]
