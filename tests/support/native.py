"""What uWSGI and Django are told for native mode."""

from typing import Any

from tests.support.servers import ROOT

PLUGINS = ROOT / "plugin"  # where ./build.sh test has built them


def native(slots: int = 1000, *options: str, **settings: Any) -> dict[str, Any]:
    """Arguments of ``served``: native mode with so many slots."""
    return {
        "options": (
            *("--plugins-dir", str(PLUGINS), "--need-plugin", "greenlet", "--need-plugin", "uws4r"),
            *("--greenlet", "--async", str(slots), "--max-fd", str(3 * slots + 500), *options),
        ),
        "settings": {"UWS4R_MODE": "native", **settings},
    }
