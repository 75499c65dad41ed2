"""What has been kept for its time goes; a legal hold stops it."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.utils import timezone

from requests_app import audit, vault
from requests_app.actors import SYSTEM
from requests_app.deadlines import add_months
from requests_app.jurisdictions import profile
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, CaseKey, LegalHold, StaffMember
from requests_app.services import cases, decisions, holds, retention
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.tasks import apply_retention
from tests import factories
from tests.factories import completed_case
from tests.staff import as_staff

pytestmark = [pytest.mark.django_db, pytest.mark.database]

DAY = timedelta(days=1)


def hold(case: Case, by: StaffMember, *, days: int = 30) -> LegalHold:
    return holds.place_hold(
        case_id=case.id,
        reason="Claim of a supplier",
        until=timezone.localdate() + days * DAY,
        actor_member=by,
    )


def test_a_dry_run_names_the_records_whose_least_time_is_over_and_nothing_removes_them() -> None:
    """Three years from the seal in the EU, two in California (11 CCR 7101): a floor, no end."""
    cases_ = {region: factories.open_case(region=region).case for region in ("EU", "CA")}
    retention.apply_retention(timezone.now() + 8 * DAY)
    sealed = timezone.localdate()
    for region, case in cases_.items():
        months = profile(case.jurisdiction).record_months
        assert months == {"EU": 36, "CA": 24}[region]
        last = add_months(sealed, months)
        past = {each.reference for each in retention.records_past_their_time(last + DAY)}
        assert case.reference in past
        assert case.reference not in {
            each.reference for each in retention.records_past_their_time(last)
        }
    Case.objects.update(sealed_at=timezone.now() - timedelta(days=4 * 366))
    out = StringIO()
    call_command("apply_retention", "--dry-run", "--json", stdout=out)
    told = json.loads(out.getvalue())
    assert told["cases"] == []
    references = {each["reference"] for each in told["records_past_their_time"]}
    assert references == {case.reference for case in cases_.values()}
    retention.apply_retention()
    assert Case.objects.count() == 2
    audit.verify_log()


def test_a_request_never_confirmed_is_sealed_after_a_week_and_not_before() -> None:
    case = factories.open_case().case
    week = timezone.now() + 7 * DAY
    assert retention.apply_retention(week - 2 * DAY) == []
    with pytest.raises(WrongState, match="may still be confirmed"):
        cases.seal_case(case_id=case.id, actor=SYSTEM)
    [gone] = retention.apply_retention(week)
    case.refresh_from_db()
    assert (gone.rule, case.status) == ("unconfirmed", CaseStatus.SEALED)
    assert CaseKey.objects.get(case=case).wrapped is None
    last = audit.case_entries(case.id)[-1]
    assert last.type == "case.sealed"
    assert json.loads(bytes(last.body))["data"]["rule"] == "unconfirmed"
    audit.verify_log()


def test_a_finished_case_is_sealed_when_the_time_for_a_complaint_is_over() -> None:
    case = completed_case()
    assert retention.apply_retention(timezone.now() + 89 * DAY) == []
    retention.apply_retention(timezone.now() + 90 * DAY)
    case.refresh_from_db()
    assert case.status == CaseStatus.SEALED
    with pytest.raises(vault.VaultSealed):
        vault.get(case, "name")


def test_the_setting_says_how_long(settings: object) -> None:
    settings.RTBF_KEEP_CLOSED_DAYS = 10  # type: ignore[attr-defined]
    completed_case()
    assert len(retention.apply_retention(timezone.now() + 10 * DAY)) == 1


def test_a_hold_and_an_unsent_letter_stop_it(officer: StaffMember) -> None:
    held, unsent = completed_case(), completed_case()
    unsent.letters.update(sent_at=None)
    hold(held, officer, days=200)
    later = timezone.now() + 91 * DAY
    met = {item.case_id: item.stopped_by for item in retention.apply_retention(later)}
    assert met == {held.id: "legal hold", unsent.id: "letter not sent"}
    assert not Case.objects.filter(status=CaseStatus.SEALED).exists()
    with pytest.raises(WrongState, match="legal hold"):
        cases.seal_case(case_id=held.id, actor=SYSTEM)
    holds.release_hold(case_id=held.id, actor_member=officer)
    retention.apply_retention(later)
    held.refresh_from_db()
    assert held.status == CaseStatus.SEALED


def test_nothing_is_erased_while_a_hold_is_in_force(
    officer: StaffMember, approver: StaffMember
) -> None:
    case = factories.propose(factories.case_in_review(), by=officer)
    hold(case, officer)
    with pytest.raises(WrongState, match="nothing of it can be erased"):
        decisions.approve_decision(case_id=case.id, actor_member=approver)
    holds.release_hold(case_id=case.id, actor_member=approver)
    decisions.approve_decision(case_id=case.id, actor_member=approver)


def test_a_hold_ends_with_its_day_and_another_can_be_placed(officer: StaffMember) -> None:
    case = completed_case()
    first = hold(case, officer)
    with pytest.raises(WrongState, match="held already"):
        hold(case, officer)
    LegalHold.objects.filter(pk=first.pk).update(until=timezone.localdate() - DAY)
    assert holds.hold_of(case) is None
    second = hold(case, officer)
    assert holds.hold_of(case) == second
    with pytest.raises(IntegrityError), transaction.atomic():
        LegalHold.objects.create(
            case=case, until=second.until, placed_at=timezone.now(), placed_by=officer
        )


@pytest.mark.parametrize("days", [-1, 367])
def test_a_hold_ends_within_a_year(officer: StaffMember, days: int) -> None:
    with pytest.raises(Invalid, match="between today and a year"):
        hold(completed_case(), officer, days=days)


def test_only_those_who_decide_place_a_hold(intake_clerk: StaffMember) -> None:
    with pytest.raises(NotAllowed):
        hold(completed_case(), intake_clerk)


def test_a_sealed_case_cannot_be_held(officer: StaffMember) -> None:
    case = completed_case()
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    with pytest.raises(WrongState, match="nothing left to hold"):
        hold(case, officer)


def test_the_reason_lies_in_the_vault_and_nowhere_in_the_log(officer: StaffMember) -> None:
    case = completed_case()
    placed = hold(case, officer)
    assert vault.get(case, f"hold/{placed.pk}/reason") == "Claim of a supplier"
    assert all(b"supplier" not in bytes(entry.body) for entry in audit.case_entries(case.id))


def test_the_command_shows_first_and_destroys_only_when_asked_to() -> None:
    completed_case()
    Case.objects.update(completed_at=timezone.now() - 100 * DAY)
    out = StringIO()
    call_command("apply_retention", "--dry-run", "--json", stdout=out)
    shown = json.loads(out.getvalue())
    assert [row["rule"] for row in shown["cases"]] == ["closed"]
    assert Case.objects.filter(status=CaseStatus.COMPLETED).count() == 1
    out = StringIO()
    call_command("apply_retention", stdout=out)
    assert "1 sealed, 0 stopped." in out.getvalue()
    assert Case.objects.filter(status=CaseStatus.SEALED).count() == 1


def test_beat_applies_it() -> None:
    completed_case()
    Case.objects.update(completed_at=timezone.now() - 100 * DAY)
    apply_retention()
    assert Case.objects.get().status == CaseStatus.SEALED


def test_the_pages_place_show_and_release_a_hold(officer: StaffMember) -> None:
    case = completed_case()
    client = as_staff(officer, case)
    page = client.get(f"/app/cases/{case.reference}/hold")
    assert page.status_code == 200
    wrong = client.post(f"/app/cases/{case.reference}/hold", {"reason": "", "until": "soon"})
    assert wrong.status_code == 422
    until = timezone.localdate() + 30 * DAY
    client.post(f"/app/cases/{case.reference}/hold", {"reason": "A claim", "until": until})
    shown = client.get(f"/app/cases/{case.reference}").content.decode()
    assert "Held until" in shown
    assert "A claim" in shown
    client.post(f"/app/cases/{case.reference}/hold/release")
    assert "Held until" not in client.get(f"/app/cases/{case.reference}").content.decode()
