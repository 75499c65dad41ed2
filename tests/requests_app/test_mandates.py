"""Requests for somebody else, and several requests of one person."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from requests_app import audit, selectors, vault
from requests_app.actors import SYSTEM, staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, Mandate, StaffMember
from requests_app.services import cases, duplicates, intake, mandates
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from tests import factories
from tests.factories import CANARIES, EMAIL, NAME, confirmed_case
from tests.staff import as_staff

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("entries_last")]


def record(case: Case, by: StaffMember, **changes: Any) -> str:
    values: dict[str, Any] = {
        "kind": "agent",
        "sender": "Quillfeather Advocates",
        "note": "Power of attorney of 1 November, canary file",
        "covers_answers": True,
        **changes,
    }
    return mandates.record_mandate(case_id=case.id, actor=staff_actor(by), **values)


def identify(case: Case, by: StaffMember) -> Case:
    return cases.record_identity(
        case_id=case.id, method="held_attributes", note="", actor=staff_actor(by)
    )


# --- Mandates -----------------------------------------------------------------------------------
def test_nothing_goes_on_for_somebody_else_without_a_mandate(officer: StaffMember) -> None:
    case = confirmed_case(on_behalf=True)
    with pytest.raises(WrongState, match="record the mandate first"):
        identify(case, officer)
    assert record(case, officer) == ""
    assert identify(case, officer).status == CaseStatus.IN_REVIEW


def test_a_mandate_that_ran_out_does_not_carry(officer: StaffMember) -> None:
    case = confirmed_case(on_behalf=True)
    with pytest.raises(Invalid, match="has run out"):
        record(case, officer, valid_until=timezone.localdate() - timedelta(days=1))
    record(case, officer, valid_until=timezone.localdate())
    Mandate.objects.update(valid_until=timezone.localdate() - timedelta(days=1))
    with pytest.raises(WrongState, match="has run out"):
        identify(case, officer)


def test_the_answer_goes_to_the_person_where_the_mandate_does_not_cover_it(
    officer: StaffMember,
) -> None:
    opened = factories.open_case(on_behalf=True)
    case = opened.case
    case = intake.confirm_email(reference=case.reference, code=factories.mailed_code())
    assert selectors.access_ok(case.reference, opened.access_code) == case
    code = record(case, officer, covers_answers=False, person_email="p@own.example")
    assert vault.get(case, "email") == "p@own.example"
    assert vault.get(case, "mandate/sender")["email"] == EMAIL
    assert selectors.access_ok(case.reference, opened.access_code) is None
    assert selectors.access_ok(case.reference, code) == case
    record(case, officer, covers_answers=False)
    assert not vault.has(case, "email")
    assert vault.get(case, "mandate/sender")["email"] == EMAIL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "friend"}, "no mandate “friend”"),
        ({"sender": " "}, "sender's name is missing"),
        ({"note": ""}, "What was seen is missing"),
        ({"person_email": "p@own.example"}, "leave the person's own address empty"),
        ({"covers_answers": False, "person_email": "nowhere"}, "not a valid e-mail address"),
    ],
)
def test_a_mandate_that_does_not_hold_together_is_refused(
    officer: StaffMember, changes: dict[str, Any], message: str
) -> None:
    case = confirmed_case(on_behalf=True)
    with pytest.raises(Invalid, match=message):
        record(case, officer, **changes)
    assert not Mandate.objects.exists()


def test_a_mandate_is_for_such_cases_and_for_those_who_read_them(
    officer: StaffMember, auditor: StaffMember
) -> None:
    with pytest.raises(WrongState, match="needs no mandate"):
        record(confirmed_case(), officer)
    with pytest.raises(NotAllowed):
        record(confirmed_case(on_behalf=True), auditor)


def test_sender_and_note_are_in_the_vault_alone(officer: StaffMember) -> None:
    case = confirmed_case(on_behalf=True)
    record(case, officer)
    assert vault.get(case, "mandate/note").endswith("canary file")
    for entry in audit.case_entries(case.id):
        assert not any(canary.encode() in bytes(entry.body) for canary in CANARIES)


def test_the_pages_ask_for_it_and_show_a_new_code_once(
    officer: StaffMember,
) -> None:
    case = confirmed_case(on_behalf=True)
    client = as_staff(officer, case)
    assert "No mandate is recorded" in client.get(f"/app/cases/{case.reference}").content.decode()
    address = f"/app/cases/{case.reference}/mandate"
    assert client.post(address, {}).status_code == 422
    sent = {"kind": "parent", "sender": "A parent", "note": "Birth certificate"}
    page = client.post(address, sent).content.decode()
    assert "for the person alone" in page
    shown = client.get(f"/app/cases/{case.reference}").content.decode()
    assert "Parent or holder of parental responsibility" in shown
    assert "access-code" not in shown


# --- Several requests ---------------------------------------------------------------------------
def test_only_verified_requests_find_each_other() -> None:
    first, second = confirmed_case(), confirmed_case()
    unverified = factories.open_case().case
    other = confirmed_case(email="else@where.example")
    assert list(duplicates.same_contact(first)) == [second]
    assert list(duplicates.same_contact(second)) == [first]
    assert not duplicates.same_contact(unverified).exists()
    assert not duplicates.same_contact(other).exists()


def test_joining_is_of_one_person_and_moves_no_case(officer: StaffMember) -> None:
    first, second = confirmed_case(), confirmed_case()
    before = Case.objects.get(pk=first.pk)
    duplicates.join_cases(case_id=second.id, reference=first.reference, actor=staff_actor(officer))
    second.refresh_from_db()
    first.refresh_from_db()
    assert second.subject_id == first.subject_id
    assert (first.status, first.due) == (before.status, before.due)
    assert second.status == CaseStatus.IDENTITY_CHECK
    assert audit.case_entries(second.id)[-1].type == "case.joined"


def test_a_sealed_case_is_of_nobody_known_although_it_was_joined(officer: StaffMember) -> None:
    first, second = factories.completed_case(), factories.completed_case()
    actor = staff_actor(officer)
    duplicates.join_cases(case_id=second.id, reference=first.reference, actor=actor)
    log = [bytes(entry.body) for entry in audit.case_entries(second.id)]
    assert not any(str(first.id).encode() in body for body in log)
    cases.seal_case(case_id=second.id, actor=SYSTEM)
    first.refresh_from_db()
    second.refresh_from_db()
    assert second.subject_id != first.subject_id


def test_an_unverified_request_cannot_be_joined_to_anybody(officer: StaffMember) -> None:
    verified, unverified = confirmed_case(), factories.open_case().case
    for case, other in ((verified, unverified), (unverified, verified)):
        with pytest.raises(Invalid, match="Only verified"):
            duplicates.join_cases(
                case_id=case.id, reference=other.reference, actor=staff_actor(officer)
            )
    with pytest.raises(NotFound):
        duplicates.join_cases(
            case_id=verified.id, reference="ERQ-2000-000001", actor=staff_actor(officer)
        )


def test_the_digest_of_the_address_goes_with_sealing() -> None:
    case = factories.completed_case()
    assert case.contact_digest
    assert NAME not in case.contact_digest
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    case.refresh_from_db()
    assert case.contact_digest == ""


def test_the_case_page_offers_to_join(officer: StaffMember) -> None:
    first, second = confirmed_case(), confirmed_case()
    client = as_staff(officer)
    page = client.get(f"/app/cases/{second.reference}").content.decode()
    assert first.reference in page
    client.post(f"/app/cases/{second.reference}/join", {"other": first.reference})
    page = client.get(f"/app/cases/{second.reference}").content.decode()
    assert "of the same person" in page
