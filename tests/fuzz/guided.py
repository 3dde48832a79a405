"""
One target, driven by atheris: ``python -m tests.fuzz.guided TARGET [FILE|DIRECTORY|-OPTION…]``.

Runs on extensions that count what they execute, with libFuzzer and AddressSanitizer loaded before Python:
``tests.fuzz`` calls it like that. The arguments are libFuzzer's own; of files, each is run once.
"""

import os
import sys
import traceback
from pathlib import Path

import atheris

SITE = Path(__file__).resolve().parents[1] / "site"


def main() -> None:
    name = sys.argv.pop(1)
    sys.path.insert(0, str(SITE))
    os.environ["DJANGO_SETTINGS_MODULE"] = "testsite.settings"
    import django

    # The compiled modules count by themselves; of Python's, those of the package do.
    with atheris.instrument_imports(include=["uws4r"]):
        django.setup()
        from tests.fuzz.targets import TARGETS, site_settings
    site_settings.enable()

    def checked(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except BaseException:
            # Not left to atheris, which ends Python first: libFuzzer may be gone before it has saved the input.
            traceback.print_exc()
            sys.stderr.flush()
            os.abort()

    atheris.Setup(sys.argv, checked)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
