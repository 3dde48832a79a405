"""The Django app: ``INSTALLED_APPS = [..., "uws4r"]``. It has no models, and does not need those of others."""

from django.apps import AppConfig, apps
from django.contrib.auth import get_user_model
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
        if apps.is_installed("django.contrib.auth"):
            signals.connect_models(get_user_model())
