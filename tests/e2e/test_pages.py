"""Staff pages in a browser: each one in its four looks, and what moves on some by itself."""

from __future__ import annotations

from uuid import UUID

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect
from pytest_django.fixtures import Settings

from requests_app import export_files, permissions
from requests_app.models import Case, ErasureRun, ExportJob, StaffMember
from requests_app.models.people import Role
from requests_app.services import accounts, cases, consolidations, export_jobs, recipients, runs
from requests_app.urls import urlpatterns
from tests import factories
from tests.e2e import pages
from tests.e2e.pages import Picture, Window, barriers, show_person
from tests.requests_app import bundles

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_officer_reads_the_extension_letter_and_sends_it(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    case = factories.open_case(channel="phone").case
    path = f"/app/cases/{case.reference}"
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


# --- Every page of permissions.PAGES ------------------------------------------------------------
NO_PAGES = {
    "case_letter": "a text file",
    "annexed_bundle": "a file",
    "export": "a file",
    "run_figure": "a figure as a file",
    "run_log": "a text file",
    "run_stream": "the events that the page of the run listens to",
    "run_progress": "a part of the page of the run",
    "notice_text": "a text file",
    "queue_changes": "a part of the page of the queue",
    "report_jobs": "a part of the page of the exports",
    "report_file": "a file",
}
"""Names in PAGES of what is no page. Every other name is visited, a new one as soon as it is there;
one that takes a POST alone is a button of another page."""
OF_ACCOUNTS = (
    "/accounts/2fa/",
    "/accounts/2fa/totp/activate/",
    "/accounts/2fa/webauthn/add/",
    "/accounts/password/change/",
    "/accounts/reauthenticate/",
    "/accounts/logout/",
)


class World:
    """A row of every kind, and for each page a case at its step."""

    def __init__(self, officer: StaffMember) -> None:
        done = factories.completed_case()
        cases.export_case(case_id=done.id, actor=factories.staff_actor(officer))
        bundles.sign()
        asked_for = ask_for_exports(officer)
        new = factories.confirmed_case()
        review = factories.case_in_review()
        waiting = factories.propose(factories.case_in_review())
        on_behalf = factories.confirmed_case(on_behalf=True)
        recipient = recipients.save_recipient(
            data=recipients.RecipientData("Vendor", "processor", "mail", "dsr@vendor.example"),
            actor_member=officer,
        )
        told = factories.executing_case()
        kept = factories.propose(factories.case_in_review(), outcome="refused")
        cases.approve_decision(case_id=kept.id, actor_member=factories.make_staff(Role.APPROVER))
        self.at_step = {
            "case_identity": new,
            "case_identity_question": new,
            "case_extension": new,
            "case_suspension": new,
            "case_reveal": factories.confirmed_case(),
            "case_mandate": on_behalf,
            "case_exemption": kept,
            "case_facts": review,
            "case_decision": review,
            "case_approval": waiting,
            "case_evidence_review": factories.responding_case(verdict="not_met"),
            "case_answer": ready_to_answer(),
            "case_records": review,
            "case_restriction": review,
            "case_hold": review,
            "notice_waive": told,
        }
        self.case = done
        self.rows = {
            "run_id": done.runs.get().pk,
            "letter_id": done.letters.latest("pk").pk,
            "item_id": kept.scope_items.get().pk,
            "recipient_id": recipient.pk,
            "notice_id": told.notices.get().pk,
            "job_id": asked_for,
            "consolidation_id": consolidations.propose_consolidation(
                model_name="demo", actor_member=factories.make_staff(Role.ENGINEER)
            ).pk,
            "pseudonym": officer.pseudonym,
            "name": "completion",  # of a letter
            "digest": done.runs.get().release_id,
        }

    def path(self, name: str) -> str:
        """The address of a page, of the row that it is best looked at with."""
        case = self.at_step.get(name, self.case)
        return path_of(name, reference=case.reference, **self.rows)


def path_of(name: str, /, **values: object) -> str:
    """The address of a page with those of the values that it asks for."""
    wanted = next(each for each in urlpatterns if each.name == name).pattern.converters
    assert set(wanted) <= set(values), f"There is no row for the page “{name}”."
    return reverse(name, kwargs={each: values[each] for each in wanted})


def ready_to_answer() -> Case:
    """Measured, with no recipient left to tell."""
    case = factories.responding_case()
    recipients.send_pending_notices()
    return case


def test_every_name_of_no_page_is_still_an_address() -> None:
    assert set(NO_PAGES) <= set(permissions.PAGES)


def test_every_staff_page_opens_without_barriers(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    world = World(officer)
    revealed = [case for name, case in world.at_step.items() if name != "case_reveal"]
    window = open_window(member=officer, revealed=list(dict.fromkeys([world.case, *revealed])))
    problems: list[str] = []
    for path in OF_ACCOUNTS:  # first: some ask for a log-in of the last five minutes
        problems += visit(window, picture, pages.slug(path), path)
    for name, roles in permissions.PAGES.items():
        if name not in NO_PAGES and Role.OFFICER in roles:
            problems += visit(window, picture, name, world.path(name))
    assert not problems, "\n".join(problems)


def test_pages_that_no_officer_may_open_have_no_barriers(
    open_window: Window, picture: Picture
) -> None:
    admin = factories.make_staff(Role.ADMINISTRATOR)
    accounts.invite_member(email="new@controller.example", role="auditor", actor_member=admin)
    case = factories.completed_case()
    factories.responding_case()  # a later release takes the place of the first
    rows = {
        "reference": case.reference,
        "pseudonym": factories.make_staff(Role.OFFICER).pseudonym,
        "digest": case.runs.get().release_id,
    }
    windows: dict[Role, Page] = {}
    problems: list[str] = []
    for name, roles in permissions.PAGES.items():
        if name in NO_PAGES or Role.OFFICER in roles:
            continue
        role = min(roles)
        if role not in windows:
            windows[role] = open_window(member=factories.make_staff(role), revealed=[])
        problems += visit(windows[role], picture, name, path_of(name, **rows))
    assert not problems, "\n".join(problems)


def visit(page: Page, picture: Picture, name: str, path: str) -> list[str]:
    """What is wrong with a page in its four looks, or with the way to it."""
    if page.request.get(path, max_redirects=0).status == 405:
        return []  # a button of another page
    answer = page.goto(path)
    landed = page.evaluate("location.pathname")
    if answer is None or answer.status != 200 or landed != path:
        return [f"{name}: {answer.status if answer else 'nothing'}, ends at {landed}"]
    return pages.look_over(page, picture, f"staff-{name}")


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


def ask_for_exports(member: StaffMember) -> UUID:
    """One export that is ready, one being made, one that failed; the first of them."""
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
    return ready.id


def test_without_script_the_run_page_reloads_itself(
    open_window: Window, officer: StaffMember
) -> None:
    run = factories.executing_case().runs.get()
    page = open_window(member=officer, script=False)
    page.goto(f"/app/runs/{run.pk}")
    assert page.locator('noscript meta[http-equiv="refresh"], meta[http-equiv="refresh"]').count()
