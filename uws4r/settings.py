"""
The settings as module attributes, for code and tests that look at, or assign to, ``ws4redis.settings``.

An attribute is Django's setting as it is now, or the default. Assigning changes what uws4r uses in this
process, as ``override_settings`` would; ``del`` ends that. New code reads Django's settings instead.
"""

import sys
from types import ModuleType
from typing import Any

from uws4r.conf import SETTINGS, conf


class _Settings(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in SETTINGS:
            return getattr(conf, name)
        raise AttributeError(f"uws4r has no setting {name!r}; it has {', '.join(SETTINGS)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS:
            conf.assigned.pop(name, None)
            if getattr(conf, name) is not value:  # a test that puts back what it found assigns nothing
                conf.assigned[name] = value
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in SETTINGS:
            conf.assigned.pop(name, None)
        else:
            super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return list(SETTINGS)


sys.modules[__name__].__class__ = _Settings
