"""Consolidations as a job: proposed, approved by a second person, worked off by a model worker.

What is trained and measured is `manage.py consolidate_release`'s; here is who asked for it and how
far it is. A worker that died begins anew, since nothing half-made is in force; one that died after
the release was put in force only has the replaced weights left to move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import SYSTEM, WORKER, staff_actor
from requests_app.lifecycle import CaseStatus, ConsolidationState, RunState, move_consolidation
from requests_app.models import Case, Consolidation, ErasureRun, Release, StaffMember
from requests_app.models.people import Role
from requests_app.services import wake
from requests_app.services.errors import Invalid, LeaseLost, NotAllowed, NotFound, WrongState
from requests_app.services.leases import (
    TOO_MANY,
    drop_lease,
    is_leased,
    is_to_wake,
    is_worked_on_here,
    lease_time,
    take_lease,
    used_up,
)
from requests_app.services.locking import require_role
from requests_app.services.manifests import live_manifest, read_manifest, references
from requests_app.services.releases import CaseFigures, register_consolidation

CONSOLIDATION_TASK = "workers.consolidate"
OPEN = (ConsolidationState.PROPOSED, ConsolidationState.QUEUED, ConsolidationState.RUNNING)
ERROR_LENGTH = 500


@dataclass(frozen=True)
class ConsolidationLease:
    """The right to work on one consolidation until it expires or a higher fence is given out."""

    consolidation_id: UUID
    owner: str
    fence: int


# --- Two people ---------------------------------------------------------------------------------
@transaction.atomic
def propose_consolidation(*, model_name: str, actor_member: StaffMember) -> Consolidation:
    """Propose that all cases in force on a model are carried into new weights.

    Invalid where that cannot be: nothing is gated, some are merged already, or a case's data is
    gone. WrongState while one is open.
    """
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    parent = Release.objects.select_for_update().filter(model_name=model_name, is_live=True).first()
    live = live_manifest(model_name)
    if parent is None or live is None or not live.adapters:
        raise Invalid(_("No case is gated on this model: there is nothing to consolidate."))
    if live.merged:
        raise Invalid(_("Cases are merged into these weights already: they cannot be again."))
    sealed = Case.objects.filter(pk__in=live.cases, status=CaseStatus.SEALED)
    if sealed.exists():
        raise Invalid(
            _("The data of %(cases)s is gone: they can be neither carried nor measured.")
            % {"cases": references(sealed.values_list("pk", flat=True))}
        )
    if Consolidation.objects.filter(model_name=model_name, state__in=OPEN).exists():
        raise WrongState(_("A consolidation of this model is open already."))
    found = Consolidation.objects.create(
        model_name=model_name, parent=parent, proposed_by=actor_member, created_at=timezone.now()
    )
    _log(found, "proposed", staff_actor(actor_member).name, parent=parent.digest)
    return found


@transaction.atomic
def approve_consolidation(*, consolidation_id: UUID, actor_member: StaffMember) -> Consolidation:
    """Have it worked off, as an approver who did not propose it."""
    require_role(actor_member, Role.APPROVER)
    row = _locked(consolidation_id)
    if row.proposed_by_id == actor_member.pk:
        raise NotAllowed(_("You proposed this consolidation: another person has to approve it."))
    if row.state != ConsolidationState.PROPOSED:
        raise WrongState(_("This consolidation does not wait for approval."))
    if not row.parent.is_live:
        raise WrongState(_("Another release went live meanwhile: propose it again."))
    move_consolidation(row, ConsolidationState.QUEUED)
    row.approved_by, row.created_at = actor_member, timezone.now()
    row.save()
    _log(row, "approved", staff_actor(actor_member).name)
    wake.send_after_commit(CONSOLIDATION_TASK, row.id, queue="model")
    return row


@transaction.atomic
def cancel_consolidation(*, consolidation_id: UUID, actor_member: StaffMember) -> Consolidation:
    """Withdraw, refuse or stop it; one at work stops at its next step, and nothing changes."""
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    row = _locked(consolidation_id)
    if row.state not in OPEN or row.release_id or row.cancel_requested_at:
        raise WrongState(_("This consolidation cannot be cancelled any more."))
    row.cancel_requested_at = timezone.now()
    actor, at_work = staff_actor(actor_member).name, row.state == ConsolidationState.RUNNING
    if at_work:
        row.save()
    else:
        _close(row, ConsolidationState.CANCELLED)
    _log(row, "cancel_requested", actor)
    if not at_work:
        _log_end(row, actor)
    return row


# --- Leases -------------------------------------------------------------------------------------
def consolidations_to_wake() -> list[UUID]:
    """Those that somebody should take up."""
    rows = Consolidation.objects.filter(
        is_to_wake(ConsolidationState.QUEUED, ConsolidationState.RUNNING)
    )
    return list(rows.order_by("created_at", "id").values_list("id", flat=True))


@transaction.atomic
def lease_consolidation(*, consolidation_id: UUID, owner: str) -> ConsolidationLease | None:
    """Take an approved one that nobody holds; None if there is nothing to do.

    Erasures of the model go first: one that waits before it begins, one at work in any case. While
    it is at work no erasure of the model is taken up (`runs.lease_run`).
    """
    row = _locked(consolidation_id)
    begun = row.state == ConsolidationState.RUNNING
    if not (begun or row.state == ConsolidationState.QUEUED) or is_leased(row):
        return None
    first = [RunState.RUNNING] if begun else [RunState.RUNNING, RunState.QUEUED]
    if ErasureRun.objects.filter(model_name=row.model_name, state__in=first).exists():
        return None
    if not is_worked_on_here(row.model_name):
        return None
    if used_up(row):
        _end(row, ConsolidationState.FAILED, error=TOO_MANY, actor=SYSTEM.name)
        return None
    if not begun:
        move_consolidation(row, ConsolidationState.RUNNING)
    take_lease(row, owner=owner)
    row.save()
    return ConsolidationLease(row.id, owner, row.fence)


def extend_lease(lease: ConsolidationLease) -> bool:
    """Hold it for RTBF_LEASE_SECONDS more; False if it is no longer ours."""
    return bool(_ours(lease).update(lease_expires_at=timezone.now() + lease_time()))


def note_progress(lease: ConsolidationLease, *, phase: str, step: int, total: int) -> None:
    """Say how far it is, and hold it. Raises LeaseLost."""
    expires = timezone.now() + lease_time()
    if not _ours(lease).update(phase=phase, step=step, total=total, lease_expires_at=expires):
        raise _lost(lease)


def is_cancelled(lease: ConsolidationLease) -> bool:
    """Whether somebody asked to stop it. Raises LeaseLost."""
    asked = _ours(lease).values_list("cancel_requested_at", flat=True).first()
    if asked is None and not _ours(lease).exists():
        raise _lost(lease)
    return asked is not None


def read_consolidation(lease: ConsolidationLease) -> Consolidation:
    """The row with its people and releases. Raises LeaseLost."""
    rows = _ours(lease).select_related("parent", "release", "proposed_by", "approved_by")
    row: Consolidation | None = rows.first()
    if row is None:
        raise _lost(lease)
    return row


# --- Its end ------------------------------------------------------------------------------------
@transaction.atomic
def register(
    lease: ConsolidationLease,
    *,
    manifest: bytes,
    plan_sha256: str,
    retained: str,
    cases: Mapping[UUID, CaseFigures],
) -> None:
    """Put the release in force, on the word of the approver, and note that it came of this, and of
    what was in force when it began: erasures that went first are in it."""
    row = _held(lease)
    if row.approved_by is None:
        raise WrongState("Nobody approved this consolidation.")
    row.parent_id = read_manifest(manifest).parent or row.parent_id
    register_consolidation(
        model_name=row.model_name,
        manifest=manifest,
        plan_sha256=plan_sha256,
        retained=retained,
        cases=cases,
        actor_member=row.approved_by,
        job=row,
    )


@transaction.atomic
def finish_consolidation(lease: ConsolidationLease) -> None:
    """The release is in force and the replaced weights are where they belong."""
    _end(_held(lease), ConsolidationState.DONE, actor=WORKER.name)


@transaction.atomic
def fail_consolidation(lease: ConsolidationLease, *, error: str) -> None:
    """Nothing changed; `error` is a sentence without personal data. Raises LeaseLost."""
    _end(_held(lease), ConsolidationState.FAILED, error=error, actor=WORKER.name)


@transaction.atomic
def stop_consolidation(lease: ConsolidationLease) -> None:
    """It stopped because somebody asked for it, and nothing changed. Raises LeaseLost."""
    _end(_held(lease), ConsolidationState.CANCELLED, actor=WORKER.name)


def _end(row: Consolidation, to: ConsolidationState, *, actor: str, error: str = "") -> None:
    _close(row, to, error=error)
    _log_end(row, actor)


def _close(row: Consolidation, to: ConsolidationState, *, error: str = "") -> None:
    move_consolidation(row, to)
    row.error, row.finished_at = error[:ERROR_LENGTH], timezone.now()
    drop_lease(row)
    row.save()


def _log_end(row: Consolidation, actor: str) -> None:
    _log(row, "ended", actor, state=str(row.state), release=row.release_id or "")


def _log(row: Consolidation, what: str, actor: str, **more: str) -> None:
    data = {"consolidation": str(row.id), "model": row.model_name, **more}
    audit.append_entry(type=f"consolidation.{what}", actor=actor, data=data)


def _locked(consolidation_id: UUID) -> Consolidation:
    row = Consolidation.objects.select_for_update().filter(pk=consolidation_id).first()
    if row is None:
        raise NotFound(_("There is no such consolidation."))
    return row


def _held(lease: ConsolidationLease) -> Consolidation:
    row = _locked(lease.consolidation_id)
    if row.fence != lease.fence or row.state != ConsolidationState.RUNNING:
        raise _lost(lease)
    return row


def _ours(lease: ConsolidationLease) -> QuerySet[Consolidation]:
    return Consolidation.objects.filter(
        pk=lease.consolidation_id, fence=lease.fence, state=ConsolidationState.RUNNING
    )


def _lost(lease: ConsolidationLease) -> LeaseLost:
    text = f"Consolidation {lease.consolidation_id} is not held under fence {lease.fence} any more."
    return LeaseLost(text)
