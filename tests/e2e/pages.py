"""What the browser tests share: going through pages, and what is wrong with one of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from allauth.mfa import app_settings as mfa
from allauth.mfa.totp.internal import auth as totp
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from requests_app.models import Case, StaffMember
from tests import factories

Window = Callable[..., Page]
Picture = Callable[[Page, str], None]
PASSWORD = "password-for-tests"  # of tests.factories.make_staff
WIDE, NARROW = 1280, 320
LOOKS = (("light", WIDE), ("dark", WIDE), ("dark", NARROW), ("light", NARROW))
AXE = Axe()
FOCUSED = """() => {
  const at = document.activeElement;
  const label = at.labels && at.labels.length ? at.labels[0] : at;
  return {name: label.innerText.trim(), outline: getComputedStyle(at).outlineStyle};
}"""


def barriers(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA and its own best practices, one line each."""
    found = AXE.run(page).response["violations"]
    return [f"{v['id']}: {node['html'][:160]}" for v in found for node in v["nodes"]]


def too_wide(page: Page) -> bool:
    """Whether the page has to be scrolled sideways as a whole (WCAG 1.4.10)."""
    wide: bool = page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    return wide


def slug(path: str) -> str:
    """A path as part of a file name, without the names of its rows."""
    return re.sub(r"[^a-z]+", "-", re.sub(r"[0-9a-f-]{36}|ERQ-[0-9-]+", "one", path)).strip("-")


def look_over(page: Page, picture: Picture, name: str) -> list[str]:
    """The open page in light and dark, wide and narrow: its barriers, and whether it is too wide.

    A picture of each is kept. The page is not loaded again: a stylesheet alone makes the looks.
    """
    problems: list[str] = []
    for scheme, width in LOOKS:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 900})
        picture(page, f"{name}-{scheme}-{width}")
        problems += [f"{name} {scheme} {width}: {what}" for what in barriers(page)]
        if too_wide(page):
            problems.append(f"{name}: wider than {width} px")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": WIDE, "height": 900})
    return problems


def check_everywhere(
    open_window: Window,
    picture: Picture,
    paths: Sequence[str],
    *,
    member: StaffMember | None = None,
    revealed: Sequence[Case] = (),
) -> None:
    """No barrier on these pages in light and dark, and nothing too wide at 320 px.

    What the policy refused, the console told or the server failed at: `open_window` watches.
    """
    side = "staff" if member else "public"
    page = open_window(member=member, revealed=revealed)
    problems: list[str] = []
    for path in paths:
        page.goto(path)
        problems += look_over(page, picture, f"{side}-{slug(path) or 'start'}")
    assert not problems, "\n".join(problems)


def show_person(page: Page, why: str) -> None:
    """On the page that asks why, say so and go on."""
    expect(page.get_by_role("heading", level=1)).to_have_text("Show personal data")
    page.get_by_label(why).check()
    page.get_by_role("button", name="Show personal data").click()


def log_in(page: Page, member: StaffMember, *, secret: str = "") -> None:
    """Name and password on the log-in page; with a secret, the code of this half minute too."""
    page.get_by_label("User name or e-mail address").fill(member.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    if secret:
        counter = int(time.time()) // mfa.TOTP_PERIOD
        page.locator("input[name=code]").fill(
            totp.format_hotp_value(totp.hotp_value(secret, counter))
        )
        page.get_by_role("button", name="Sign In").click()


def press(page: Page, button: str) -> None:
    """Press a button that needs a fresh log-in, and enter the password if it is asked for."""
    with page.expect_navigation():
        page.get_by_role("button", name=button).click()
    if page.url.split("?")[0].endswith("/accounts/reauthenticate/"):
        expect(page.get_by_role("heading", level=1)).to_have_text("Confirm that it is you")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Confirm").click()


def answer_form(
    page: Page, *, name: str = factories.NAME, email: str = factories.EMAIL, alias: str = ""
) -> None:
    """The whole form as a person does it, up to the answers to check."""
    page.goto("/")
    page.get_by_role("link", name="Start now").click()
    page.get_by_label("For myself").check()
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Name, as we may hold it").fill(name)
    page.get_by_label("Other names").fill(alias)
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("E-mail address").fill(email)
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("AI models that may have learned my data").check()
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Anything that helps us find your data").fill(factories.MESSAGE)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#answer-name")).to_have_text(name)


def send_form(page: Page) -> tuple[str, str]:
    """Send what was checked: reference and access code."""
    page.get_by_role("button", name="Send erasure request").click()
    reference = page.locator("#reference").inner_text()
    return reference, page.locator("#access-code").inner_text()


def open_status(page: Page, reference: str, access_code: str) -> None:
    """Follow a request: its page, open in this window from now on."""
    page.goto("/status")
    page.get_by_label("Reference").fill(reference)
    page.get_by_label("Access code").fill(access_code)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#stages")).to_be_visible()


def enter(page: Page) -> None:
    """Press Enter where that leads to another page."""
    with page.expect_navigation():
        page.keyboard.press("Enter")


def tab_to(page: Page, name: str, *, most: int = 40) -> None:
    """Press Tab until a control of that name has the focus, and see that it shows."""
    for _ in range(most):
        page.keyboard.press("Tab")
        told: dict[str, str] = page.evaluate(FOCUSED)
        if told["name"].startswith(name):
            assert told["outline"] != "none", f"The focus on “{name}” is not to be seen."
            return
    raise AssertionError(f"No control “{name}” within {most} presses of Tab.")
