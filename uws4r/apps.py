"""The Django app: ``INSTALLED_APPS = [..., "uws4r"]``. It has no models."""

from django.apps import AppConfig


class Uws4rConfig(AppConfig):
    name = "uws4r"
    verbose_name = "Websockets"

    def ready(self) -> None:
        from uws4r import checks, signals

        checks.connect()
        signals.connect()
