"""
Writes ``uws4r/static/js/ws4redis.js``: the client and, behind it, the old name for it.

Pages of django-websocket-redis include that one file and nothing else. ``--check`` only says whether it is up to date.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "uws4r" / "static" / "uws4r" / "uws4r.js"
FACADE = ROOT / "js" / "ws4redis.src.js"
TARGET = ROOT / "uws4r" / "static" / "js" / "ws4redis.js"
HEAD = "// Made by js/build.py of uws4r/static/uws4r/uws4r.js and js/ws4redis.src.js: change those.\n"


def main() -> None:
    text = HEAD + CLIENT.read_text() + FACADE.read_text()
    if "--check" not in sys.argv:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.exit(f"{TARGET.relative_to(ROOT)} is not up to date: run python js/build.py")


if __name__ == "__main__":
    main()
