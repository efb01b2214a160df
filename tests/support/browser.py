"""A real browser: Debian's Chromium, driven by Playwright, and what a page must not do in it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from lib.debian import program

DEADLINE = 30_000  # ms: the machine may have other things to do


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium until the block ends."""
    path = program("chromium", "chromium")
    # Its sandbox needs rights that containers and root do not have; it sees nothing here but our own pages.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments, env=_environment())
        try:
            yield browser
        finally:
            browser.close()


def _environment() -> dict[str, str | float | bool]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


class Watched:
    """A page of a node's console, and all that went wrong on it.

    Attributes:
        page: the page.
        problems: errors of scripts and of the console, requests to other origins.
    """

    def __init__(self, browser: Browser, origin: str, **context: object) -> None:
        self._context = browser.new_context(
            **{"locale": "en-GB", "viewport": {"width": 1200, "height": 800}} | context
        )  # type: ignore[arg-type]
        self._context.set_default_timeout(DEADLINE)
        self.origin = origin
        self.problems: list[str] = []
        self.expected: Callable[[str], bool] = lambda _: False
        self.page: Page = self._context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not self.expected(message.text):
            self.problems.append(f"console: {message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        at = urlsplit(request.url)
        if at.scheme not in ("data", "blob") and f"{at.scheme}://{at.netloc}" != self.origin:
            self.problems.append(f"request to {request.url}")

    def view(self, name: str, heading: str | None = None) -> Page:
        """Go to a view and wait for it; return the page."""
        self.page.goto(f"{self.origin}/#/{name}")
        self.page.locator(f'#views a[data-view="{name}"][aria-current="page"]').wait_for()
        if heading is not None:
            self.page.get_by_role("heading", level=1, name=heading, exact=True).wait_for()
        return self.page

    def close(self) -> None:
        """Close it; fail if anything went wrong."""
        self._context.close()
        assert not self.problems, self.problems
