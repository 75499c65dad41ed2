"""What is kept is looked at again on its day, by a case officer, the sealed case too."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit, tasks, vault
from requests_app.actors import SYSTEM
from requests_app.models import Case, ScopeItem, StaffMember
from requests_app.services import cases, exemptions, letters
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from tests import factories
from tests.staff import as_staff

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("entries_last")]

TEXT = "The canary invoice is still before the court."


@pytest.fixture
def kept(officer: StaffMember, approver: StaffMember) -> ScopeItem:
    """A data store kept by a refusal that was answered; its day is today."""
    case = factories.case_in_review(scope=("data_store",))
    factories.propose(case, outcome="refused", by=officer)
    cases.approve_decision(case_id=case.id, actor_member=approver)
    cases.send_answer(case_id=case.id, actor_member=officer)
    letters.send_pending_letters()
    case.scope_items.update(review_on=timezone.localdate())
    return ScopeItem.objects.get(case=case)


def review(item: ScopeItem, by: StaffMember, **changes: Any) -> ScopeItem:
    values = {
        "reason": "claim_pending",
        "text": TEXT,
        "renew_until": timezone.localdate() + timedelta(days=90),
        **changes,
    }
    return exemptions.review_exemption(
        case_id=item.case_id, item_id=item.pk, actor_member=by, **values
    )


def logged(case: Case) -> dict[str, Any]:
    entry = audit.case_entries(case.id)[-1]
    found: dict[str, Any] = json.loads(bytes(entry.body))
    assert "canary" not in bytes(entry.body).decode()
    return {"type": entry.type, **found["data"]}


def test_what_is_kept_is_due_on_its_day_and_not_before(kept: ScopeItem) -> None:
    day = timezone.localdate()
    assert list(exemptions.due_reviews(day)) == [kept]
    assert not exemptions.due_reviews(day - timedelta(days=1)).exists()
    assert [row.case for row in exemptions.due_reviews()] == [kept.case]


def test_nothing_is_due_before_two_people_decided(officer: StaffMember) -> None:
    factories.propose(factories.case_in_review(scope=("data_store",)), outcome="refused")
    assert not exemptions.due_reviews(date.max).exists()


def test_an_exemption_is_renewed_with_a_reason_and_comes_up_again(
    kept: ScopeItem, officer: StaffMember
) -> None:
    day = timezone.localdate() + timedelta(days=90)
    review(kept, officer)
    assert not exemptions.due_reviews().exists()
    assert list(exemptions.due_reviews(day)) == [kept]
    entry = logged(kept.case)
    assert entry["type"] == "exemption.renewed"
    assert (entry["reason"], entry["review_on"]) == ("claim_pending", day.isoformat())
    assert set(entry["text"]) == {"commitment"}
    today = timezone.localdate().isoformat()
    assert vault.get(kept.case, f"scope/{kept.pk}/review/{today}") == TEXT


def test_an_exemption_ends_once_and_the_row_says_so(kept: ScopeItem, officer: StaffMember) -> None:
    review(kept, officer, reason="claim_settled", renew_until=None)
    kept.refresh_from_db()
    assert (kept.result, kept.ended_on) == ("keep", timezone.localdate())  # what was decided stays
    assert logged(kept.case)["type"] == "exemption.ended"
    assert not exemptions.due_reviews(date.max).exists()
    with pytest.raises(WrongState):
        review(kept, officer)


def test_a_sealed_case_is_reviewed_without_a_text(kept: ScopeItem, officer: StaffMember) -> None:
    cases.seal_case(case_id=kept.case_id, actor=SYSTEM)
    with pytest.raises(Invalid, match="sealed"):
        review(kept, officer)
    review(kept, officer, text="")
    entry = logged(kept.case)
    assert (entry["type"], entry["reason"]) == ("exemption.renewed", "claim_pending")
    assert "text" not in entry
    audit.verify_log()


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "claim_settled"},
        {"reason": "claim_pending", "renew_until": None},
        {"reason": "canary"},
        {"text": " "},
        {"renew_until": timezone.localdate()},
        {"renew_until": timezone.localdate() + timedelta(days=400)},
    ],
)
def test_what_does_not_hold_together_changes_nothing(
    kept: ScopeItem, officer: StaffMember, changes: dict[str, Any]
) -> None:
    before = len(audit.case_entries(kept.case_id))
    with pytest.raises(Invalid):
        review(kept, officer, **changes)
    assert len(audit.case_entries(kept.case_id)) == before
    assert list(exemptions.due_reviews()) == [kept]


def test_who_decides_reviews_and_only_what_is_of_the_case(
    kept: ScopeItem, officer: StaffMember, auditor: StaffMember
) -> None:
    with pytest.raises(NotAllowed):
        review(kept, auditor)
    kept.pk += 1
    with pytest.raises(NotFound):
        review(kept, officer)


def test_staff_are_reminded_once_by_a_mail_without_personal_data(
    kept: ScopeItem, settings: Settings
) -> None:
    settings.RTBF_ESCALATION_MAIL = "deadlines@controller.example"
    cases.seal_case(case_id=kept.case_id, actor=SYSTEM)
    before = len(mail.outbox)
    for _ in range(2):
        tasks.remind_staff()
    (reminder,) = mail.outbox[before:]
    assert kept.case.reference in str(reminder.body)
    assert not any(canary in str(reminder.message()) for canary in factories.CANARIES)
    entry = logged(kept.case)
    assert (entry["type"], entry["stage"]) == ("deadline.reminded", "exemption_review")


def test_nobody_is_reminded_of_what_was_looked_at_meanwhile(
    kept: ScopeItem, officer: StaffMember
) -> None:
    tasks.reminders.queue_reminders()
    review(kept, officer)
    before = len(mail.outbox)
    tasks.remind_staff()
    assert len(mail.outbox) == before


def test_today_counts_them_the_queue_lists_them_and_an_officer_renews(
    kept: ScopeItem, officer: StaffMember
) -> None:
    client = as_staff(officer)
    assert b'id="count-review"' in client.get("/app/").content
    assert kept.case.reference in client.get("/app/cases?view=review").content.decode()
    page = f"/app/cases/{kept.case.reference}/exemptions/{kept.pk}"
    assert page in client.get(f"/app/cases/{kept.case.reference}").content.decode()
    assert client.get(page).status_code == 200
    day = timezone.localdate() + timedelta(days=30)
    sent = {"reason": "claim_pending", "renew_until": day.isoformat(), "text": TEXT}
    for missing in sent:
        assert client.post(page, {**sent, missing: ""}).status_code == 422
    assert client.post(page, sent).status_code == 302
    assert b'id="count-review"' not in client.get("/app/").content


def test_an_officer_ends_the_exemption_of_a_sealed_case(
    kept: ScopeItem, officer: StaffMember
) -> None:
    cases.seal_case(case_id=kept.case_id, actor=SYSTEM)
    client = as_staff(officer)
    page = f"/app/cases/{kept.case.reference}/exemptions/{kept.pk}"
    assert b'name="text"' not in client.get(page).content
    answer = client.post(page, {"reason": "claim_settled"}, follow=True)
    assert "enter a new request" in answer.content.decode()
    assert "to be erased" in answer.content.decode()
    assert client.get(page).status_code == 404
