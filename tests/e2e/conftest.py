"""A browser on the real pages: Debian's Chromium against a live server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    sync_playwright,
)
from pytest_django.fixtures import Settings
from pytest_django.live_server_helper import LiveServer

from requests_app.models import Case, StaffMember
from tests.e2e import chromium
from tests.staff import as_staff

PICTURES = Path(django_settings.BASE_DIR) / "var" / "screenshots"
WATCH_POLICY = """
document.addEventListener("securitypolicyviolation", event => {
  console.error("refused by policy: " + event.violatedDirective + " " + event.blockedURI);
});
"""

# The browser's driver runs an event loop in this thread; the tests read rows between its steps.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")


@pytest.fixture(scope="session", autouse=True)
def static_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Collected static files lie nowhere in tests; the live server wants the folder to be there."""
    patch = pytest.MonkeyPatch()
    patch.setattr(django_settings, "STATIC_ROOT", str(tmp_path_factory.mktemp("static")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium.find()
    if path is None:
        pytest.fail("No Chromium: run python -m tests.e2e.chromium, it says what to do.")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
        yield started
        started.close()


def watch(context: BrowserContext, found: list[str]) -> None:
    """Write down what went wrong behind any page of a window.

    A page may answer 4xx, since a test may want that; what belongs to a page may not. What leaving
    a page breaks off (a poll), or a download does, is no failure; nor that a test takes the network
    away.
    """

    def answered(response: Response) -> None:
        limit = 500 if response.request.is_navigation_request() else 400
        if response.status >= limit:
            found.append(f"{response.status} for {response.url}")

    def told(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            found.append(f"console: {message.text}")  # of resources, `answered` knows more

    def failed(request: Request) -> None:
        if request.failure not in ("net::ERR_ABORTED", "net::ERR_INTERNET_DISCONNECTED"):
            found.append(f"{request.failure} for {request.url}")

    context.on("response", answered)
    context.on("console", told)
    context.on("requestfailed", failed)
    context.on("weberror", lambda error: found.append(f"script: {error.error}"))


@pytest.fixture
def open_window(
    browser: Browser, live_server: LiveServer, settings: Settings
) -> Iterator[Callable[..., Page]]:
    """Open a browser window of its own; staff are logged in by their session cookie,
    a moment ago, and may have revealed cases before. The test fails of what went wrong behind its
    pages: a resource refused by the policy, an error on the console, a failed request."""
    contexts: list[BrowserContext] = []
    found: list[str] = []

    def window(
        *,
        member: StaffMember | None = None,
        revealed: Sequence[Case] = (),
        scheme: str = "light",
        width: int = 1280,
        script: bool = True,
    ) -> Page:
        context = browser.new_context(
            base_url=live_server.url,
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport={"width": width, "height": 900},
            java_script_enabled=script,
            reduced_motion="reduce",
            locale="en-GB",
            timezone_id="Europe/Brussels",
        )
        contexts.append(context)
        watch(context, found)
        if script:
            context.add_init_script(WATCH_POLICY)
        if member is not None:
            client = as_staff(member, *revealed)
            cookie = client.cookies[settings.SESSION_COOKIE_NAME]
            context.add_cookies(
                [{"name": cookie.key, "value": cookie.value, "url": live_server.url}]
            )
        page = context.new_page()
        page.set_default_timeout(10_000)
        return page

    yield window
    for context in contexts:
        context.close()
    assert not found, "\n".join(found)


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Keep a picture of the whole page under var/screenshots/."""
    PICTURES.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> None:
        page.screenshot(path=str(PICTURES / f"{name}.png"), full_page=True)

    return take
