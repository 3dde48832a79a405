"""The Django app: ``INSTALLED_APPS = [..., "uws4r"]``. It has no models."""

from django.apps import AppConfig
from django.core import checks


class Uws4rConfig(AppConfig):
    name = "uws4r"
    verbose_name = "Websockets"

    def ready(self) -> None:
        from uws4r import signals
        from uws4r.management.checks import check_runserver

        signals.connect()
        checks.register(check_runserver)
