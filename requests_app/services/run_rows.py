"""Rows of a run, locked and held: what the services of `runs` begin and end with."""

from __future__ import annotations

import secrets
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import WORKER
from requests_app.audit import Entry
from requests_app.lifecycle import CaseStatus, MoveNotAllowed, RunState, move_run
from requests_app.models import Adapter, Case, ErasureRun
from requests_app.models.runs import Phase, Verdict
from requests_app.services import saved_steps, wake
from requests_app.services.errors import Invalid, LeaseLost, NotFound, WrongState
from requests_app.services.leases import drop_lease
from requests_app.services.locking import advance, lock_case
from requests_app.services.manifests import live_manifest
from requests_app.services.run_values import ATTEMPTS, AdapterRow, Lease

ACTIVE = (RunState.QUEUED, RunState.RUNNING)
PHASES = [phase.value for phase in Phase]
RUN_TASK = "workers.run_erasure"
SEED_LIMIT = 2**31 - ATTEMPTS  # so that the seeds of all attempts fit their column


def locked_run(run_id: UUID) -> tuple[Case, ErasureRun]:
    case_id = ErasureRun.objects.filter(pk=run_id).values_list("case_id", flat=True).first()
    if case_id is None:
        raise NotFound(_("There is no such run."))
    case = lock_case(case_id)
    return case, ErasureRun.objects.select_for_update().get(pk=run_id)


def locked_run_and_rivals(run_id: UUID) -> tuple[Case, ErasureRun, list[ErasureRun]]:
    """Like `locked_run`, with all active runs of the same model, itself included, locked too.

    The runs are locked in the order of their ids, so that two callers never wait for each other.
    """
    found = ErasureRun.objects.filter(pk=run_id).values_list("case_id", "model_name").first()
    if found is None:
        raise NotFound(_("There is no such run."))
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
        raise NotFound(_("There is no such run."))
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


def queue_run(case: Case, model_name: str, *, actor: str) -> ErasureRun:
    """Queue the next erasure run of a locked case on a model and wake the worker after commit.

    The seed is logged here, before anything can be measured with it: drawn at random, or after
    attempts that were not met, the first one's plus their number, as its test plan says.
    """
    run = next_run(case, model_name)
    audit.append_entries([run_queued(run, actor=actor)])
    return run


def next_run(case: Case, model_name: str) -> ErasureRun:
    """What `queue_run` does but for the entry, which is `run_queued`'s."""
    short = not_met_runs(case, model_name)
    last = case.runs.filter(model_name=model_name).order_by("number").last()
    run = ErasureRun.objects.create(
        case=case,
        model_name=model_name,
        number=last.number + 1 if last else 1,
        seed=short[0].seed + len(short) if short else secrets.randbelow(SEED_LIMIT),
        created_at=timezone.now(),
    )
    wake.send_after_commit(RUN_TASK, run.id, queue="model")
    return run


def run_queued(run: ErasureRun, *, actor: str) -> Entry:
    """The entry of a run that was queued."""
    return Entry(
        "run.queued",
        actor,
        {"run": str(run.id), "model": run.model_name, "number": run.number, "seed": run.seed},
        run.case,
    )


def not_met_runs(case: Case, model_name: str, *, before: int | None = None) -> list[ErasureRun]:
    """The attempts of a case on a model that were measured as not met, oldest first; counted anew
    after a run within thresholds (a case that fell back later is erased once more)."""
    made = attempts_of(case, model_name, before=before)
    return [run for run in made if run.verdict == Verdict.NOT_MET]


def attempts_of(case: Case, model_name: str, *, before: int | None = None) -> list[ErasureRun]:
    """The runs of a case on a model since the last one within thresholds, oldest first."""
    rows = case.runs.filter(model_name=model_name).order_by("number")
    found: list[ErasureRun] = []
    for run in rows if before is None else rows.filter(number__lt=before):
        found = [] if is_within(run) else [*found, run]
    return found


def is_within(run: ErasureRun) -> bool:
    """Tell whether a run ended within its thresholds."""
    return run.state == RunState.SUCCEEDED and run.verdict == Verdict.WITHIN


def fell_back(run: ErasureRun) -> bool:
    """Tell whether a run's erasure, measured again, no longer held when that last decided."""
    decided = run.rechecks.filter(verdict__in=(Verdict.WITHIN, Verdict.NOT_MET))
    last = decided.order_by("finished_at", "id").last()
    return last is not None and last.verdict == Verdict.NOT_MET


def end_run(case: Case, run: ErasureRun, to: RunState, *, error: str, actor: str) -> None:
    """Close a locked run, log it, and go on: with the next attempt if it was measured as not met,
    otherwise with the next run of its model and, if no run of it is left, with its locked case."""
    try:
        move_run(run, to)
    except MoveNotAllowed:
        raise WrongState(_("This run has ended already.")) from None
    if to != RunState.SUCCEEDED and not run.verdict:
        run.verdict = Verdict.INCONCLUSIVE
    run.error = error
    run.finished_at = timezone.now()
    drop_lease(run)
    run.save()
    transaction.on_commit(partial(saved_steps.drop_steps, run.id))
    fell_short = to == RunState.SUCCEEDED and run.verdict == Verdict.NOT_MET
    stopped = run.cancel_requested_at is not None
    again = list[Entry]()
    if fell_short and not stopped and len(not_met_runs(case, run.model_name)) < ATTEMPTS:
        again.append(run_queued(next_run(case, run.model_name), actor=WORKER.name))
    else:
        _wake_next(run.model_name)
    if not case.runs.filter(state__in=ACTIVE).exists():
        last = {r.model_name: r for r in case.runs.order_by("number")}.values()
        fine = all(is_within(r) and not fell_back(r) for r in last)
        advance(case, CaseStatus.RESPONDING if fine else CaseStatus.EVIDENCE_REVIEW)
        case.save()
    # Appended last: from here to the commit everybody else's entries wait.
    kind = {RunState.SUCCEEDED: "finished", RunState.FAILED: "failed"}.get(to, "cancelled")
    audit.append_entry(
        type=f"run.{kind}",
        actor=actor,
        case=case,
        data={"run": str(run.id), "verdict": run.verdict, "error": error},
    )
    audit.append_entries(again)


def _wake_next(model_name: str) -> None:
    """The run that has waited longest for its model: it need not wait for the sweep as well."""
    queued = ErasureRun.objects.filter(model_name=model_name, state=RunState.QUEUED)
    if found := queued.order_by("created_at", "id").first():
        wake.send_after_commit(RUN_TASK, found.id, queue="model")


def adapters_in_force(model_name: str) -> tuple[AdapterRow, ...]:
    """The adapters that the live release names, in its order."""
    live = live_manifest(model_name)
    named = live.adapters if live else ()
    return tuple(AdapterRow(each.case_id, each.sha256, each.gate_sha256) for each in named)


def adapter_row(row: Adapter) -> AdapterRow:
    """The digests of a stored adapter."""
    return AdapterRow(row.run.case_id, row.sha256, row.gate_sha256)
