"""Rows of a run, locked and held: what the services of `runs` begin and end with."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from requests_app import audit
from requests_app.lifecycle import CaseStatus, MoveNotAllowed, RunState, move_run
from requests_app.models import Adapter, Case, ErasureRun
from requests_app.models.runs import Phase, Verdict
from requests_app.services.errors import Invalid, LeaseLost, NotFound, WrongState
from requests_app.services.locking import advance, lock_case
from requests_app.services.manifests import live_manifest
from requests_app.services.run_values import AdapterRow, Lease

ACTIVE = (RunState.QUEUED, RunState.RUNNING)
PHASES = [phase.value for phase in Phase]


def lease_time() -> timedelta:
    return timedelta(seconds=settings.RTBF_LEASE_SECONDS)


def locked_run(run_id: UUID) -> tuple[Case, ErasureRun]:
    case_id = ErasureRun.objects.filter(pk=run_id).values_list("case_id", flat=True).first()
    if case_id is None:
        raise NotFound("There is no such run.")
    case = lock_case(case_id)
    return case, ErasureRun.objects.select_for_update().get(pk=run_id)


def locked_run_and_rivals(run_id: UUID) -> tuple[Case, ErasureRun, list[ErasureRun]]:
    """Like `locked_run`, with all active runs of the same model, itself included, locked too.

    The runs are locked in the order of their ids, so that two callers never wait for each other.
    """
    found = ErasureRun.objects.filter(pk=run_id).values_list("case_id", "model_name").first()
    if found is None:
        raise NotFound("There is no such run.")
    case = lock_case(found[0])
    active = Q(model_name=found[1], state__in=ACTIVE)
    rows = list(ErasureRun.objects.select_for_update().filter(Q(pk=run_id) | active).order_by("id"))
    return case, next(row for row in rows if row.pk == run_id), rows


def held_case_and_run(lease: Lease) -> tuple[Case, ErasureRun]:
    case, run = locked_run(lease.run_id)
    _check_held(run, lease)
    return case, run


def held_run(lease: Lease) -> ErasureRun:
    run = ErasureRun.objects.select_for_update().filter(pk=lease.run_id).first()
    if run is None:
        raise NotFound("There is no such run.")
    _check_held(run, lease)
    return run


def _check_held(run: ErasureRun, lease: Lease) -> None:
    if run.fence != lease.fence or run.state != RunState.RUNNING:
        raise LeaseLost(f"Run {run.id} is no longer held under fence {lease.fence}.")


def enter_phase(run: ErasureRun, phase: str) -> None:
    """Never back: a resumed worker locates anew what it needs in memory, but the phase stays."""
    if phase not in PHASES:
        raise Invalid(f"There is no phase “{phase}”. Known: {', '.join(PHASES)}.")
    if PHASES.index(phase) > PHASES.index(run.phase):
        run.phase = phase


def end_run(case: Case, run: ErasureRun, to: RunState, *, error: str, actor: str) -> None:
    """Close a locked run, log it, and move its locked case on if it was the last."""
    try:
        move_run(run, to)
    except MoveNotAllowed:
        raise WrongState("This run has ended already.") from None
    if to != RunState.SUCCEEDED and not run.verdict:
        run.verdict = Verdict.INCONCLUSIVE
    run.error = error
    run.finished_at = timezone.now()
    run.lease_owner, run.lease_expires_at = "", None
    run.save()
    kind = {RunState.SUCCEEDED: "finished", RunState.FAILED: "failed"}.get(to, "cancelled")
    audit.append_entry(
        type=f"run.{kind}",
        actor=actor,
        case=case,
        data={"run": str(run.id), "verdict": run.verdict, "error": error},
    )
    if case.runs.filter(state__in=ACTIVE).exists():
        return
    last = {r.model_name: r for r in case.runs.order_by("number")}.values()
    fine = all(r.state == RunState.SUCCEEDED and r.verdict == Verdict.WITHIN for r in last)
    advance(case, CaseStatus.RESPONDING if fine else CaseStatus.EVIDENCE_REVIEW)
    case.save()


def adapters_in_force(model_name: str) -> tuple[AdapterRow, ...]:
    """The adapters that the live release names, in its order."""
    live = live_manifest(model_name)
    named = live.adapters if live else ()
    rows = Adapter.objects.in_bulk([each.sha256 for each in named])
    return tuple(
        AdapterRow(each.case_id, each.sha256, rows[each.sha256].config_sha256, each.gate_sha256)
        for each in named
    )


def adapter_row(row: Adapter) -> AdapterRow:
    """The digests of a stored adapter."""
    return AdapterRow(row.run.case_id, row.sha256, row.config_sha256, row.gate_sha256)
