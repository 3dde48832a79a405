"""The pages of the example site."""

from django.urls import path

from chat import views

urlpatterns = [
    path("", views.lobby, name="lobby"),
    path("announce/", views.announce, name="announce"),
]
