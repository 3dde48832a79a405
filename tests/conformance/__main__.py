"""``./build.sh conformance [CASES…]``: by default all 517 cases."""

import sys
import time

from tests.conformance.run import conformance
from tests.conformance.tool import BUILD


def main() -> None:
    begin = time.monotonic()
    directory = BUILD / "conformance"
    try:
        verdict = conformance(directory, sys.argv[1:] or ["*"])
    except RuntimeError as error:
        sys.exit(str(error))
    print(verdict)
    print(f"{time.monotonic() - begin:.0f} s; the report: {directory / 'index.html'}, logs: {directory / 'logs'}")
    sys.exit(not verdict.passed)


if __name__ == "__main__":
    main()
