"""The public pages in a browser: the form with and without script, focus, weight, policy, looks."""

from __future__ import annotations

import pytest
from playwright.sync_api import Response, expect

from requests_app import receipts
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case
from requests_app.services import intake, letters
from requests_app.urls import urlpatterns
from requests_app.views.wizard import STEPS
from tests import factories
from tests.e2e.pages import (
    NARROW,
    Picture,
    Window,
    answer_form,
    barriers,
    check_everywhere,
    enter,
    look_over,
    open_status,
    send_form,
    tab_to,
    too_wide,
)
from tests.requests_app import bundles

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

PATHS = {
    "start": "/",
    "erasure_sent": "/erasure/sent/ERQ-2026-000001",
    "erasure_confirm": "/erasure/confirm",
    "erasure_confirmed": "/erasure/confirmed",
    "status_lookup": "/status",
    "transparency": "/transparency",
    "privacy": "/privacy",
    "accessibility": "/accessibility",
    "invitation": "/accounts/invitation",
}
"""Pages that open for anybody; the steps of the form are added."""
OF_A_CASE = {"status", "receipt", "withdraw"}
NO_PAGES = {
    "erasure_resend": "a button of the page for the code",
    "erasure_sent_pdf": "a file",
    "status_letter": "a text file",
    "receipt_file": "a file",
    "checkpoint": "a text file",
    "checkpoint_of": "a text file",
    "trust": "a text file",
    "set_language": "the buttons of every page",
}
OPEN_TO_ALL = [*PATHS.values(), *(f"/erasure/new/{step}" for step in STEPS)]
LIGHTEST = 100_000  # bytes: all that a page loads
SHIFTS = """
window.shifted = 0;
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) window.shifted += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


def test_every_public_address_is_looked_at_or_has_a_reason() -> None:
    public = {each.name for each in urlpatterns if not str(each.pattern).startswith("app/")}
    assert public == {*PATHS, "erasure_step", *OF_A_CASE, *NO_PAGES}


def test_pages_open_to_all_have_no_barriers(open_window: Window, picture: Picture) -> None:
    check_everywhere(open_window, picture, [*OPEN_TO_ALL, "/accounts/login/", "/not-there"])


def test_pages_of_a_request_have_no_barriers(open_window: Window, picture: Picture) -> None:
    opened = factories.open_case()
    page = open_window()
    open_status(page, opened.case.reference, opened.access_code)
    problems = look_over(page, picture, "public-status-new")
    intake.confirm_email(reference=opened.case.reference, code=factories.mailed_code())
    for name in ("", "/receipt", "/withdraw"):
        page.goto(f"/status/{opened.case.reference}{name}")
        problems += look_over(page, picture, f"public-status{name.replace('/', '-')}")
    bundles.sign()
    page.goto("/transparency")
    page.get_by_label("Or the text of the receipt").fill(
        receipts.receipt_file(receipts.make_receipt(opened.case)).decode()
    )
    page.get_by_role("button", name="Check receipt").click()
    page.get_by_text("Each step: SHA-256").click()
    expect(page.locator("#walk li").first).to_be_visible()
    problems += look_over(page, picture, "public-transparency-receipt")
    assert not problems, "\n".join(problems)


def test_pages_are_light_and_nothing_on_them_moves(open_window: Window) -> None:
    page = open_window()
    page.add_init_script(SHIFTS)
    loaded: list[Response] = []
    page.on("response", lambda response: loaded.append(response))
    for path in OPEN_TO_ALL:
        loaded.clear()
        page.goto(path, wait_until="networkidle")
        assert sum(len(each.body()) for each in loaded) < LIGHTEST, path
        assert page.evaluate("window.shifted") < 0.01, path


def test_pages_print_and_keep_their_shapes_in_forced_colours(
    open_window: Window, picture: Picture
) -> None:
    opened = factories.open_case()
    page = open_window()
    open_status(page, opened.case.reference, opened.access_code)
    page.emulate_media(forced_colors="active")
    picture(page, "public-status-forced-colours")
    assert not barriers(page)
    edge = page.locator(".stages li").first.evaluate(
        "item => getComputedStyle(item, '::before').borderTopStyle"
    )
    assert edge == "solid"
    page.emulate_media(forced_colors="none", media="print", color_scheme="dark")
    picture(page, "public-status-print")
    expect(page.locator(".masthead")).to_be_hidden()
    expect(page.locator("#stages")).to_be_visible()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    button = "getComputedStyle(document.querySelector('.menu a')).transitionDuration"
    assert page.evaluate(button) == "0s"  # windows of the tests ask for less motion


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_person_sends_a_request_confirms_it_and_follows_it(
    open_window: Window, picture: Picture, script: bool
) -> None:
    page = open_window(script=script, width=1280 if script else NARROW)
    answer_form(page)
    assert not too_wide(page)
    page.get_by_role("link", name="Change (E-mail address)").click()
    page.get_by_label("E-mail address").fill("other@mailbox.example")
    page.get_by_role("button", name="Save and continue").click()
    expect(page.locator("#answer-email")).to_have_text("other@mailbox.example")
    picture(page, f"public-check-{script}")
    reference, access_code = send_form(page)
    picture(page, f"public-sent-{script}")
    assert not too_wide(page)
    with page.expect_download() as confirmation:
        page.get_by_role("link", name="Save this confirmation (PDF)").click()
    assert confirmation.value.suggested_filename == f"{reference}.pdf"
    assert confirmation.value.path().read_bytes().startswith(b"%PDF")
    page.go_back()  # the form
    expect(page.get_by_role("heading", level=1)).to_have_text("Your request was sent")
    page.get_by_role("link", name=reference).click()
    expect(page.locator("#reference")).to_have_text(reference)
    expect(page.locator("#access-code")).to_have_text(access_code)
    page.get_by_role("link", name="Enter the code").click()
    expect(page.get_by_label("Reference")).to_have_value(reference)
    page.get_by_role("button", name="Send a new code").click()
    expect(page.get_by_role("status")).to_contain_text("a new one is on its way")
    page.get_by_label("Code from the e-mail").fill(factories.mailed_code())
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your e-mail address is confirmed")
    page.get_by_role("link", name="Follow your request").click()
    open_status(page, reference, access_code)
    expect(page.locator("[aria-current=step]")).to_contain_text("Identity")
    picture(page, f"public-status-{script}")
    assert not too_wide(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Confirmation of receipt", exact=True).click()
    assert reference in download.value.path().read_text(encoding="utf-8")
    assert Case.objects.get(reference=reference).status == CaseStatus.IDENTITY_CHECK
    page.get_by_role("link", name="Withdraw this request").click()
    page.get_by_role("button", name="Withdraw request").click()
    expect(page.get_by_role("status")).to_contain_text("Your request is withdrawn")
    assert Case.objects.get(reference=reference).status == CaseStatus.WITHDRAWN


def test_a_language_is_chosen_without_script_and_stays(
    open_window: Window, picture: Picture
) -> None:
    page = open_window(script=False)
    page.goto("/erasure/new/who")
    page.get_by_role("button", name="Polski").click()
    expect(page.locator("html")).to_have_attribute("lang", "pl")
    expect(page.get_by_role("heading", level=1)).to_have_text("Kogo dotyczy ten wniosek?")
    page.get_by_label("We własnym imieniu").check()
    page.get_by_role("button", name="Dalej").click()
    expect(page.locator("html")).to_have_attribute("lang", "pl")
    page = open_window()
    page.goto("/")
    page.get_by_role("button", name="Deutsch").click()
    picture(page, "public-start-german")
    assert not barriers(page)


def test_focus_goes_to_the_error_summary_and_from_there_to_the_field(
    open_window: Window, picture: Picture
) -> None:
    page = open_window()
    page.goto("/erasure/new/name")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#error-summary")).to_be_focused()
    assert page.title().startswith("Error: ")
    problems = look_over(page, picture, "public-errors")
    assert not problems, "\n".join(problems)
    page.locator("#error-summary").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name, as we may hold it")).to_be_focused()
    expect(page.get_by_label("Name, as we may hold it")).to_have_attribute("aria-invalid", "true")


def test_the_characters_left_are_told_while_one_types(open_window: Window) -> None:
    page = open_window()
    page.goto("/erasure/new/message")
    left = page.get_by_role("status")
    expect(left).to_have_text("Characters left: 2000")
    page.get_by_label("Anything that helps us find your data").fill("two\nlines")
    expect(left).to_have_text("Characters left: 1990")  # a new line is sent as two


def test_the_form_is_sent_with_the_keyboard_alone(open_window: Window) -> None:
    page = open_window()
    page.goto("/erasure/new/who")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to main content")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, "For myself")
    page.keyboard.press("Space")
    enter(page)
    for label, typed in (
        ("Name, as we may hold it", factories.NAME),
        ("E-mail address", factories.EMAIL),
    ):
        tab_to(page, label)
        page.keyboard.type(typed)
        enter(page)
    tab_to(page, "AI models that may have learned my data")
    page.keyboard.press("Space")
    enter(page)
    for button in ("Continue", "Send erasure request"):
        tab_to(page, button)
        enter(page)
    expect(page.locator("#access-code")).to_be_visible()
    letters.send_pending_codes()
    assert Case.objects.get().status == CaseStatus.AWAITING_CONFIRMATION
