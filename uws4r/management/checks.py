"""Whether ``manage.py runserver`` is the one that serves websockets."""

from typing import Any

from django.core.checks import CheckMessage, Warning
from django.core.management import get_commands, load_command_class


def check_runserver(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A system check: an app above uws4r may have a runserver of its own, which then wins."""
    owner = get_commands()["runserver"]
    if owner == "uws4r":
        return []
    from uws4r.management.commands import runserver

    if isinstance(load_command_class(owner, "runserver"), runserver.Command):
        return []
    return [
        Warning(
            f"manage.py runserver is the one of {owner}, and serves no websockets.",
            hint=f'Put "uws4r" above "{owner}" in INSTALLED_APPS: it serves what the other one serves as well.',
            id="uws4r.W020",
        )
    ]
