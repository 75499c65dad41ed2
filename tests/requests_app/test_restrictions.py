"""Restriction of processing: from when until when, and nobody is surprised by its end."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from requests_app import audit, vault
from requests_app.actors import SUBJECT, SYSTEM
from requests_app.models import Case, Restriction, StaffMember, SuppressionTag
from requests_app.services import cases, intake, letters
from requests_app.services import restrictions as services
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.services.suppression import list_in_force
from requests_app.verifier import canonical
from tests import factories
from tests.factories import case_in_review, completed_case, propose

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("entries_last")]
REASON = "The canary facts were checked and are right."


def restrict(case: Case, officer: StaffMember) -> Restriction:
    return services.restrict_case(case_id=case.id, ground="18-1-a", actor_member=officer)


def lift(case: Case, officer: StaffMember) -> Restriction:
    services.announce_lifting(case_id=case.id, reason=REASON, actor_member=officer)
    letters.send_pending_letters()
    return services.lift_restriction(case_id=case.id, actor_member=officer)


def kinds_of(case: Case) -> list[str]:
    return list(case.letters.order_by("id").values_list("kind", flat=True))


def test_a_restriction_is_told_kept_out_of_training_and_published(
    officer: StaffMember, queue_messages: Callable[[str], list[dict[str, Any]]]
) -> None:
    case = case_in_review()
    with factories.on_commit():
        restriction = restrict(case, officer)
    assert "restriction" in kinds_of(case)
    assert [each.names for each in services.restricted_people()] == [
        (factories.NAME, factories.ALIAS)
    ]
    assert list_in_force().holds("email", factories.EMAIL)
    sent = [m for m in queue_messages("legal") if m["task"] == "workers.publish_restrictions"]
    assert [m["args"] for m in sent] == [[]]
    assert restriction.lifted_at is None
    with pytest.raises(WrongState, match="already"):
        restrict(case, officer)


def test_nothing_is_lifted_before_the_person_was_told(officer: StaffMember) -> None:
    case = case_in_review()
    with pytest.raises(WrongState, match="not restricted"):
        services.lift_restriction(case_id=case.id, actor_member=officer)
    restrict(case, officer)
    with pytest.raises(WrongState, match="told before"):
        services.lift_restriction(case_id=case.id, actor_member=officer)
    letter = services.announce_lifting(case_id=case.id, reason=REASON, actor_member=officer)
    assert REASON in vault.get(case, f"letter/{letter.pk}")
    with pytest.raises(WrongState, match="told before"):
        services.lift_restriction(case_id=case.id, actor_member=officer)
    letters.send_pending_letters()
    services.lift_restriction(case_id=case.id, actor_member=officer)
    assert services.restricted_people() == []
    assert not list_in_force().holds("email", factories.EMAIL)
    audit.verify_log()
    told = b"".join(bytes(entry.body) for entry in audit.case_entries(case.id)).decode()
    assert not any(canary in told for canary in factories.CANARIES)
    assert restrict(case, officer).pk  # it can be restricted again


def test_an_erasure_keeps_the_person_on_the_list_when_the_restriction_ends(
    officer: StaffMember, approver: StaffMember
) -> None:
    case = case_in_review()
    restrict(case, officer)
    assert SuppressionTag.objects.get(case_id=case.id).source == "restriction"
    propose(case)
    cases.approve_decision(case_id=case.id, actor_member=approver)
    assert SuppressionTag.objects.get(case_id=case.id).source == "decision"
    lift(case, officer)
    assert list_in_force().holds("email", factories.EMAIL)


def test_a_restricted_case_is_not_sealed(officer: StaffMember) -> None:
    case = completed_case()
    restrict(case, officer)
    letters.send_pending_letters()
    with pytest.raises(WrongState, match="restricted"):
        cases.seal_case(case_id=case.id, actor=SYSTEM)
    lift(case, officer)
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    with pytest.raises(WrongState):
        restrict(case, officer)


def test_who_may_restrict_and_on_which_grounds(officer: StaffMember, engineer: StaffMember) -> None:
    case = case_in_review()
    with pytest.raises(NotAllowed):
        restrict(case, engineer)
    with pytest.raises(Invalid, match="18-1-a"):
        services.restrict_case(case_id=case.id, ground="17-1-a", actor_member=officer)
    intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    with pytest.raises(WrongState):
        restrict(case, officer)


def test_the_database_wants_a_notice_before_an_end(officer: StaffMember) -> None:
    case = case_in_review()
    restriction = restrict(case, officer)
    with pytest.raises(IntegrityError), transaction.atomic():
        Restriction.objects.filter(pk=restriction.pk).update(lifted_at=timezone.now())
    with pytest.raises(IntegrityError), transaction.atomic():
        Restriction.objects.create(
            case=case, ground="18-1-b", restricted_at=timezone.now(), restricted_by=officer
        )


def test_the_log_says_when_and_on_which_ground(officer: StaffMember) -> None:
    case = case_in_review()
    restrict(case, officer)
    bodies: list[Any] = [canonical.loads(bytes(e.body)) for e in audit.case_entries(case.id)]
    entry = next(body for body in bodies if body["type"] == "case.restricted")
    assert entry["data"]["ground"] == "18-1-a"
    assert entry["at"]
