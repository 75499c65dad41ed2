"""What a worker may write: leases, progress, protocol, adapter, evidence, release, result.

The run row is the truth and the queue only a wake-up. Whoever comes with an older lease than the
row's gets LeaseLost (`leases`). Every function may be called again after a crash: what is already
recorded stays, and a different value is refused.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import SYSTEM, WORKER, staff_actor
from requests_app.audit import Entry
from requests_app.lifecycle import ConsolidationState, RunState, move_run
from requests_app.models import (
    Adapter,
    Consolidation,
    ErasureRun,
    ProbeResult,
    Recheck,
    Release,
    RunEvent,
    StaffMember,
)
from requests_app.models.people import Role
from requests_app.models.runs import Phase, Verdict
from requests_app.services import rechecks, saved_steps
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.leases import (
    TOO_MANY,
    is_held,
    is_leased,
    is_to_wake,
    is_worked_on_here,
    lease_time,
    take_lease,
    used_up,
)
from requests_app.services.locking import require_role
from requests_app.services.manifests import (
    Manifest,
    ManifestAdapter,
    manifest_of,
    put_live,
    read_manifest,
)
from requests_app.services.run_rows import (
    ACTIVE,
    adapter_row,
    adapters_in_force,
    end_run,
    enter_phase,
    held_case_and_run,
    held_run,
    locked_run,
    locked_run_and_rivals,
    not_met_runs,
)
from requests_app.services.run_values import (
    AdapterRow,
    Lease,
    ProbeRow,
    RunInput,
    canonical_bytes,
    without_floats,
)
from requests_app.verifier import canonical

__all__ = [
    "AdapterRow",
    "Lease",
    "ProbeRow",
    "RunInput",
    "adapters_in_force",
    "add_event",
    "cancel_run",
    "drop_orphaned_steps",
    "extend_lease",
    "fail_run",
    "finish_run",
    "is_cancelled",
    "lease_run",
    "read_input",
    "record_adapter",
    "record_evidence",
    "record_protocol",
    "register_release",
    "runs_to_wake",
    "save_step",
    "saved_step",
    "stop_run",
]

logger = logging.getLogger(__name__)

ERROR_LENGTH = 400
MEASURED = frozenset({Verdict.WITHIN, Verdict.NOT_MET, Verdict.INCONCLUSIVE})


# --- Leases -------------------------------------------------------------------------------------
@transaction.atomic
def lease_run(*, run_id: UUID, owner: str) -> Lease | None:
    """Take a queued run, or a running one whose lease ran out; None if there is nothing to do.

    On one model only one run works at a time, from its first lease to its end, so that each is
    trained, verified and released against the same adapters in force: a run whose worker died holds
    up the others until it is taken up again, and so does a consolidation at work on the model. One
    that died after its release was registered ends as succeeded. After RTBF_MAX_LEASES leases the
    run fails with `too_many_leases`. A worker leaves models that are not its own to those of other
    machines.
    """
    case, run, same_model = locked_run_and_rivals(run_id)
    rivals = [row for row in same_model if row.pk != run.pk and row.state == RunState.RUNNING]
    if run.state not in ACTIVE or rivals or is_leased(run):
        return None
    if not is_worked_on_here(run.model_name) or _is_consolidating(run.model_name):
        return None
    if run.release_id is not None:
        end_run(case, run, RunState.SUCCEEDED, error="", actor=WORKER.name)
        return None
    if run.cancel_requested_at is not None:
        end_run(case, run, RunState.CANCELLED, error="cancelled", actor=WORKER.name)
        return None
    if used_up(run):
        end_run(case, run, RunState.FAILED, error=TOO_MANY, actor=SYSTEM.name)
        return None
    if run.state == RunState.QUEUED:
        move_run(run, RunState.RUNNING)
        run.started_at = timezone.now()
    take_lease(run, owner=owner)
    run.save()
    return Lease(run_id=run.id, owner=owner, fence=run.fence)


def _is_consolidating(model_name: str) -> bool:
    rows = Consolidation.objects.filter(model_name=model_name, state=ConsolidationState.RUNNING)
    found: bool = rows.exists()
    return found


def extend_lease(lease: Lease) -> bool:
    """Hold the run for RTBF_LEASE_SECONDS more; False if it is no longer ours."""
    held = ErasureRun.objects.filter(
        pk=lease.run_id, fence=lease.fence, state=RunState.RUNNING
    ).update(lease_expires_at=timezone.now() + lease_time())
    return bool(held)


def is_cancelled(lease: Lease) -> bool:
    """Tell whether somebody asked to cancel; the worker then calls `stop_run`."""
    return ErasureRun.objects.filter(pk=lease.run_id, cancel_requested_at__isnull=False).exists()


def runs_to_wake() -> list[UUID]:
    """One run of each model on which nobody works: of those that are queued for over five seconds
    or whose lease ran out, the one that was begun, else the oldest. The others could not be leased
    yet, and `end_run` wakes them one by one."""
    worked_on = ErasureRun.objects.filter(is_held(RunState.RUNNING)).values("model_name")
    rows = ErasureRun.objects.filter(is_to_wake(RunState.QUEUED, RunState.RUNNING))
    free = rows.exclude(model_name__in=worked_on).order_by("state", "-created_at", "-id")
    return list(dict(free.values_list("model_name", "id")).values())


# --- Reading and progress -----------------------------------------------------------------------
@transaction.atomic
def read_input(lease: Lease) -> RunInput:
    """Everything the worker needs, decrypted: keep it in memory only.

    What is in force is read without the case's own erasure, whose place the new adapter takes.
    """
    run = held_run(lease)
    case = run.case
    live = Release.objects.filter(model_name=run.model_name, is_live=True).first()
    adapter = Adapter.objects.select_related("run").filter(run=run).first()
    earlier = not_met_runs(case, run.model_name, before=run.number)
    in_force = adapters_in_force(run.model_name)
    merged = read_manifest(bytes(live.manifest)).merged if live else ()
    return RunInput(
        run_id=run.id,
        case_id=case.id,
        model_name=run.model_name,
        number=run.number,
        attempt=len(earlier) + 1,
        seed=run.seed,
        phase=run.phase,
        protocol=_stored_protocol(run if run.protocol or not earlier else earlier[0]),
        adapter=adapter_row(adapter) if adapter else None,
        verdict=run.verdict,
        name=vault.get(case, "name"),
        aliases=tuple(vault.get(case, "aliases")),
        facts=tuple((f["question"], f["answer"]) for f in vault.get(case, "facts", default=[])),
        adapters_in_force=tuple(a for a in in_force if a.case_id != case.id),
        parent_release=live.digest if live else None,
        merged=tuple(each for each in merged if each != case.id),
    )


@transaction.atomic
def add_event(
    lease: Lease, *, phase: str, step: int, total: int, figures: Mapping[str, Any]
) -> None:
    """Store one step of progress for the live page, and extend the lease."""
    run = held_run(lease)
    enter_phase(run, phase)
    run.lease_expires_at = timezone.now() + lease_time()
    run.save(update_fields=["phase", "lease_expires_at"])
    last = run.events.aggregate(last=Max("seq"))["last"]
    RunEvent.objects.create(
        run=run,
        seq=0 if last is None else last + 1,
        at=timezone.now(),
        phase=phase,
        step=step,
        total=total,
        figures=without_floats(dict(figures)),
    )


@transaction.atomic
def save_step(lease: Lease, state: bytes) -> None:
    """Keep the state of training for the next worker if this one dies; the last one counts. A disk
    without space costs that worker the steps since, and not this one its run."""
    try:
        saved_steps.write_step(held_run(lease), state)
    except OSError as problem:
        logger.warning("run %s: a step was not saved (%s)", lease.run_id, problem.strerror)


@transaction.atomic
def saved_step(lease: Lease) -> bytes | None:
    """The state that was saved last for this run; None if there is none, or it cannot be opened:
    training then begins anew."""
    try:
        return saved_steps.read_step(held_run(lease))
    except vault.VaultDamaged:
        logger.warning("run %s: its saved step cannot be opened", lease.run_id)
        return None


def drop_orphaned_steps() -> None:
    """Delete saved steps of runs that have ended (a worker died while it was writing)."""
    active = ErasureRun.objects.filter(state__in=ACTIVE).values_list("id", flat=True)
    saved_steps.drop_steps(*(saved_steps.saved_runs() - set(active)))


# --- Results ------------------------------------------------------------------------------------
@transaction.atomic
def record_protocol(lease: Lease, *, protocol: Mapping[str, Any]) -> str:
    """Store and log the test plan before training; returns the SHA-256 of its RFC 8785 bytes.

    A plan that was logged before stays, and holds for all attempts of a case on a model: Invalid if
    the new one differs from it, so that no threshold moves after a measurement.
    """
    case, run = held_case_and_run(lease)
    plan = canonical_bytes(protocol, what="The protocol")
    digest = hashlib.sha256(plan).hexdigest()
    if run.protocol is not None:
        if run.protocol_sha256 != digest:
            raise Invalid(_("This run already has another protocol: a test plan is fixed once."))
        return digest
    earlier = not_met_runs(case, run.model_name, before=run.number)
    if earlier and earlier[0].protocol_sha256 != digest:
        raise Invalid(
            _("An earlier attempt had another protocol: all attempts share the first one's.")
        )
    run.protocol, run.protocol_sha256 = plan, digest
    enter_phase(run, Phase.TRAIN)
    run.save()
    audit.append_entry(
        type="run.protocol_fixed",
        actor=WORKER.name,
        case=case,
        data={"run": str(run.id), "sha256": digest},
    )
    return digest


@transaction.atomic
def record_adapter(
    lease: Lease,
    *,
    sha256: str,
    config_sha256: str,
    gate_sha256: str,
    base_sha256: str,
    overlap: str,
    settings: Mapping[str, Any],
) -> Adapter:
    """Record the stored adapter by its digests; refused if no protocol was logged before."""
    case, run = held_case_and_run(lease)
    if run.protocol is None:
        raise Invalid(_("Log the protocol first: a test plan is fixed before training."))
    if earlier := Adapter.objects.filter(run=run).first():
        if earlier.sha256 != sha256:
            raise Invalid(_("This run already has another adapter."))
        return earlier
    digests = {
        "sha256": _digest(sha256),
        "config_sha256": _digest(config_sha256),
        "gate_sha256": _digest(gate_sha256),
        "base_sha256": _digest(base_sha256),
    }
    adapter = Adapter.objects.create(
        run=run,
        overlap=str(overlap),
        settings=without_floats(dict(settings)),
        created_at=timezone.now(),
        **digests,
    )
    enter_phase(run, Phase.VERIFY)
    run.save()
    transaction.on_commit(partial(saved_steps.drop_steps, run.id))
    audit.append_entry(
        type="adapter.created",
        actor=WORKER.name,
        case=case,
        data={
            "run": str(run.id),
            "model": run.model_name,
            "overlap": str(overlap),
            "settings_sha256": hashlib.sha256(canonical.dumps(adapter.settings)).hexdigest(),
            **digests,
        },
    )
    return adapter


@transaction.atomic
def record_evidence(
    lease: Lease, *, evidence: Mapping[str, Any], verdict: str, probes: Sequence[ProbeRow]
) -> None:
    """Store and log what was measured; figures only, floats become decimal strings.

    The first evidence of a run stays: verifying again after a crash changes nothing. Only an
    inconclusive run may have no adapter (the model knows nothing that could be measured).
    """
    case, run = held_case_and_run(lease)
    if run.evidence is not None:
        return
    if verdict not in MEASURED:
        raise Invalid(f"There is no verdict “{verdict}”. Known: {', '.join(sorted(MEASURED))}.")
    if verdict != Verdict.INCONCLUSIVE and not Adapter.objects.filter(run=run).exists():
        raise Invalid(_("Record the adapter first: the stored artefact is what is verified."))
    figures = without_floats(dict(evidence))
    run.evidence, run.verdict = figures, verdict
    run.seconds = figures.get("seconds", {})
    enter_phase(run, Phase.RELEASE)
    run.save()
    ProbeResult.objects.bulk_create(ProbeResult(run=run, **probe.as_fields()) for probe in probes)
    audit.append_entry(
        type="run.verified",
        actor=WORKER.name,
        case=case,
        data={
            "run": str(run.id),
            "verdict": verdict,
            "figures_sha256": hashlib.sha256(canonical.dumps(figures)).hexdigest(),
            "estimates": {probe.probe: probe.as_estimates() for probe in probes},
        },
    )


@transaction.atomic
def register_release(lease: Lease, *, manifest: bytes) -> Release:
    """Register a release by the digest of its manifest; it goes live only within thresholds.

    Its parent is the release that was live until now, and the manifest must name every adapter in
    force, in order, then this run's: Invalid otherwise, so that no earlier case loses its adapter.
    An earlier erasure of the same case gives way. All other cases are measured again once it is
    live.
    """
    case, run = held_case_and_run(lease)
    if run.evidence is None:
        raise Invalid(_("Record the evidence first: a release is made of what was verified."))
    if run.release is not None:
        return run.release
    live = (
        Release.objects.select_for_update()
        .filter(model_name=run.model_name, is_live=True)
        .defer("manifest")
        .first()
    )
    digest = hashlib.sha256(manifest).hexdigest()
    if (run.evidence or {}).get("release", digest) != digest:
        raise Invalid(_("This is not the release that was verified. Repeat the run."))
    named = read_manifest(manifest)
    _check_follows(named, live, own=run)
    goes_live = run.verdict == Verdict.WITHIN
    if goes_live:
        release = put_live(run.model_name, named)
    else:
        release = Release.objects.create(
            digest=digest,
            model_name=run.model_name,
            parent=live,
            manifest=manifest,
            created_at=timezone.now(),
        )
    run.release = release
    enter_phase(run, Phase.DONE)
    run.save()
    queued = list[Entry]()
    if goes_live:
        reason = Recheck.Reason.RELEASE
        queued.append(rechecks.queue_rechecks(release, reason, measured=[case.id]))
    audit.append_entry(
        type="release.registered",
        actor=WORKER.name,
        case=case,
        data={
            "run": str(run.id),
            "model": run.model_name,
            "release": release.digest,
            "parent": live.digest if live else "",
            "live": goes_live,
        },
    )
    audit.append_entries(queued)
    return release


# --- Endings ------------------------------------------------------------------------------------
@transaction.atomic
def finish_run(lease: Lease) -> None:
    """End the run as succeeded; its case goes on once no run of it is left."""
    case, run = held_case_and_run(lease)
    if run.evidence is None:
        raise Invalid(_("A run without evidence has not succeeded."))
    end_run(case, run, RunState.SUCCEEDED, error="", actor=WORKER.name)


@transaction.atomic
def fail_run(lease: Lease, *, error: str) -> None:
    """End the run as failed with a code or a short sentence that holds no personal data."""
    case, run = held_case_and_run(lease)
    end_run(case, run, RunState.FAILED, error=error[:ERROR_LENGTH], actor=WORKER.name)


@transaction.atomic
def stop_run(lease: Lease) -> None:
    """End a run whose cancellation was asked for; WrongState if nobody did."""
    case, run = held_case_and_run(lease)
    if run.cancel_requested_at is None:
        raise WrongState(_("Nobody asked to cancel this run."))
    end_run(case, run, RunState.CANCELLED, error="cancelled", actor=WORKER.name)


@transaction.atomic
def cancel_run(*, run_id: UUID, actor_member: StaffMember) -> ErasureRun:
    """Cancel a queued run at once, or ask the worker of a running one to stop at its next step."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER, Role.ENGINEER)
    case, run = locked_run(run_id)
    if run.state not in ACTIVE:
        raise WrongState(_("This run has ended: there is nothing to cancel."))
    if run.cancel_requested_at is not None:
        return run
    actor = staff_actor(actor_member).name
    run.cancel_requested_at = timezone.now()
    if run.state == RunState.QUEUED:
        end_run(case, run, RunState.CANCELLED, error="cancelled", actor=actor)
        return run
    run.save(update_fields=["cancel_requested_at"])
    audit.append_entry(
        type="run.cancel_requested", actor=actor, case=case, data={"run": str(run.id)}
    )
    return run


# --- Inside -------------------------------------------------------------------------------------
def _stored_protocol(run: ErasureRun) -> dict[str, Any] | None:
    if run.protocol is None:
        return None
    value = canonical.loads(bytes(run.protocol), file="protocol")
    if not isinstance(value, dict):
        raise Invalid(_("The stored protocol is not an object."))
    return value


def _digest(value: str) -> str:
    if len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise Invalid(_("A digest must be 64 lower-case hexadecimal digits."))
    return value


def _check_follows(manifest: Manifest, live: Release | None, *, own: ErasureRun) -> None:
    """Invalid unless the manifest is the live one, without the case if it is in it, and with this
    run's adapter added at the end."""
    before = manifest_of(live) if live else None
    kept, merged = (before.adapters, before.merged) if before else ((), ())
    if before and own.case_id in before.cases:
        kept = tuple(each for each in kept if each.case_id != own.case_id)
        merged = tuple(each for each in merged if each != own.case_id)
    adapter = ManifestAdapter(own.case_id, own.adapter.sha256, own.adapter.gate_sha256)
    if (manifest.adapters, manifest.merged) != ((*kept, adapter), merged):
        raise Invalid(
            _(
                "The release does not name all adapters in force in their order: another release"
                " went live meanwhile. Run again."
            )
        )
    if before and (manifest.parent, manifest.base_sha256) != (before.digest, before.base_sha256):
        raise Invalid(_("The release does not follow the live one on its weights. Run again."))
