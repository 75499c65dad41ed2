"""What only a browser shows: the form with and without script, focus, contrast, width, policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from pytest_django.fixtures import Settings

from requests_app import export_files
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import Case, ErasureRun, ExportJob, StaffMember
from requests_app.models.people import Role
from requests_app.services import accounts, export_jobs, intake, runs
from tests import factories
from tests.e2e.pages import (
    Picture,
    Window,
    barriers,
    check_everywhere,
    log_in,
    show_person,
    too_wide,
)
from tests.requests_app import bundles

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

PUBLIC = [
    "/",
    "/erasure/new/who",
    "/erasure/new/contact",
    "/erasure/new/what",
    "/erasure/sent/ERQ-2026-000001",
    "/erasure/confirm",
    "/erasure/confirmed",
    "/status",
    "/transparency",
    "/privacy",
    "/accessibility",
    "/accounts/login/",
    "/accounts/invitation",
    "/not-there",
]


def fill_in_and_send(page: Page, *, picture: Callable[[str], None] = lambda name: None) -> str:
    """The whole form as a person does it; returns the reference."""
    page.goto("/")
    page.get_by_role("link", name="Start now").click()
    page.get_by_label("For myself").check()
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Name, as we may hold it").fill(factories.NAME)
    page.get_by_label("E-mail address").fill(factories.EMAIL)
    page.get_by_label("Other names").fill(factories.ALIAS)
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("AI models that may have learned my data").check()
    page.get_by_label("Anything that helps us find your data").fill(factories.MESSAGE)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#answer-name")).to_have_text(factories.NAME)
    picture("check")
    page.get_by_role("link", name="Change (E-mail address)").click()
    page.get_by_label("E-mail address").fill("other@mailbox.example")
    page.get_by_role("button", name="Save and continue").click()
    expect(page.locator("#answer-email")).to_have_text("other@mailbox.example")
    page.get_by_role("button", name="Send erasure request").click()
    picture("sent")
    return page.locator("#reference").inner_text()


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_person_sends_a_request_confirms_it_and_follows_it(
    open_window: Window, picture: Picture, script: bool
) -> None:
    page = open_window(script=script)
    take = (
        (lambda name: picture(page, f"public-{name}-light-1280")) if script else lambda name: None
    )
    reference = fill_in_and_send(page, picture=take)
    access_code = page.locator("#access-code").inner_text()
    page.get_by_role("link", name="Enter the code").last.click()
    expect(page.get_by_label("Reference").first).to_have_value(reference)
    page.get_by_label("Code from the e-mail").fill(factories.mailed_code())
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your e-mail address is confirmed")
    page.get_by_role("link", name="Follow your request").click()
    page.get_by_label("Reference").fill(reference)
    page.get_by_label("Access code").fill(access_code)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("[aria-current=step]")).to_contain_text("Identity")
    take("status")
    with page.expect_download() as download:
        page.get_by_role("link", name="Confirmation of receipt").click()
    assert reference in download.value.path().read_text(encoding="utf-8")
    assert Case.objects.get(reference=reference).status == CaseStatus.IDENTITY_CHECK
    page.get_by_role("link", name="Withdraw this request").click()
    page.get_by_role("button", name="Withdraw request").click()
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
    picture(page, "public-start-german-light-1280")
    assert not barriers(page)


def test_focus_goes_to_the_error_summary_and_from_there_to_the_field(
    open_window: Window, picture: Picture
) -> None:
    page = open_window()
    page.goto("/erasure/new/contact")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#error-summary")).to_be_focused()
    assert page.title().startswith("Error: ")
    picture(page, "public-errors-light-1280")
    assert not barriers(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name, as we may hold it")).to_be_focused()
    expect(page.get_by_label("Name, as we may hold it")).to_have_attribute("aria-invalid", "true")


def test_form_is_filled_in_with_the_keyboard_alone(open_window: Window) -> None:
    page = open_window()
    page.goto("/erasure/new/who")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to main content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(2):  # back link, first answer
        page.keyboard.press("Tab")
    expect(page.get_by_label("For myself")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("How can we find and reach you?")


def test_public_pages_have_no_barriers(open_window: Window, picture: Picture) -> None:
    check_everywhere(open_window, picture, PUBLIC)


def test_officer_and_approver_take_a_case_to_an_erasure_run(
    open_window: Window,
    picture: Picture,
    officer: StaffMember,
    approver: StaffMember,
) -> None:
    case = factories.confirmed_case()
    page = open_window()
    page.goto(f"/app/cases/{case.reference}")
    log_in(page, officer)
    expect(page.get_by_text(factories.NAME)).to_have_count(0)
    page.get_by_role("link", name="Check identity").click()
    assert not barriers(page)
    show_person(page, "To check the identity or a mandate")
    expect(page.locator("#revealed")).to_be_visible()
    page.get_by_label("Details we hold were asked for and matched").check()
    page.get_by_role("button", name="Record identity check").click()
    page.get_by_role("link", name="Attach what we hold about the person").click()
    page.get_by_label("What we hold about the person").fill(
        "\n".join(f"{question} | {answer}" for question, answer in factories.FACTS)
    )
    page.get_by_role("button", name="Save facts").click()
    page.get_by_role("link", name="Propose a decision").click()
    page.get_by_label("Granted", exact=True).check()
    page.get_by_label("(a) no longer necessary").check()
    page.get_by_label("Erase", exact=True).check()
    page.get_by_label("Reasoning").fill("The contract ended in 2024 and nothing else needs it.")
    picture(page, "staff-decision-light-1280")
    assert not barriers(page)
    page.get_by_role("button", name="Continue").click()
    picture(page, "staff-decision-check-light-1280")
    assert not barriers(page)
    page.get_by_role("button", name="Propose decision").click()
    page.get_by_role("link", name="Second person approves or returns").click()
    expect(page.get_by_role("button", name="Approve decision")).to_be_disabled()
    expect(page.get_by_text("Approving needs the role Approver")).to_be_visible()
    assert not barriers(page)

    second = open_window()
    second.goto(f"/app/cases/{case.reference}/approval")
    log_in(second, approver)
    show_person(second, "To approve or return the decision")
    picture(second, "staff-approval-light-1280")
    second.get_by_role("button", name="Approve decision").click()
    expect(second.get_by_role("heading", level=1)).to_have_text("Confirm that it is you")
    picture(second, "staff-confirm-light-1280")
    assert not barriers(second)
    second.get_by_label("Password").fill("password-for-tests")
    second.get_by_role("button", name="Confirm").click()
    expect(second.locator("#identity-bar")).to_be_visible()
    second.get_by_role("button", name="Hide again").click()
    expect(second.locator("#revealed")).to_have_count(0)
    picture(second, "staff-case-executing-light-1280")
    case.refresh_from_db()
    assert case.status == CaseStatus.EXECUTING
    assert case.runs.get().state == RunState.QUEUED


def test_officer_reads_the_extension_letter_and_sends_it(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    case = factories.open_case(channel="phone").case
    path = f"/app/cases/{case.reference}"
    paths = [path, f"{path}/extension", f"{path}/suspension"]
    check_everywhere(open_window, picture, paths, member=officer, revealed=[case])
    page = open_window(member=officer)
    page.goto(path)
    page.get_by_role("link", name="Extend the period").click()
    show_person(page, "To write or send a letter")
    page.get_by_label("The complexity of the request").check()
    page.get_by_label("The reasons, as the person will read them").fill(
        "Four models have to be trained and measured, which takes six weeks."
    )
    page.get_by_label("What is already done").fill(
        "Your records are blocked and left out of training."
    )
    page.get_by_role("button", name="Read the letter").click()
    expect(page.locator("#letter")).to_contain_text("which takes six weeks")
    picture(page, "staff-extension-letter-light-1280")
    assert not barriers(page)
    page.get_by_role("button", name="Extend the period and send the letter").click()
    expect(page.locator("#notice-unsent")).to_contain_text("has not been sent")
    picture(page, "staff-case-extended-light-1280")
    assert not barriers(page)
    case.refresh_from_db()
    assert case.due == case.extension_due


def test_run_page_follows_the_run_by_itself_to_its_end(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    run = factories.executing_case().runs.get()
    page = open_window(member=officer)
    page.goto(f"/app/runs/{run.pk}")
    expect(page.get_by_text("Waiting for a worker.")).to_be_visible()
    lease = factories.take_lease(run)
    for phase, step, total in (("locate", 4, 4), ("train", 3, 12)):
        runs.add_event(lease, phase=phase, step=step, total=total, figures={"loss": 0.41})
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "3")
    picture(page, "staff-run-light-1280")
    assert not barriers(page)
    factories.work_off(ErasureRun.objects.get(pk=run.pk), lease=lease)
    expect(page.get_by_role("link", name="See the evidence")).to_be_visible()


def test_staff_pages_have_no_barriers(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    case = factories.completed_case()
    factories.confirmed_case(received_at=factories.timezone.now() - factories.timedelta(days=45))
    waiting = factories.propose(factories.case_in_review())
    cases = factories.cases
    cases.export_case(case_id=case.id, actor=factories.staff_actor(officer))
    bundles.sign()
    review = factories.responding_case(verdict="not_met")
    run = case.runs.get()
    ask_for_exports(officer)
    paths = [
        "/app/",
        "/app/cases",
        "/app/cases/new",
        f"/app/cases/{case.reference}",
        f"/app/cases/{waiting.reference}/approval",
        f"/app/cases/{review.reference}/reveal",
        f"/app/cases/{review.reference}/evidence-review",
        f"/app/cases/{case.reference}/exports",
        f"/app/runs/{run.pk}",
        f"/app/runs/{run.pk}/evidence",
        "/app/releases",
        "/app/audit",
        "/app/exports",
        "/accounts/2fa/",
        "/accounts/2fa/totp/activate/",
        "/accounts/2fa/webauthn/add/",
        "/accounts/password/change/",
        "/accounts/reauthenticate/",
        "/accounts/logout/",
    ]
    check_everywhere(open_window, picture, paths, member=officer, revealed=[case, waiting])


def test_pages_of_the_accounts_have_no_barriers(open_window: Window, picture: Picture) -> None:
    admin = factories.make_staff(Role.ADMINISTRATOR)
    factories.make_staff(Role.OFFICER)
    accounts.invite_member(email="new@controller.example", role="auditor", actor_member=admin)
    paths = ["/app/staff", "/app/staff/invite"]
    check_everywhere(open_window, picture, paths, member=admin)


def test_a_passkey_is_set_up_and_then_opens_the_account(
    open_window: Window, officer: StaffMember, settings: Settings
) -> None:
    settings.RTBF_REQUIRE_MFA = True
    page = open_window(member=officer)
    virtual_authenticator(page)
    page.goto("/app/cases")
    expect(page.get_by_role("heading", level=1)).to_have_text("Second factor")
    page.goto("/accounts/2fa/webauthn/add/")
    page.get_by_label("Passwordless").check()
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("recovery codes").first).to_be_visible()
    page.goto("/app/cases")
    expect(page.get_by_role("heading", level=1)).to_have_text("Cases")
    page.get_by_role("button", name="Log out").click()
    page.goto("/accounts/login/?next=/app/cases")
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Cases")


def virtual_authenticator(page: Page) -> None:
    """A passkey of the machine, as Chromium can pretend to have one; its owner always agrees."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})


def test_the_list_of_exports_follows_by_itself_and_leaves_the_form_alone(
    open_window: Window, officer: StaffMember
) -> None:
    day = factories.timezone.localdate()
    job = export_jobs.ask_export(
        export="statistics_json", level="authority", first=day, last=day, actor_member=officer
    )
    page = open_window(member=officer)
    page.goto("/app/exports")
    page.get_by_label("Register of cases (CSV)").check()
    export_files.make(job.id, owner="worker-1")
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    expect(page.get_by_label("Register of cases (CSV)")).to_be_checked()


def ask_for_exports(member: StaffMember) -> None:
    """One export that is ready, one being made, one that failed."""
    day = factories.timezone.localdate()
    ready, _, failed = (
        export_jobs.ask_export(
            export=name, level="authority", first=day, last=day, actor_member=member
        )
        for name in ("register_csv", "audit_log", "statistics_json")
    )
    export_files.make(ready.id, owner="worker-1")
    ExportJob.objects.filter(export="audit_log").update(state="running", done=300, total=900)
    lease = export_jobs.lease_export(job_id=failed.id, owner="worker-1")
    assert lease is not None
    export_jobs.fail_export(lease, error="cannot_write")


def test_without_script_the_run_page_reloads_itself(
    open_window: Window, officer: StaffMember
) -> None:
    run = factories.executing_case().runs.get()
    page = open_window(member=officer, script=False)
    page.goto(f"/app/runs/{run.pk}")
    assert page.locator('noscript meta[http-equiv="refresh"], meta[http-equiv="refresh"]').count()


def test_status_page_has_no_barriers(open_window: Window, picture: Picture) -> None:
    opened = factories.open_case()
    intake.confirm_email(reference=opened.case.reference, code=factories.mailed_code())
    for scheme, width in (("light", 1280), ("dark", 320)):
        page = open_window(scheme=scheme, width=width)
        page.goto("/status")
        page.get_by_label("Reference").fill(opened.case.reference)
        page.get_by_label("Access code").fill(opened.access_code)
        page.get_by_role("button", name="Continue").click()
        picture(page, f"public-status-{scheme}-{width}")
        assert not barriers(page)
        assert not too_wide(page)
        page.get_by_role("link", name="Get your receipt").click()
        picture(page, f"public-receipt-{scheme}-{width}")
        assert not barriers(page)
        assert not too_wide(page)
        page.go_back()
        page.get_by_role("link", name="Withdraw this request").click()
        assert not barriers(page)
