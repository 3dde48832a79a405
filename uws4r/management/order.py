"""
Which ``manage.py runserver`` is run: where "uws4r" stands in INSTALLED_APPS does not matter.

Django takes that of the first app that has one. uws4r's does what that one does, and websockets besides; so it comes
first, unless the other is made from it already, or brings a server of its own.
"""

import sys
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management import find_commands, get_commands, load_command_class
from django.core.servers.basehttp import WSGIServer

OURS = "uws4r"


def put_first() -> None:
    """Have ``runserver`` be uws4r's, where it can be."""
    commands = get_commands()  # Django's own dictionary, made once for a process
    owner = commands["runserver"]
    if owner != OURS and in_the_way() is None and not is_ours(type(load_command_class(owner, "runserver"))):
        commands["runserver"] = OURS


def in_the_way() -> str | None:
    """Return the app whose ``runserver`` is run, and serves no websockets; None where there is none."""
    owner = get_commands()["runserver"]
    if owner == OURS:
        return None
    theirs: Any = type(load_command_class(owner, "runserver"))
    return None if is_ours(theirs) or theirs.server_cls is WSGIServer else owner


def is_ours(command: Any) -> bool:
    """Whether a command is uws4r's, or made from it."""
    return getattr(command, "serves_websockets", False)


def next_runserver() -> type:
    """Return the command that ``runserver`` would be without uws4r, as far as it is not made from uws4r's itself."""
    for app in apps.get_app_configs():
        module = sys.modules.get(f"{app.name}.management.commands.runserver")
        being_made = module is not None and not hasattr(module, "Command")
        if app.name != OURS and not being_made and "runserver" in find_commands(Path(app.path) / "management"):
            return type(load_command_class(app.name, "runserver"))
    return type(load_command_class("django.core", "runserver"))
