"""The clock in words on the case page, and the pages that extend and suspend."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from html import unescape

import pytest
from django.utils import timezone, translation
from django.utils.formats import date_format

from requests_app.actors import SUBJECT
from requests_app.jurisdictions import current, profile
from requests_app.models import Case, StaffMember, Suspension
from requests_app.models.people import Role
from requests_app.services import clock, intake, letters, reminders
from requests_app.services.letter_texts import spell_date
from requests_app.views.clock import counted_in_words
from tests import factories
from tests.requests_app.test_clock import ASKED, DONE, REASONS, by_phone, extend, fresh
from tests.requests_app.test_staff_pages import text
from tests.staff import as_staff

pytestmark = pytest.mark.django_db

FIELDS = {"cause": "complexity", "reasons": REASONS, "done": DONE}


def case_page(case: Case, member: StaffMember) -> str:
    """The text of the case page, without tags."""
    page = text(as_staff(member).get(f"/app/cases/{case.reference}"))
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


def on(year: int, month: int, day: int, **changes: str) -> Case:
    at = datetime(year, month, day, 12, tzinfo=timezone.get_default_timezone())
    return factories.open_case(channel="phone", received_at=at, **changes).case


# --- The box ------------------------------------------------------------------------------------
def test_the_page_says_in_words_how_the_date_came_about(officer: StaffMember) -> None:
    page = case_page(on(2026, 3, 5), officer)
    assert (
        "One month from 5 March 2026 ends on 5 April 2026, a Sunday (Easter Sunday)."
        " 6 April 2026 is Easter Monday. The next working day is Tuesday, 7 April 2026."
    ) in page
    assert "Answer due Tuesday, 7 April 2026, 23:59" in page
    assert "European Union, Art. 12(3) GDPR (EU/2026-1)" in page
    assert re.search(r"Public holidays BE, holidays \d", page)
    assert "With suspension" not in page


def test_holidays_are_named_in_the_language_of_the_page_or_say_in_which() -> None:
    span, due = profile("EU/2026-1").period, date(2026, 4, 7)
    with translation.override("fr"):
        words = counted_in_words(date(2026, 3, 5), span, due, "BE")
    assert "un dimanche (Pâques)" in words
    assert "Lundi de Pâques" in words
    assert "lang=" not in words
    with translation.override("it"):
        words = counted_in_words(date(2026, 3, 5), span, due, "BE")
    assert '<span lang="nl">Paasmaandag</span>' in words


def test_a_date_that_did_not_move_is_one_sentence(officer: StaffMember) -> None:
    page = case_page(on(2026, 8, 31), officer)
    assert "One month from 31 August 2026 ends on Wednesday, 30 September 2026." in page
    assert "next working day is" not in page


def test_a_californian_case_names_its_own_rules(officer: StaffMember) -> None:
    case = on(2026, 2, 5, region="CA")
    assert "Friday, 20 February 2026: written, not sent yet" in case_page(case, officer)
    letters.send_pending_letters()
    page = case_page(case, officer)
    assert "45 days from 5 February 2026 end on Sunday, 22 March 2026." in page
    assert "Acknowledge by Friday, 20 February 2026: sent on" in page
    assert "11 CCR § 7021 (CA/2026-1)" in page
    assert "kept for at least 24 months" in page


def test_until_when_an_extension_is_possible_and_for_whom(
    officer: StaffMember, intake_clerk: StaffMember
) -> None:
    case = by_phone(5)
    until = f"until {date_format(case.base_due, 'l, j F Y')}, 23:59"
    for member, may in ((officer, True), (intake_clerk, False)):
        page = case_page(case, member)
        assert until in page
        assert ("Extend the period" in page) == may
    late = case_page(by_phone(60), officer)
    assert "the extension can no longer be used" in late
    assert "Extend the period" not in late
    assert "overdue" in late


def test_after_an_extension_the_page_says_so_and_watches_the_letter(officer: StaffMember) -> None:
    case = by_phone(5, email="")
    letter = extend(case, officer)
    page = case_page(case, officer)
    assert f"On {spell_date(timezone.localdate())} this was extended for the complexity" in page
    assert f"Three months from {spell_date(case.received_on)} end on" in page
    assert f"It must leave by {spell_date(case.base_due)}" in page
    assert "Extend the period" not in page
    letter.sent_at = timezone.now() + timedelta(days=60)
    letter.save()
    assert "after the first period ended" in case_page(case, officer)


def test_reminders_stand_in_the_timeline_with_what_they_were_about(officer: StaffMember) -> None:
    case = by_phone(17)
    reminders.queue_reminders()
    assert "Staff reminded: half of the period has passed" in case_page(case, officer)


def test_a_closed_case_offers_nothing_of_the_clock(officer: StaffMember) -> None:
    case = by_phone(5)
    intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    page = case_page(case, officer)
    assert "Extend the period" not in page
    assert "Record a question" not in page
    assert "Possible once" not in page


# --- Extending ----------------------------------------------------------------------------------
def test_an_officer_reads_the_letter_before_it_is_sent(officer: StaffMember) -> None:
    case = by_phone(5)
    client = as_staff(officer, case)
    path = f"/app/cases/{case.reference}/extension"
    assert date_format(case.extension_due, "l, j F Y") in text(client.get(path))
    check = client.post(path, {**FIELDS, "step": "check"})
    assert check.status_code == 200
    shown = unescape(text(check))
    assert "WE NEED MORE TIME FOR YOUR REQUEST" in shown
    assert REASONS in shown
    assert fresh(case).extended_on is None
    assert REASONS in unescape(text(client.post(path, {**FIELDS, "step": "change"})))
    sent = client.post(path, {**FIELDS, "step": "send"})
    assert sent.url == f"/app/cases/{case.reference}"  # type: ignore[attr-defined]
    assert fresh(case).due == case.extension_due
    again = client.get(path)
    assert again.status_code == 409
    assert "only once" in text(again)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"cause": ""}, "Select why more time is needed"),
        ({"reasons": ""}, "Enter the reasons"),
        ({"reasons": "We are busy."}, "at least one whole sentence"),
        ({"done": ""}, "Enter what is already done"),
    ],
)
@pytest.mark.parametrize("step", ["check", "send"])
def test_what_is_missing_is_said_and_nothing_is_sent(
    officer: StaffMember, changes: dict[str, str], words: str, step: str
) -> None:
    case = by_phone(5)
    path = f"/app/cases/{case.reference}/extension"
    answer = as_staff(officer, case).post(path, {**FIELDS, **changes, "step": step})
    assert answer.status_code == 422
    assert words in unescape(text(answer))
    assert "There is a problem" in text(answer)
    assert fresh(case).extended_on is None


def test_after_the_period_the_page_says_what_to_do(officer: StaffMember) -> None:
    case = by_phone(60)
    answer = as_staff(officer).get(f"/app/cases/{case.reference}/extension")
    assert answer.status_code == 409
    assert "Send the answer now" in text(answer)


@pytest.mark.parametrize("role", [Role.INTAKE, Role.ENGINEER, Role.AUDITOR])
def test_extending_needs_the_role(role: Role) -> None:
    case = by_phone(5)
    path = f"/app/cases/{case.reference}/extension"
    client = as_staff(factories.make_staff(role))
    for answer in (client.get(path), client.post(path, {**FIELDS, "step": "send"})):
        assert answer.status_code == 403
    assert fresh(case).extended_on is None


def test_the_person_sees_the_new_date_and_the_letter_on_the_status_page(
    officer: StaffMember,
) -> None:
    opened = factories.open_case(channel="phone")
    extend(opened.case, officer)
    client = as_staff(officer)
    fields = {"reference": opened.case.reference, "access_code": opened.access_code}
    page = text(client.post("/status", fields, follow=True))
    assert f"The new date is {spell_date(opened.case.extension_due)}." in page
    assert 'data-kind="extension"' in page


# --- Suspending ---------------------------------------------------------------------------------
def test_a_question_and_its_answer_are_recorded_on_one_page(intake_clerk: StaffMember) -> None:
    case = by_phone(8)
    client = as_staff(intake_clerk)
    path = f"/app/cases/{case.reference}/suspension"
    assert "Record a question to the person" in case_page(case, intake_clerk)
    assert client.get(path).status_code == 200
    day = timezone.localdate()
    fields = {"reason": "identity", "asked_on": day - timedelta(days=7), "text": ASKED}
    assert client.post(path, {**fields, "text": "Unsure."}).status_code == 422
    late = {**fields, "asked_on": day + timedelta(days=1)}
    assert client.post(path, late).status_code == 422
    assert client.post(path, fields).status_code == 302
    page = case_page(case, intake_clerk)
    assert "not answered yet" in page
    assert "Record the answer" in page
    assert (
        f"With suspension {date_format(clock.due_with_suspension(case, day), 'l, j F Y')}" in page
    )
    assert ASKED not in page
    assert client.post(path, {"answered_on": day + timedelta(days=1)}).status_code == 422
    assert client.post(path, {"answered_on": day}).status_code == 302
    assert Suspension.objects.get().answered_on == day
    assert fresh(case).due == case.due


def test_where_the_law_knows_no_suspension_the_page_says_so(officer: StaffMember) -> None:
    case = by_phone(2, region="CA")
    answer = as_staff(officer).get(f"/app/cases/{case.reference}/suspension")
    assert answer.status_code == 409
    assert "Under 11 CCR § 7021 nothing suspends the clock." in text(answer)
    assert "Record a question" not in case_page(case, officer)


# --- Entering -----------------------------------------------------------------------------------
def test_who_enters_a_request_may_say_whose_law_counts(officer: StaffMember) -> None:
    fields = {
        "channel": "post",
        "received_on": "2026-11-20",
        "name": factories.NAME,
        "language": "en",
        "systems": ["model"],
    }
    client = as_staff(officer)
    assert client.post("/app/cases/new", {**fields, "region": "XX"}).status_code == 422
    for region, id in (("", "EU/2026-1"), ("UK", current("UK").id), ("CA", "CA/2026-1")):
        assert client.post("/app/cases/new", {**fields, "region": region}).status_code == 201
        assert Case.objects.latest("reference").jurisdiction == id
