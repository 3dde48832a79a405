"""The Django app: ``INSTALLED_APPS = [..., "uws4r"]``. It has no models."""

from django.apps import AppConfig
from django.core.checks import register


class Uws4rConfig(AppConfig):
    name = "uws4r"
    verbose_name = "Websockets"

    def ready(self) -> None:
        from uws4r import checks, signals
        from uws4r.management.checks import check_runserver

        checks.connect()
        register(check_runserver, "uws4r")
        signals.connect()
