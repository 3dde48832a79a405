"""The Django app: ``INSTALLED_APPS = [..., "uws4r"]``. It has no models, and does not need those of others."""

import sys

from django.apps import AppConfig, apps
from django.contrib.auth import get_user_model
from django.core.checks import register


class Uws4rConfig(AppConfig):
    name = "uws4r"
    verbose_name = "Websockets"

    def ready(self) -> None:
        from uws4r import checks, signals
        from uws4r.management.checks import check_runserver
        from uws4r.management.order import put_first

        checks.connect()
        register(check_runserver, "uws4r")
        if sys.argv[1:2] == ["runserver"]:
            put_first()
        signals.connect()
        if apps.is_installed("django.contrib.auth"):
            signals.connect_models(get_user_model())
