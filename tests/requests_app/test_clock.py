"""Extension and suspension: what may move the clock of a case, and what never does."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta

import pytest
from django.core import mail
from django.db import IntegrityError, transaction
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app import audit, selectors, vault
from requests_app.actors import SUBJECT, staff_actor
from requests_app.deadlines import add_months, next_working_day, public_holidays
from requests_app.jurisdictions import PROFILES, UnknownProfile, profile
from requests_app.models import AuditEntry, Case, Letter, StaffMember, Suspension
from requests_app.models.people import Role
from requests_app.services import cases, clock, intake, letter_texts, letters
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from tests import factories
from tests.threads import run_together

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("entries_last")]

REASONS = "The erasure has to be trained and measured on four canary models, which takes six weeks."
DONE = "Your canary records are blocked and kept out of every further training."
ASKED = "Two people of that name are among our canary customers."


def received(days_ago: int) -> datetime:
    """Noon in the controller's zone, so many days ago."""
    day = timezone.localdate() - timedelta(days=days_ago)
    return timezone.make_aware(datetime.combine(day, time(12)))


def by_phone(days_ago: int, **changes: object) -> Case:
    """At the identity check."""
    at = min(received(days_ago), timezone.now())
    return factories.open_case(channel="phone", received_at=at, **changes).case  # type: ignore[arg-type]


def extend(case: Case, member: StaffMember, **changes: str) -> Letter:
    given = {"cause": "complexity", "reasons": REASONS, "done": DONE, **changes}
    return clock.extend_case(case_id=case.id, actor_member=member, **given)


def fresh(case: Case) -> Case:
    return Case.objects.get(pk=case.pk)


def data_of(entry: AuditEntry) -> dict[str, object]:
    return dict(json.loads(bytes(entry.body))["data"])


# --- Profiles -----------------------------------------------------------------------------------
def test_a_case_keeps_its_profile_and_calendar_and_so_does_its_entry() -> None:
    case = by_phone(3)
    assert (case.jurisdiction, case.calendar) == ("EU/2026-1", "BE")
    assert case.calendar_version.startswith("holidays ")
    entry = audit.case_entries(case.id)[0]
    assert data_of(entry)["jurisdiction"] == "EU/2026-1"
    assert data_of(entry)["calendar"] == f"BE, {case.calendar_version}"


def test_the_installation_or_who_enters_a_case_says_whose_law_counts(settings: Settings) -> None:
    assert by_phone(1, region="UK").calendar == "GB-ENG"
    settings.RTBF_JURISDICTION = "CA"
    case = by_phone(1)
    assert case.jurisdiction == "CA/2026-1"
    assert case.due == case.received_on + timedelta(days=45)
    assert case.extension_due == case.received_on + timedelta(days=90)
    with pytest.raises(UnknownProfile, match="EU, UK, CA"):
        by_phone(1, region="XX")


@pytest.mark.parametrize("law", PROFILES, ids=lambda law: str(law.id))
def test_letters_name_period_complaint_and_remedy_of_the_law_of_the_case(law: object) -> None:
    rules = profile(str(law.id))  # type: ignore[attr-defined]
    case = by_phone(1, region=rules.region)
    text = str(vault.get(case, f"letter/{case.letters.get().pk}"))
    assert f"({rules.period} from receipt, {rules.law})" in text
    assert rules.complaint in text
    assert rules.remedy in text
    assert ("Art. 77 GDPR" in text) == (rules.region == "EU")


# --- Extension ----------------------------------------------------------------------------------
def test_an_extension_writes_the_reasons_to_the_person_and_moves_the_due_date(
    officer: StaffMember,
) -> None:
    case = by_phone(20)
    letter = extend(case, officer)
    after = fresh(case)
    assert after.due == after.extension_due == case.extension_due > case.base_due
    assert (after.extended_on, after.extension_cause) == (timezone.localdate(), "complexity")
    assert after.base_due == case.base_due
    assert after.internal_due < after.due
    assert after.status == case.status
    text = str(vault.get(case, f"letter/{letter.pk}"))
    for said in (
        case.reference,
        letter_texts.spell_date(case.received_on),
        letter_texts.spell_date(case.base_due),
        letter_texts.spell_date(case.extension_due),
        "the complexity of the request",
        REASONS,
        DONE,
        "Art. 77 GDPR",
        "privacy@controller.example",
    ):
        assert said in text
    mail.outbox.clear()
    letters.send_pending_letters()
    assert len(mail.outbox) == 2  # the acknowledgement and this one
    assert fresh(case).letters.get(kind="extension").sent_at is not None


def test_the_entry_of_an_extension_holds_dates_and_cause_and_of_the_text_a_commitment(
    officer: StaffMember,
) -> None:
    case = by_phone(20)
    letter = extend(case, officer, cause="number")
    entry = audit.case_entries(case.id)[-1]
    assert entry.type == "case.extended"
    data = data_of(entry)
    hidden = {name: data.pop(name) for name in ("reasons", "done")}
    assert data == {
        "jurisdiction": "EU/2026-1",
        "cause": "number",
        "extended_on": timezone.localdate().isoformat(),
        "base_due": case.base_due.isoformat(),
        "due": case.extension_due.isoformat(),
        "letter": letter.pk,
    }
    assert b"canary" not in bytes(entry.body)
    assert all(set(value) == {"commitment"} for value in hidden.values())  # type: ignore[arg-type]
    assert vault.get(case, "extension/reasons") == REASONS


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"cause": "holidays"}, "complexity or the number"),
        ({"reasons": "We are busy."}, "at least one whole sentence"),
        ({"reasons": "  "}, "The reasons is missing"),
        ({"done": ""}, "What is already done is missing"),
        ({"done": "Nothing yet."}, "at least one whole sentence"),
    ],
)
def test_an_extension_without_real_reasons_is_refused(
    officer: StaffMember, changes: dict[str, str], words: str
) -> None:
    case = by_phone(20)
    with pytest.raises(Invalid, match=words):
        extend(case, officer, **changes)
    assert fresh(case).extended_on is None
    assert not case.letters.filter(kind="extension").exists()


def test_after_the_first_period_an_extension_is_refused_with_what_to_do(
    officer: StaffMember,
) -> None:
    case = by_phone(60)
    with pytest.raises(WrongState, match=r"can no longer be used\. Send the answer now") as refused:
        extend(case, officer)
    assert letter_texts.spell_date(case.base_due) in str(refused.value)
    assert fresh(case).due == case.base_due
    assert audit.case_entries(case.id)[-1].type == "case.received"


def test_a_period_is_extended_once(officer: StaffMember, approver: StaffMember) -> None:
    case = by_phone(20)
    extend(case, officer)
    with pytest.raises(WrongState, match="only once"):
        extend(case, approver)
    assert case.letters.filter(kind="extension").count() == 1


@pytest.mark.parametrize("role", [Role.INTAKE, Role.ENGINEER, Role.AUDITOR])
def test_others_than_officers_and_approvers_extend_nothing(role: Role) -> None:
    case = by_phone(20)
    with pytest.raises(NotAllowed):
        extend(case, factories.make_staff(role))


def test_nothing_is_extended_that_waits_for_no_answer(officer: StaffMember) -> None:
    withdrawn = by_phone(2)
    intake.withdraw_case(case_id=withdrawn.id, actor=SUBJECT)
    answered = factories.completed_case()
    for case in (withdrawn, answered):
        with pytest.raises(WrongState, match="waits for no answer"):
            extend(case, officer)
    unconfirmed = factories.open_case().case
    with pytest.raises(WrongState, match="never confirmed"):
        extend(unconfirmed, officer)


def test_an_extension_is_possible_at_every_step_up_to_the_answer(officer: StaffMember) -> None:
    waiting = (
        factories.case_in_review(),
        factories.propose(factories.case_in_review()),
        factories.executing_case(),
        factories.responding_case(),
    )
    for case in waiting:
        extend(case, officer)
        assert fresh(case).status == case.status


@pytest.mark.database
def test_an_extension_comes_in_time_once_and_ends_three_months_after_receipt() -> None:
    """Whenever it was received and however often it is tried."""
    officer = factories.make_staff(Role.OFFICER)
    intake_clerk = factories.make_staff(Role.INTAKE)

    def is_holiday(day: date) -> bool:
        return day in public_holidays("BE", day.year)

    @given(st.integers(0, 110), st.integers(1, 3))
    @settings(max_examples=25)
    def check(days_ago: int, tries: int) -> None:
        case = intake.open_case(
            intake=factories.make_intake(),
            received_at=min(received(days_ago), timezone.now()),
            channel="phone",
            actor=staff_actor(intake_clerk),
        ).case
        in_time = timezone.localdate() <= case.base_due
        done = 0
        for _ in range(tries):
            try:
                extend(case, officer)
            except WrongState:
                continue
            done += 1
        after = fresh(case)
        entries = [e for e in audit.case_entries(case.id) if e.type == "case.extended"]
        assert done == len(entries) == in_time
        last = next_working_day(add_months(after.received_on, 3), is_holiday)
        assert after.due == (last if in_time else case.base_due)
        for entry in entries:
            assert date.fromisoformat(str(data_of(entry)["extended_on"])) <= after.base_due

    check()


@pytest.mark.database
@pytest.mark.parametrize(
    "changes",
    [
        {"due": date(2027, 1, 1)},
        {"extended_on": date(2026, 4, 1)},
        {"extension_cause": "number"},
        {"base_due": date(2026, 4, 1), "due": date(2026, 4, 1)},
        {"extension_due": date(2026, 4, 1)},
        # one day after the end of the first period
        {
            "extended_on": date(2026, 4, 8),
            "extension_cause": "number",
            "due": date(2026, 6, 5),
        },
    ],
)
def test_the_database_refuses_dates_that_contradict_each_other(changes: dict[str, object]) -> None:
    at = datetime(2026, 3, 5, 12, tzinfo=timezone.get_default_timezone())
    case = factories.open_case(channel="phone", received_at=at).case
    assert (case.base_due, case.extension_due) == (date(2026, 4, 7), date(2026, 6, 5))
    row = Case.objects.filter(pk=case.pk)
    with pytest.raises(IntegrityError), transaction.atomic():
        row.update(**changes)
    in_time = {"extended_on": date(2026, 4, 7), "extension_cause": "number"}
    assert row.update(**in_time, due=date(2026, 6, 5)) == 1


@pytest.mark.database
def test_the_database_holds_one_extension_letter_a_case(officer: StaffMember) -> None:
    case = by_phone(20)
    extend(case, officer)
    with pytest.raises(IntegrityError), transaction.atomic():
        letters.write_letter(case, "extension", clock._letter_slots(case, "number", REASONS, DONE))


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_two_people_who_extend_at_once_write_one_letter() -> None:
    case = by_phone(20)
    officer = factories.make_staff(Role.OFFICER)
    refused = []

    def work() -> None:
        try:
            extend(case, officer)
        except WrongState as why:
            refused.append(str(why))

    run_together(work, 2)
    assert len(refused) == 1
    assert Letter.objects.filter(case=case, kind="extension").count() == 1


# --- Suspension ---------------------------------------------------------------------------------
def suspend(case: Case, member: StaffMember, **changes: object) -> Suspension:
    given = {"reason": "identity", "asked_on": case.received_on, "text": ASKED, **changes}
    return clock.suspend_case(case_id=case.id, actor_member=member, **given)  # type: ignore[arg-type]


def ago(days: int) -> date:
    return timezone.localdate() - timedelta(days=days)


def test_a_suspension_leaves_the_due_date_and_shows_a_later_one_beside(
    intake_clerk: StaffMember,
) -> None:
    case = by_phone(10)
    row = suspend(case, intake_clerk, asked_on=ago(9))
    assert clock.suspended_days(case, ago(0)) == 9  # it still runs
    clock.resume_case(case_id=case.id, answered_on=ago(4), actor_member=intake_clerk)
    after = fresh(case)
    assert (after.due, after.base_due, after.internal_due) == (
        case.due,
        case.base_due,
        case.internal_due,
    )
    assert clock.suspended_days(after, ago(0)) == 5
    later = clock.due_with_suspension(after, ago(0))
    assert later is not None
    assert case.base_due_raw + timedelta(days=5) <= later
    assert list(selectors.queue().values_list("due", flat=True)) == [case.due]
    asked, answered = audit.case_entries(case.id)[-2:]
    assert (asked.type, answered.type) == ("case.suspended", "case.resumed")
    assert data_of(asked)["due"] == case.due.isoformat()
    assert data_of(answered)["days"] == 5
    assert data_of(answered)["due_with_suspension"] == later.isoformat()
    assert b"canary" not in bytes(asked.body)
    assert vault.get(case, f"suspension/{row.pk}/reason") == ASKED


def test_without_a_suspension_there_is_no_second_date() -> None:
    assert clock.due_with_suspension(by_phone(5), ago(0)) is None


def test_a_suspension_counts_after_an_extension_too(
    officer: StaffMember, intake_clerk: StaffMember
) -> None:
    case = by_phone(10)
    suspend(case, intake_clerk, asked_on=ago(9))
    clock.resume_case(case_id=case.id, answered_on=ago(2), actor_member=intake_clerk)
    extend(case, officer)
    later = clock.due_with_suspension(fresh(case), ago(0))
    assert later is not None
    assert later >= add_months(case.received_on, 3) + timedelta(days=7)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"reason": "holidays"}, "no reason"),
        ({"text": "Unsure."}, "at least one whole sentence"),
        ({"asked_on": ago(-1)}, "between receipt and today"),
        ({"asked_on": ago(21)}, "between receipt and today"),
        ({"asked_on": ago(5)}, "without undue delay"),
    ],
)
def test_a_suspension_that_the_law_does_not_know_is_refused(
    intake_clerk: StaffMember, changes: dict[str, object], words: str
) -> None:
    case = by_phone(20)
    with pytest.raises(Invalid, match=words):
        suspend(case, intake_clerk, **changes)
    assert not Suspension.objects.exists()


def test_california_knows_no_suspension(intake_clerk: StaffMember) -> None:
    with pytest.raises(WrongState, match="nothing suspends the clock"):
        suspend(by_phone(2, region="CA"), intake_clerk)


def test_the_identity_is_asked_about_before_it_is_recorded_only(officer: StaffMember) -> None:
    case = factories.case_in_review()
    with pytest.raises(WrongState):
        suspend(case, officer)
    suspend(case, officer, reason="clarification")
    with pytest.raises(WrongState, match="suspended already"):
        suspend(case, officer, reason="clarification")
    with pytest.raises(WrongState, match="identity check and the review"):
        suspend(factories.executing_case(), officer, reason="clarification")


def test_the_next_step_waits_until_the_answer_is_recorded(officer: StaffMember) -> None:
    case = by_phone(6)
    suspend(case, officer, asked_on=ago(5))
    actor = staff_actor(officer)
    with pytest.raises(WrongState, match="first record"):
        cases.record_identity(case_id=case.id, method="held_attributes", note="", actor=actor)
    for wrong in (ago(6), ago(-1)):
        with pytest.raises(Invalid, match="between the question and today"):
            clock.resume_case(case_id=case.id, answered_on=wrong, actor_member=officer)
    clock.resume_case(case_id=case.id, answered_on=ago(1), actor_member=officer)
    with pytest.raises(WrongState, match="not suspended"):
        clock.resume_case(case_id=case.id, answered_on=ago(1), actor_member=officer)
    with pytest.raises(Invalid, match="still being waited for"):
        suspend(case, officer, asked_on=ago(3))
    cases.record_identity(case_id=case.id, method="held_attributes", note="", actor=actor)
    suspend(case, officer, reason="clarification", asked_on=ago(1))
    with pytest.raises(WrongState, match="first record"):
        factories.propose(fresh(case))


@pytest.mark.database
def test_the_database_holds_one_open_suspension_that_ends_after_it_began(
    officer: StaffMember,
) -> None:
    case = by_phone(6)
    row = suspend(case, officer, asked_on=ago(5))
    for changes in ({"asked_on": ago(4)}, {"asked_on": ago(2), "answered_on": ago(3)}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Suspension.objects.create(case=case, reason="identity", **changes)
    assert Suspension.objects.get() == row


def test_sealing_takes_the_reasons_with_it(officer: StaffMember) -> None:
    case = by_phone(6)
    row = suspend(case, officer)
    extend(case, officer)
    intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    letters.send_pending_letters()
    cases.seal_case(case_id=case.id, actor=staff_actor(officer))
    for name in (f"suspension/{row.pk}/reason", "extension/reasons"):
        with pytest.raises(vault.VaultSealed):
            vault.get(case, name)
    assert fresh(case).extended_on is not None
