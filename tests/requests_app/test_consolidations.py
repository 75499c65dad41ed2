"""A consolidation is proposed by one person, approved by another, and worked off under a lease."""

from __future__ import annotations

import json

import pytest
from django.db import IntegrityError, transaction

from requests_app.lifecycle import ConsolidationState
from requests_app.models import AuditEntry, Consolidation, Release, StaffMember
from requests_app.models.people import Role
from requests_app.services import cases, consolidations, runs
from requests_app.services.errors import Invalid, LeaseLost, NotAllowed, WrongState
from tests import factories
from tests.requests_app.test_staff_pages import text
from tests.staff import as_staff, authenticate

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("entries_last")]


def proposed(engineer: StaffMember) -> Consolidation:
    factories.responding_case()
    return consolidations.propose_consolidation(model_name="demo", actor_member=engineer)


def approved(engineer: StaffMember) -> Consolidation:
    return consolidations.approve_consolidation(
        consolidation_id=proposed(engineer).pk, actor_member=factories.make_staff(Role.APPROVER)
    )


def lease_of(row: Consolidation, owner: str = "w1") -> consolidations.ConsolidationLease | None:
    return consolidations.lease_consolidation(consolidation_id=row.pk, owner=owner)


def said() -> list[str]:
    entries = AuditEntry.objects.filter(type__startswith="consolidation.").order_by("seq")
    return [entry.type.partition(".")[2] for entry in entries]


# --- Two people ---------------------------------------------------------------------------------
def test_a_second_person_starts_it_and_the_log_names_both(engineer: StaffMember) -> None:
    row = proposed(engineer)
    approver = factories.make_staff(Role.APPROVER)
    with pytest.raises(NotAllowed):
        consolidations.approve_consolidation(consolidation_id=row.pk, actor_member=engineer)
    assert consolidations.consolidations_to_wake() == []
    assert lease_of(row) is None
    row = consolidations.approve_consolidation(consolidation_id=row.pk, actor_member=approver)
    assert (row.state, row.parent) == (ConsolidationState.QUEUED, Release.objects.get(is_live=True))
    assert said() == ["proposed", "approved"]
    actor = json.loads(bytes(AuditEntry.objects.get(type="consolidation.approved").body))["actor"]
    assert str(approver.pseudonym) in actor
    with pytest.raises(WrongState):
        consolidations.approve_consolidation(consolidation_id=row.pk, actor_member=approver)


def test_nobody_approves_what_they_proposed(approver: StaffMember) -> None:
    row = proposed(approver)
    with pytest.raises(NotAllowed, match="another person"):
        consolidations.approve_consolidation(consolidation_id=row.pk, actor_member=approver)
    with pytest.raises(IntegrityError), transaction.atomic():
        Consolidation.objects.filter(pk=row.pk).update(approved_by=approver)


def test_what_cannot_be_carried_is_not_proposed(
    engineer: StaffMember, officer: StaffMember
) -> None:
    with pytest.raises(Invalid, match="nothing to consolidate"):
        consolidations.propose_consolidation(model_name="demo", actor_member=engineer)
    with pytest.raises(NotAllowed):
        consolidations.propose_consolidation(model_name="demo", actor_member=officer)
    case = factories.responding_case()
    row = consolidations.propose_consolidation(model_name="demo", actor_member=engineer)
    with pytest.raises(WrongState, match="open already"):
        consolidations.propose_consolidation(model_name="demo", actor_member=engineer)
    consolidations.cancel_consolidation(consolidation_id=row.pk, actor_member=engineer)
    cases.send_answer(case_id=case.id, actor_member=officer)
    factories.letters.send_pending_letters()
    cases.seal_case(case_id=case.id, actor=factories.staff_actor(officer))
    with pytest.raises(Invalid, match=case.reference):
        consolidations.propose_consolidation(model_name="demo", actor_member=engineer)


def test_another_release_in_between_ends_the_proposal(engineer: StaffMember) -> None:
    row = proposed(engineer)
    factories.responding_case()
    with pytest.raises(WrongState, match="propose it again"):
        consolidations.approve_consolidation(
            consolidation_id=row.pk, actor_member=factories.make_staff(Role.APPROVER)
        )


# --- Leases -------------------------------------------------------------------------------------
def test_erasures_go_first_and_then_wait(engineer: StaffMember) -> None:
    row = approved(engineer)
    run = factories.executing_case().runs.get()
    assert lease_of(row) is None
    runs.cancel_run(run_id=run.pk, actor_member=engineer)
    lease = lease_of(row)
    assert lease is not None
    later = factories.executing_case().runs.get()
    assert runs.lease_run(run_id=later.pk, owner="w2") is None
    assert lease_of(row, "w2") is None  # held
    consolidations.fail_consolidation(lease, error="None of the cases holds.")
    assert runs.lease_run(run_id=later.pk, owner="w2") is not None
    row.refresh_from_db()
    assert (row.state, row.error) == (ConsolidationState.FAILED, "None of the cases holds.")
    assert said()[-1] == "ended"


def test_a_dead_worker_is_followed_and_what_it_sends_late_is_refused(
    engineer: StaffMember,
) -> None:
    row = approved(engineer)
    first = lease_of(row)
    assert first is not None
    consolidations.note_progress(first, phase="train", step=3, total=9)
    Consolidation.objects.update(lease_expires_at=row.created_at)
    assert consolidations.consolidations_to_wake() == [row.pk]
    second = lease_of(row, "w2")
    assert second is not None
    for late in (
        lambda: consolidations.note_progress(first, phase="train", step=4, total=9),
        lambda: consolidations.is_cancelled(first),
        lambda: consolidations.finish_consolidation(first),
    ):
        with pytest.raises(LeaseLost):
            late()
    assert not consolidations.extend_lease(first)
    consolidations.cancel_consolidation(consolidation_id=row.pk, actor_member=engineer)
    assert consolidations.is_cancelled(second)
    consolidations.stop_consolidation(second)
    row.refresh_from_db()
    assert (row.state, row.step) == (ConsolidationState.CANCELLED, 3)


# --- Pages --------------------------------------------------------------------------------------
def test_the_pages_lead_from_the_proposal_to_its_start(engineer: StaffMember) -> None:
    case = factories.responding_case()
    client = as_staff(engineer)
    page = text(client.get("/app/releases"))
    assert 'action="/app/consolidations"' in page
    made = client.post("/app/consolidations", {"model": "demo"}, follow=True)
    row = Consolidation.objects.get()
    path = f"/app/consolidations/{row.pk}"
    assert made.redirect_chain == [(path, 302)]
    assert case.reference in text(made)
    assert 'value="approve"' not in text(made)
    assert 'id="refusal"' in text(made)
    assert 'action="/app/consolidations"' not in text(client.get("/app/releases"))
    approver = factories.make_staff(Role.APPROVER)
    second = as_staff(approver)
    assert 'value="approve"' in text(second.get(path))
    authenticate(second, approver, ago=3600)
    stale = second.post(path, {"action": "approve"})
    assert "/accounts/reauthenticate/" in stale.headers["Location"]
    authenticate(second, approver)
    waiting = text(second.post(path, {"action": "approve"}, follow=True))
    assert 'data-state="queued"' in waiting
    assert 'hx-trigger="every 5s"' in waiting
    stopped = text(client.post(path, {"action": "cancel"}, follow=True))
    assert 'data-state="cancelled"' in stopped
    assert "Nothing changed." in stopped


def test_who_only_reads_sees_it_and_can_do_nothing(
    engineer: StaffMember, auditor: StaffMember
) -> None:
    row = proposed(engineer)
    client, path = as_staff(auditor), f"/app/consolidations/{row.pk}"
    page = text(client.get(path))
    assert "<button" not in page[page.index('id="progress"') :].partition("</main>")[0]
    assert client.post(path, {"action": "cancel"}).status_code == 403
    assert client.post("/app/consolidations", {"model": "demo"}).status_code == 403
    assert Consolidation.objects.get().state == ConsolidationState.PROPOSED
