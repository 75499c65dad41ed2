"""Roles page by page, personal data masked until it is revealed, and fresh log-ins."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from requests_app import audit, permissions, vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import AuditEntry, AuditOpening, Case, StaffMember
from requests_app.models.people import RevealReason, Role
from requests_app.permissions import PAGES, REVEAL_TIME
from requests_app.services import cases, reveals
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from tests import factories
from tests.staff import as_staff, authenticate, page_addresses, reveal

pytestmark = pytest.mark.django_db

ENDINGS = ("", "/identity", "/facts", "/decision", "/approval", "/answer", "/hold", "/records")


def text(response: HttpResponse) -> str:
    return response.content.decode()


def leaks(page: str) -> list[str]:
    return [canary for canary in factories.CANARIES if canary in page]


def entries(kind: str) -> list[dict[str, object]]:
    rows = AuditEntry.objects.filter(type=kind).order_by("seq")
    return [json.loads(bytes(row.body)) for row in rows]


# --- Roles --------------------------------------------------------------------------------------
@pytest.fixture
def addresses() -> dict[str, str]:
    return page_addresses(factories.completed_case())


@pytest.mark.parametrize("role", Role)
def test_each_role_opens_exactly_its_pages(role: Role, addresses: dict[str, str]) -> None:
    assert set(addresses) == set(PAGES)
    client = as_staff(factories.make_staff(role))
    for name, path in addresses.items():
        for response in (client.get(path), client.post(path)):
            refused = response.status_code == 403 and "Your role is" in text(response)
            assert refused == (role not in PAGES[name]), (role, name, response.status_code)


def test_who_decides_nothing_and_sees_nobody_is_written_down_once() -> None:
    of = {role: {name for name in PAGES if role in PAGES[name]} for role in Role}
    settings = {name for name in PAGES if name.startswith("settings")}
    assert of[Role.ADMINISTRATOR] == {
        "today", "preferences", "stuck", "stuck_retry", "staff", "staff_invite", "staff_withdraw",
        "staff_role", "staff_deactivate",
    } | settings - {"settings_retention"}  # fmt: skip
    assert of[Role.AUDITOR] == {
        "today", "queue", "case", "exports", "export", "run", "run_progress", "run_evidence",
        "run_stream", "run_log", "run_figure", "releases", "release", "models", "training", "audit",
        "recipients", "reports", "report_jobs", "report_file", "queue_changes", "search",
        "preferences", "consolidation",
    } | settings  # fmt: skip
    of_exports = {"exports", "export", "reports", "report_jobs", "report_file"}
    assert of[Role.ENGINEER] == of[Role.AUDITOR] - of_exports | {
        "run_cancel", "playground", "release_roll_back", "consolidation_propose", "stuck",
        "stuck_retry",
    }  # fmt: skip
    personal = {"case_reveal", "case_letter", "case_identity", "case_mandate", "case_facts"}
    personal |= {"case_annex", "annexed_bundle", "case_records", "case_note"}
    for role in set(Role) - permissions.SEE_PERSONAL_DATA:
        assert not of[role] & (personal | {"case_decision", "case_approval", "case_answer"})


def test_an_administrator_starts_at_the_accounts() -> None:
    client = as_staff(factories.make_staff(Role.ADMINISTRATOR))
    response = client.get("/app/", follow=True)
    assert response.redirect_chain == [("/app/staff", 302)]
    assert "/app/cases" not in text(response)


def test_an_administrator_can_do_nothing_with_a_case_by_any_service() -> None:
    admin = factories.make_staff(Role.ADMINISTRATOR)
    case = factories.propose(factories.case_in_review())
    with pytest.raises(NotAllowed):
        cases.approve_decision(case_id=case.id, actor_member=admin)
    with pytest.raises(NotAllowed):
        reveals.reveal_person(case_id=case.id, reason="decision", text="", actor_member=admin)
    assert not entries("person.revealed")


# --- Masked until revealed ------------------------------------------------------------------------
def test_the_case_page_is_masked_for_everybody_until_a_reason_is_given(
    officer: StaffMember,
) -> None:
    case = factories.completed_case()
    path = f"/app/cases/{case.reference}"
    client = as_staff(officer)
    masked = client.get(path)
    assert not leaks(text(masked))
    assert "letters/" not in text(masked)
    client.get(f"{path}/reveal")
    assert not leaks(text(client.get(path)))  # opening the page that asks reveals nothing
    reveal(client, case)
    shown = client.get(path)
    assert factories.NAME in text(shown)
    assert factories.ANSWER in text(shown)
    assert 'id="revealed"' in text(shown)
    assert "letters/" in text(shown)


@pytest.mark.parametrize("role", Role)
def test_no_page_shows_anything_of_a_person_who_was_not_revealed(
    role: Role, addresses: dict[str, str]
) -> None:
    client = as_staff(factories.make_staff(role))
    held = factories.propose(factories.case_in_review())
    paths = [*addresses.values(), *(f"/app/cases/{held.reference}{end}" for end in ENDINGS)]
    for path in paths:
        response = client.get(path, follow=True)
        if "text/html" in response.headers["Content-Type"]:
            assert not leaks(text(response)), path


def test_a_reveal_is_on_the_record_with_its_reason_and_without_its_text(
    officer: StaffMember,
) -> None:
    case = factories.case_in_review()
    client = as_staff(officer)
    path = f"/app/cases/{case.reference}/reveal"
    words = "The canary rang us up"
    client.post(path, {"reason": "other", "text": words})
    (entry,) = entries("person.revealed")
    assert entry["actor"] == f"officer:{officer.pseudonym}"
    assert entry["case"] == str(case.id)
    data = entry["data"]
    assert isinstance(data, dict)
    assert data["reason"] == "other"
    assert words not in json.dumps(entry)
    opening = AuditOpening.objects.get(case=case, field="text")
    assert vault.get(case, f"reveal/{opening.entry_seq}") == words
    assert data["text"]["commitment"] == audit.commitment(
        salt=bytes(opening.salt), case_id=case.id, seq=opening.entry_seq, field="text", value=words
    )
    assert "Personal data shown to staff" in text(client.get(f"/app/cases/{case.reference}"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reason": "", "text": "x"}, "Select why you need to see it"),
        ({"reason": "curiosity", "text": ""}, "Select one of the answers given"),
        ({"reason": "other", "text": "  "}, "The reason is missing"),
    ],
)
def test_without_a_reason_nothing_is_shown(
    officer: StaffMember, fields: dict[str, str], words: str
) -> None:
    case = factories.case_in_review()
    client = as_staff(officer)
    response = client.post(f"/app/cases/{case.reference}/reveal", fields)
    assert response.status_code == 422
    assert words in text(response)
    assert not entries("person.revealed")
    assert not leaks(text(client.get(f"/app/cases/{case.reference}")))


def test_it_lasts_fifteen_minutes_in_this_session_for_this_case(
    officer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, other = factories.case_in_review(), factories.case_in_review()
    client = as_staff(officer, case)
    path = f"/app/cases/{case.reference}"
    assert not leaks(text(client.get(f"/app/cases/{other.reference}")))
    assert not leaks(text(as_staff(officer).get(path)))
    now = timezone.now()
    for late, seen in ((-2, True), (1, False)):
        moment = now + REVEAL_TIME + timedelta(seconds=late)
        monkeypatch.setattr(permissions.timezone, "now", lambda at=moment: at)
        assert bool(leaks(text(client.get(path)))) is seen


def test_hide_again_masks_it_at_once(officer: StaffMember) -> None:
    case = factories.case_in_review()
    client = as_staff(officer, case)
    path = f"/app/cases/{case.reference}"
    assert client.get(f"{path}/hide").status_code == 405
    response = client.post(f"{path}/hide", follow=True)
    assert not leaks(text(response))
    assert client.get(f"{path}/facts").status_code == 302


def steps() -> list[tuple[str, Case]]:
    """Every page that works on the data itself, each with a case at its time."""
    early = factories.confirmed_case(on_behalf=True)
    proposed = factories.propose(factories.case_in_review())
    answered = factories.completed_case()
    return [
        ("identity", early),
        ("mandate", early),
        ("facts", factories.case_in_review()),
        ("extension", factories.case_in_review()),
        ("approval", proposed),
        ("records", proposed),
        ("answer", factories.responding_case()),
        (f"letters/{answered.letters.order_by('pk')[0].pk}", answered),
    ]


def test_steps_on_the_data_lead_to_the_reveal_first_and_back(approver: StaffMember) -> None:
    for name, case in steps():
        client = as_staff(approver)
        path = f"/app/cases/{case.reference}/{name}"
        asked = client.get(path, follow=True)
        assert asked.redirect_chain[-1][0].startswith(f"/app/cases/{case.reference}/reveal?"), name
        assert not leaks(text(asked)), name
        blind = client.post(path, {"action": "return", "reason": "x"})
        assert blind.status_code in (302, 405), name
        *_, follow = re.findall(r'name="next" value="([^"]+)"', text(asked))  # first: the language
        fields = {"reason": "identity", "text": "", "next": follow}
        back = client.post(f"/app/cases/{case.reference}/reveal", fields)
        assert back.url == path, name  # type: ignore[attr-defined]
        opened = client.get(path)
        assert opened.status_code == 200, name
        if name in ("identity", "mandate", "facts"):
            assert leaks(text(opened)), name
    assert Case.objects.get(pk=steps()[0][1].pk).status == CaseStatus.IDENTITY_CHECK


def test_the_reveal_page_leads_to_no_other_site(officer: StaffMember) -> None:
    case = factories.case_in_review()
    client = as_staff(officer)
    own = f"/app/cases/{case.reference}"
    for elsewhere in ("https://evil.example/", "//evil.example", "javascript:alert(1)", ""):
        fields = {"reason": "identity", "text": "", "next": elsewhere}
        response = client.post(f"{own}/reveal", fields)
        assert response.url == own  # type: ignore[attr-defined]


def test_what_was_typed_in_time_is_not_lost_and_nothing_is_shown_for_it(
    approver: StaffMember, officer: StaffMember
) -> None:
    case = factories.propose(factories.case_in_review())
    client = as_staff(approver, case)
    session = client.session
    session["revealed"] = {case.reference: 1}  # its time is over
    session.save()
    path = f"/app/cases/{case.reference}/approval"
    again = client.post(path, {"action": "return", "reason": ""})
    assert again.status_code == 302
    assert "/reveal?" in again.url  # type: ignore[attr-defined]
    client.post(path, {"action": "return", "reason": "Name the purpose."})
    case.refresh_from_db()
    assert case.status == CaseStatus.IN_REVIEW


def test_another_role_masks_what_was_revealed_before(officer: StaffMember) -> None:
    case = factories.case_in_review()
    client = as_staff(officer, case)
    StaffMember.objects.filter(pk=officer.pk).update(role=Role.ENGINEER)
    assert not leaks(text(client.get(f"/app/cases/{case.reference}")))


def test_a_sealed_case_has_nothing_to_reveal(officer: StaffMember) -> None:
    case = factories.completed_case()
    client = as_staff(officer, case)
    cases.seal_case(case_id=case.id, actor=factories.staff_actor(officer))
    with pytest.raises(WrongState):
        reveals.reveal_person(case_id=case.id, reason="decision", text="", actor_member=officer)
    page = client.get(f"/app/cases/{case.reference}")
    assert page.status_code == 200
    assert "its key was destroyed" in text(page)
    assert (
        client.post(f"/app/cases/{case.reference}/reveal", {"reason": "decision"}).status_code
        == 409
    )


class RevealProperties(TestCase):
    @given(reason=st.sampled_from(RevealReason.values), words=st.text(max_size=40))
    def test_no_text_reaches_the_log(self, reason: str, words: str) -> None:
        words = f"canary {words}"
        case, officer = factories.confirmed_case(), factories.make_staff(Role.OFFICER)
        before = AuditEntry.objects.count()
        try:
            reveals.reveal_person(case_id=case.id, reason=reason, text=words, actor_member=officer)
        except Invalid:
            assert AuditEntry.objects.count() == before
            return
        body = bytes(AuditEntry.objects.order_by("-seq")[0].body).decode()
        assert "canary" not in body
        assert json.loads(body)["data"]["reason"] == reason


# --- Fresh log-ins --------------------------------------------------------------------------------
def test_an_old_log_in_is_asked_again_before_approving_and_the_step_goes_on(
    approver: StaffMember,
) -> None:
    case = factories.propose(factories.case_in_review())
    client = as_staff(approver, case)
    path = f"/app/cases/{case.reference}/approval"
    authenticate(client, approver, ago=301)
    asked = client.post(path, {"action": "approve"}, follow=True)
    assert asked.redirect_chain[-1][0].startswith("/accounts/reauthenticate/")
    assert "Confirm that it is you" in text(asked)
    case.refresh_from_db()
    assert case.status == CaseStatus.AWAITING_APPROVAL
    wrong = client.post("/accounts/reauthenticate/", {"password": "wrong", "next": path})
    assert wrong.status_code == 200
    case.refresh_from_db()
    assert case.status == CaseStatus.AWAITING_APPROVAL
    client.post("/accounts/reauthenticate/", {"password": "password-for-tests", "next": path})
    case.refresh_from_db()
    assert case.status == CaseStatus.EXECUTING


def test_an_old_log_in_is_asked_again_before_an_answer_and_before_an_export(
    officer: StaffMember,
) -> None:
    case = factories.responding_case()
    client = as_staff(officer, case)
    authenticate(client, officer, ago=301)
    for name in ("answer", "exports"):
        response = client.post(f"/app/cases/{case.reference}/{name}")
        assert response.url.startswith("/accounts/reauthenticate/")  # type: ignore[attr-defined]
    case.refresh_from_db()
    assert case.status == CaseStatus.RESPONDING
    assert not entries("bundle.exported")


def test_a_log_in_alone_is_no_confirmation_and_four_minutes_ago_is_one(
    approver: StaffMember,
) -> None:
    case = factories.propose(factories.case_in_review())
    path = f"/app/cases/{case.reference}/approval"
    client = Client()
    client.post("/accounts/login/", {"login": approver.username, "password": "password-for-tests"})
    reveal(client, case)
    asked = client.post(path, {"action": "approve"})
    assert asked.url.startswith("/accounts/reauthenticate/")  # type: ignore[attr-defined]
    authenticate(client, approver, ago=240)
    client.post(path, {"action": "approve"})
    case.refresh_from_db()
    assert case.status == CaseStatus.EXECUTING


def test_returning_a_proposal_needs_no_fresh_log_in(approver: StaffMember) -> None:
    case = factories.propose(factories.case_in_review())
    client = as_staff(approver, case)
    authenticate(client, approver, ago=301)
    client.post(
        f"/app/cases/{case.reference}/approval", {"action": "return", "reason": "Name the purpose."}
    )
    case.refresh_from_db()
    assert case.status == CaseStatus.IN_REVIEW
