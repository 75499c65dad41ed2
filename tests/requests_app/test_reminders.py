"""Reminders: in time, once, to the right people, with nothing of the request in them."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.core import mail
from django.db import IntegrityError, transaction
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit, tasks
from requests_app.actors import SUBJECT, SYSTEM, staff_actor
from requests_app.deadlines import day_of_share
from requests_app.models import AuditEntry, Case, Reminder, StaffMember
from requests_app.models.people import Role
from requests_app.services import cases, intake, letters, reminders
from tests import factories
from tests.requests_app.test_clock import by_phone, extend, fresh

pytestmark = pytest.mark.django_db

S = Reminder.Stage


@pytest.fixture(autouse=True)
def mailbox(settings: Settings) -> None:
    settings.RTBF_ESCALATION_MAIL = "deadlines@controller.example"


def sweep() -> list[mail.EmailMessage]:
    """One beat; returns the reminders it mailed."""
    before = len(mail.outbox)
    tasks.remind_staff()
    return mail.outbox[before:]  # type: ignore[return-value]


def entries(case: Case) -> list[dict[str, object]]:
    found = AuditEntry.objects.filter(case_id=case.pk, type="deadline.reminded").order_by("seq")
    return [json.loads(bytes(entry.body))["data"] for entry in found]


# --- When ---------------------------------------------------------------------------------------
def test_stages_come_at_half_three_quarters_and_nine_tenths_and_when_it_is_overdue() -> None:
    case = by_phone(0)
    for percent, stage in ((50, S.HALF), (75, S.THREE_QUARTERS), (90, S.NINE_TENTHS)):
        day = day_of_share(case.received_on, case.due, percent)
        assert reminders.stages_now(case, day)[stage] == case.due
        assert stage not in reminders.stages_now(case, day - timedelta(days=1))
    assert S.OVERDUE not in reminders.stages_now(case, case.due)
    assert reminders.stages_now(case, case.due + timedelta(days=1)) == {S.OVERDUE: case.due}
    assert reminders.stages_now(case, case.received_on) == {}


def test_only_the_furthest_share_is_told() -> None:
    case = by_phone(0)
    day = day_of_share(case.received_on, case.due, 90)
    shares = {S.HALF, S.THREE_QUARTERS, S.NINE_TENTHS}
    assert shares & set(reminders.stages_now(case, day)) == {S.NINE_TENTHS}


def test_the_last_days_for_an_extension_are_told_while_it_is_possible(officer: StaffMember) -> None:
    case = by_phone(0)
    first = case.base_due - timedelta(days=5)
    assert S.EXTENSION_ENDS not in reminders.stages_now(case, first - timedelta(days=1))
    assert reminders.stages_now(case, first)[S.EXTENSION_ENDS] == case.base_due
    assert S.EXTENSION_ENDS in reminders.stages_now(case, case.base_due)
    assert S.EXTENSION_ENDS not in reminders.stages_now(case, case.base_due + timedelta(days=1))
    extend(case, officer)
    assert S.EXTENSION_ENDS not in reminders.stages_now(fresh(case), first)


def test_an_extension_letter_that_was_not_sent_is_told_until_it_is(officer: StaffMember) -> None:
    case = by_phone(0, email="")  # on paper: staff send it
    letter = extend(case, officer)
    case = fresh(case)
    near = case.base_due - timedelta(days=5)
    for day in (near, case.base_due, case.base_due + timedelta(days=9)):
        assert reminders.stages_now(case, day)[S.NOTICE_UNSENT] == case.base_due
    assert S.NOTICE_UNSENT not in reminders.stages_now(case, near - timedelta(days=1))
    actor = staff_actor(officer)
    letters.record_letter_posted(letter_id=letter.pk, actor=actor)
    assert S.NOTICE_UNSENT not in reminders.stages_now(case, near)


def test_an_extension_brings_shares_of_the_longer_period(officer: StaffMember) -> None:
    case = by_phone(17)
    assert len(sweep()) == 1
    extend(case, officer)
    letters.send_pending_letters()
    assert sweep() == []
    after = fresh(case)
    half = day_of_share(after.received_on, after.due, 50)
    assert half > case.base_due
    assert reminders.stages_now(after, half) == {S.HALF: after.extension_due}


def test_california_asks_for_an_acknowledgement_within_ten_working_days() -> None:
    case = factories.open_case(region="CA").case  # by form: acknowledged once confirmed
    by = reminders.acknowledge_by(case)
    assert by is not None
    assert case.received_on + timedelta(days=14) <= by
    near = by - timedelta(days=3)
    assert reminders.stages_now(case, near) == {S.ACKNOWLEDGE: by}
    assert reminders.stages_now(case, near - timedelta(days=1)) == {}
    intake.confirm_email(reference=case.reference, code=factories.mailed_code())
    assert reminders.stages_now(fresh(case), near) == {S.ACKNOWLEDGE: by}
    letters.send_pending_letters()
    assert reminders.stages_now(fresh(case), near) == {}
    assert reminders.acknowledge_by(by_phone(0)) is None


# --- Once ---------------------------------------------------------------------------------------
@pytest.mark.database
def test_beat_sends_each_reminder_once_and_the_timeline_shows_it() -> None:
    case = by_phone(17)
    (message,) = sweep()
    assert message.to == ["deadlines@controller.example"]
    for _ in range(3):
        assert sweep() == []
    assert entries(case) == [
        {"jurisdiction": "EU/2026-1", "stage": "half", "due": case.due.isoformat()}
    ]
    assert audit.case_entries(case.id)[-1].type == "deadline.reminded"
    row = Reminder.objects.get()
    assert (row.case_id, row.stage, row.due) == (case.pk, "half", case.due)
    assert row.sent_at is not None


@pytest.mark.database
def test_the_database_holds_one_row_a_case_stage_and_date() -> None:
    case = by_phone(17)
    sweep()
    with pytest.raises(IntegrityError), transaction.atomic():
        Reminder.objects.create(case=case, stage="half", due=case.due, created_at=timezone.now())


def test_an_overdue_case_is_told_once_and_again_only_for_another_date() -> None:
    case = by_phone(70)
    assert len(sweep()) == 1
    assert [entry["stage"] for entry in entries(case)] == ["overdue"]
    assert sweep() == []


def test_a_reminder_that_another_process_is_sending_is_left_alone() -> None:
    by_phone(17)
    reminders.queue_reminders()
    assert reminders._claim(Reminder.objects.get())
    assert reminders.send_reminders() == 0
    Reminder.objects.update(tried_at=timezone.now() - timedelta(minutes=6))  # it died
    assert reminders.send_reminders() == 1


def test_a_mail_that_did_not_go_out_is_tried_again_without_a_second_entry(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    case = by_phone(17)
    settings.EMAIL_BACKEND = "tests.broken_mail.EmailBackend"
    assert sweep() == []
    assert "reminder not mailed" in caplog.text
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    Reminder.objects.update(tried_at=timezone.now() - timedelta(hours=1))
    assert len(sweep()) == 1
    assert len(entries(case)) == 1


# --- Never --------------------------------------------------------------------------------------
def test_closed_and_answered_cases_are_never_told() -> None:
    withdrawn, sealed = by_phone(70), by_phone(70)
    for case in (withdrawn, sealed):
        intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    letters.send_pending_letters()
    cases.seal_case(case_id=sealed.id, actor=SYSTEM)
    answered = factories.completed_case()
    factories.due_on(answered, timezone.localdate() - timedelta(days=3))
    Case.objects.filter(pk=answered.pk).update(status="evidence_review")  # reopened
    assert sweep() == []
    assert not Reminder.objects.exists()


def test_a_case_that_was_answered_meanwhile_gets_no_mail() -> None:
    case = by_phone(17)
    reminders.queue_reminders()
    intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    assert reminders.send_reminders() == 0
    assert Reminder.objects.get().sent_at is None


# --- To whom, and what --------------------------------------------------------------------------
def test_a_mail_holds_the_reference_and_a_link_and_nothing_of_the_request(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.RTBF_PUBLIC_URL = "https://erasure.controller.example"
    case = by_phone(70)
    (message,) = sweep()
    assert message.subject == f"Deadline of {case.reference}"
    assert str(message.body).split() == [
        *f"A deadline of {case.reference} asks for your attention:".split(),
        f"https://erasure.controller.example/app/cases/{case.reference}",
    ]
    assert not [canary for canary in factories.CANARIES if canary in caplog.text]


def test_without_a_role_mailbox_officers_are_told_and_approvers_once_it_is_late(
    settings: Settings, officer: StaffMember, approver: StaffMember, auditor: StaffMember
) -> None:
    settings.RTBF_ESCALATION_MAIL = ""
    gone = factories.make_staff(Role.OFFICER, is_active=False)
    assert reminders.recipients(S.HALF) == [officer.email]
    assert reminders.recipients(S.OVERDUE) == sorted([officer.email, approver.email])
    assert gone.email not in reminders.recipients(S.OVERDUE)
    by_phone(70)
    (message,) = sweep()
    assert message.to == sorted([officer.email, approver.email])


def test_where_nobody_can_be_told_it_is_said_and_told_later(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.RTBF_ESCALATION_MAIL = ""
    case = by_phone(17)
    assert sweep() == []
    assert f"Nobody to remind of {case.reference}: set RTBF_ESCALATION_MAIL." in caplog.text
    officer = factories.make_staff(Role.OFFICER)
    (message,) = sweep()
    assert message.to == [officer.email]
