"""The addresses of the example site."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from chat import views

urlpatterns = [
    path("", views.lobby, name="lobby"),
    path("people/", views.people, name="people"),
    path("people/send/", views.people_send, name="people-send"),
    path("group/", views.group, name="group"),
    path("session/", views.session, name="session"),
    path("session/send/", views.session_send, name="session-send"),
    path("notes/", views.notes, name="notes"),
    path("notes/send/", views.notes_send, name="notes-send"),
    path("login/", LoginView.as_view(template_name="login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
]
