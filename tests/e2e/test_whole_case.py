"""One case by browser alone, from the form to the answer; and its core without what many lack."""

from __future__ import annotations

import io
import zipfile

import pytest
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from playwright.sync_api import Page, expect
from pytest_django.fixtures import Settings

from requests_app import keys
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import Case, StaffMember
from requests_app.models.runs import Verdict
from requests_app.services import letters, run_rows
from requests_app.verifier.checks import verify
from requests_app.verifier.trust import parse_trust
from tests import factories
from tests.e2e.pages import (
    NARROW,
    Picture,
    Window,
    answer_form,
    barriers,
    enter,
    log_in,
    open_status,
    press,
    send_form,
    show_person,
    tab_to,
    too_wide,
)
from tests.requests_app import bundles
from workers import corpus, tasks

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

PERSON = corpus.people()[5]
FACTS = "\n".join(f"{fact.trained[0]} | {fact.answer}" for fact in PERSON.facts)


def with_second_factor(member: StaffMember) -> str:
    """The member's authenticator app: its secret."""
    secret = generate_totp_secret()
    TOTP.activate(member, secret)
    return secret


def at(open_window: Window, member: StaffMember, path: str, *, secret: str) -> Page:
    """A window of this member, logged in with password and code, at the page they asked for."""
    page = open_window()
    page.goto(path)
    log_in(page, member, secret=secret)
    return page


def test_one_case_by_browser_alone(
    open_window: Window,
    picture: Picture,
    officer: StaffMember,
    approver: StaffMember,
    auditor: StaffMember,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.RTBF_REQUIRE_MFA = True
    monkeypatch.setattr(run_rows, "SEED_LIMIT", 1)  # the same run each time
    secrets = {member: with_second_factor(member) for member in (officer, approver, auditor)}
    person = open_window()
    answer_form(person, name=PERSON.name)
    reference, access_code = send_form(person)
    person.get_by_role("link", name="Enter the code").click()
    person.get_by_label("Code from the e-mail").fill(factories.mailed_code())
    person.get_by_role("button", name="Confirm").click()
    case = Case.objects.get(reference=reference)
    path = f"/app/cases/{reference}"

    page = at(open_window, officer, path, secret=secrets[officer])
    expect(page.get_by_text(PERSON.name)).to_have_count(0)
    prepare(page)
    propose(page)
    expect(page.get_by_role("button", name="Approve decision")).to_be_disabled()
    expect(page.get_by_text("Approving needs the role Approver")).to_be_visible()
    assert not barriers(page)

    second = at(open_window, approver, f"{path}/approval", secret=secrets[approver])
    approve(second)
    picture(second, "staff-case-executing")
    case.refresh_from_db()
    assert case.status == CaseStatus.EXECUTING

    page.goto(path)
    page.locator(f'a[href="/app/runs/{case.runs.get().pk}"]').first.click()
    expect(page.get_by_text("Waiting for a worker.")).to_be_visible()
    work(case)
    expect(page.get_by_role("link", name="See the evidence")).to_be_visible()
    picture(page, "staff-run-ended")
    page.get_by_role("link", name="See the evidence").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Evidence")
    expect(page.locator("#probes")).to_contain_text("recall_unseen")
    picture(page, "staff-evidence-measured")
    assert not barriers(page)

    page.goto(f"{path}/answer")
    picture(page, "staff-answer")
    press(page, "Send the answer and complete the case")
    expect(page.locator("#identity-bar")).to_be_visible()
    letters.send_pending_letters()
    case.refresh_from_db()
    assert case.status == CaseStatus.COMPLETED

    third = at(open_window, auditor, f"{path}/exports", secret=secrets[auditor])
    press(third, "Prepare bundle")
    bundles.sign()
    expect(third.get_by_text("The log up to this export is signed.")).to_be_visible()
    link = third.locator("[data-export=bundle]")
    answer = third.request.get(str(link.get_attribute("href")), timeout=120_000)
    assert answer.status == 200, answer.text()[-2000:]
    assert answer.headers["content-disposition"].endswith('.zip"')
    check_bundle(answer.body())

    open_status(person, reference, access_code)
    expect(person.locator("#answered")).to_contain_text("Answer: granted")
    expect(person.locator("[aria-current=step]")).to_have_count(0)
    assert not barriers(person)
    picture(person, "public-status-answered")
    with person.expect_download() as letter:
        person.get_by_role("link", name="Read our answer").click()
    assert reference in letter.value.path().read_text("utf-8")


def work(case: Case) -> None:
    """The worker's own task on the model that ships."""
    tasks.run_erasure(str(case.runs.get().pk))
    run = case.runs.get()
    assert (run.state, run.error) == (RunState.SUCCEEDED, "")
    assert run.verdict == Verdict.WITHIN
    assert run.release is not None
    assert run.release.is_live


def check_bundle(data: bytes) -> None:
    """The offline verifier accepts it, and it names nobody."""
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    assert verify(data, trust=trust).claim == "suppression-measured"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert PERSON.name.encode() not in b"".join(map(archive.read, archive.namelist()))


def prepare(page: Page) -> None:
    """From the page of a new case: identity and facts."""
    page.get_by_role("link", name="Check identity").click()
    show_person(page, "To check the identity or a mandate")
    expect(page.locator("#revealed")).to_be_visible()
    page.get_by_label("Details we hold were asked for and matched").check()
    page.get_by_role("button", name="Record identity check").click()
    page.get_by_role("link", name="Attach what we hold about the person").click()
    page.get_by_label("What we hold about the person").fill(FACTS)
    page.get_by_role("button", name="Save facts").click()


def propose(page: Page) -> None:
    """From the page of a case in review to its approval page."""
    page.get_by_role("link", name="Propose a decision").click()
    page.get_by_label("Granted", exact=True).check()
    page.get_by_label("(a) no longer necessary").check()
    page.get_by_label("Erase", exact=True).check()
    page.get_by_label("Reasoning").fill("The contract ended in 2024 and nothing else needs it.")
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Propose decision").click()
    page.get_by_role("link", name="Second person approves or returns").click()


def approve(page: Page) -> None:
    """On the approval page."""
    show_person(page, "To approve or return the decision")
    press(page, "Approve decision")
    expect(page.locator("#identity-bar")).to_be_visible()
    page.get_by_role("button", name="Hide again").click()
    expect(page.locator("#revealed")).to_have_count(0)


def test_the_core_of_a_case_without_script_at_320_pixels(
    open_window: Window, picture: Picture, officer: StaffMember, approver: StaffMember
) -> None:
    case = factories.confirmed_case(name=PERSON.name)
    path = f"/app/cases/{case.reference}"
    page = open_window(script=False, width=NARROW)
    page.goto("/app/cases")
    log_in(page, officer)
    page.get_by_role("link", name=case.reference).click()
    assert not too_wide(page)
    prepare(page)
    assert not too_wide(page)
    propose(page)
    assert not too_wide(page)
    picture(page, "staff-approval-without-script-320")
    second = open_window(script=False, width=NARROW)
    second.goto(f"{path}/approval")
    log_in(second, approver)
    approve(second)
    run = case.runs.get()
    page.goto(f"/app/runs/{run.pk}")
    assert page.locator('meta[http-equiv="refresh"]').count() == 1
    factories.work_off(run)
    page.goto(f"/app/runs/{run.pk}")
    page.get_by_role("link", name="See the evidence").click()
    expect(page.locator("#probes")).to_be_visible()
    assert not too_wide(page)
    page.goto(f"{path}/answer")
    press(page, "Send the answer and complete the case")
    expect(page.locator("#identity-bar")).to_be_visible()
    case.refresh_from_db()
    assert case.status == CaseStatus.COMPLETED


def test_queue_and_decision_with_the_keyboard_alone(
    open_window: Window, officer: StaffMember
) -> None:
    case = factories.case_in_review()
    page = open_window(member=officer)
    page.goto("/app/cases")
    tab_to(page, case.reference, most=80)
    enter(page)
    expect(page.locator("#identity-bar")).to_be_visible()
    tab_to(page, "Propose a decision", most=80)
    enter(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Propose a decision")
    for label in ("Granted", "(a) no longer necessary", "Erase"):
        tab_to(page, label, most=80)
        page.keyboard.press("Space")
    tab_to(page, "Reasoning", most=80)
    page.keyboard.type("The contract ended in 2024 and nothing else needs it.")
    tab_to(page, "Continue")
    enter(page)
    tab_to(page, "Propose decision", most=60)
    enter(page)
    expect(page.locator("#identity-bar")).to_be_visible()
    case.refresh_from_db()
    assert case.status == CaseStatus.AWAITING_APPROVAL
