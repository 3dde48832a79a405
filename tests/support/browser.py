"""A headless Chromium of a test's own, driven by selenium."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,700",
)


@contextmanager
def browsers() -> Iterator[Callable[[], Chrome]]:
    """Start as many browsers as are called for, each with cookies of its own; all of them end with the block."""
    started: list[Chrome] = []
    with tempfile.TemporaryDirectory(prefix="uws4r-chromium-", ignore_cleanup_errors=True) as profiles:

        def start() -> Chrome:
            options = ChromeOptions()
            options.binary_location = "/usr/bin/chromium"
            for argument in (*ARGUMENTS, f"--user-data-dir={profiles}/{len(started)}"):
                options.add_argument(argument)
            started.append(Chrome(options=options, service=ChromeService("/usr/bin/chromedriver")))
            return started[-1]

        try:
            yield start
        finally:
            for one in started:
                one.quit()
