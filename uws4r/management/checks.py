"""Whether ``manage.py runserver`` is one that serves websockets."""

from typing import Any

from django.core.checks import CheckMessage, Warning

from uws4r.management.order import in_the_way


def check_runserver(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A system check: an app above uws4r may have a runserver with a server of its own, which then wins."""
    owner = in_the_way()
    if owner is None:
        return []
    return [
        Warning(
            f"manage.py runserver is the one of {owner}, with a server of its own, and serves no websockets.",
            hint=f'Put "uws4r" above "{owner}" in INSTALLED_APPS.',
            id="uws4r.W020",
        )
    ]
