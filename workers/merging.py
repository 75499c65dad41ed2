"""Consolidations on the record: plan and log, train and measure, register, quarantine.

The command does all of it at once; an approved proposal (`requests_app.services.consolidations`) is
worked off by the task, under its lease and with its progress.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.db import Error as DatabaseProblem
from django.db import InterfaceError, OperationalError

from requests_app.services import consolidations, manifests, releases
from requests_app.services.consolidations import ConsolidationLease
from requests_app.services.errors import LeaseLost, ServiceError
from requests_app.services.releases import CaseFigures, CaseInForce
from requests_app.services.run_values import ProbeRow
from workers import shared_files, tasks
from workers.adapters import AdapterError, AdapterRef
from workers.base_models import BaseModel, ModelError, load_control
from workers.consolidation import (
    Consolidation,
    ConsolidationError,
    GatedCase,
    Plan,
    cluster,
    consolidate,
    plan,
    read_retained,
    registered_data,
)
from workers.erasure import never
from workers.releases import ReleaseError
from workers.results import probe_results
from workers.subjects import Fact, Subject, SubjectError, read_subject
from workers.training import Report, ShouldStop, Stopped
from workers.weights import load_served, quarantine, quarantined

if TYPE_CHECKING:
    from requests_app.models import Consolidation as Approved
    from requests_app.models import StaffMember

log = logging.getLogger(__name__)
SEED = 1
REFUSALS = (
    AdapterError,
    ConsolidationError,
    ModelError,
    ReleaseError,
    ServiceError,
    SubjectError,
)
Register = Callable[[Consolidation, Plan, str], None]
"""Puts a consolidation of a plan, by its digest, in force."""


@dataclass(frozen=True)
class Wanted:
    """What is to be consolidated: everything in force on a model, or of it one `cluster`, by
    references. `retained` is a file of rows, `subjects` a folder of subject files."""

    model: str
    retained: Path | None = None
    subjects: Path | None = None
    cluster: tuple[str, ...] = ()
    seed: int = SEED


# --- On approval --------------------------------------------------------------------------------
@shared_task(name=consolidations.CONSOLIDATION_TASK)
def consolidate_approved(consolidation_id: str) -> None:
    """Work off one approved consolidation if nobody else does; safe to call any number of times."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    lease = consolidations.lease_consolidation(consolidation_id=UUID(consolidation_id), owner=owner)
    if lease is None:
        return
    what = f"consolidation {consolidation_id}"
    # As in workers.tasks: what is written at the end is written outside the `except` blocks.
    ending: str | None = None
    try:
        with tasks.heartbeat(partial(consolidations.extend_lease, lease), what):
            work(lease)
        return
    except LeaseLost:
        log.warning("%s: another worker took over", what)
        return
    except (OperationalError, InterfaceError) as error:  # the sweep wakes it again
        log.error("%s interrupted: %s", what, type(error).__name__)
        return
    except Stopped:
        pass
    except REFUSALS as error:  # ours: they name cases by reference
        ending = str(error)
    except Exception as error:  # noqa: BLE001  (the text may quote somebody's data)
        ending = tasks.short_cause(error)
    log.error("%s: %s", what, ending or "stopped")
    try:
        if ending is None:
            consolidations.stop_consolidation(lease)
        else:
            consolidations.fail_consolidation(lease, error=ending)
    except (LeaseLost, DatabaseProblem) as problem:
        log.error("%s: its end was not written (%s)", what, type(problem).__name__)


def work(lease: ConsolidationLease) -> None:
    """The whole of it; of one whose release is in force, what is left. Raises LeaseLost, Stopped
    and the engine's errors."""
    row = consolidations.read_consolidation(lease)
    for cached in (tasks.weights, tasks.control_model):
        cached.cache_clear()  # two copies of a model may be more than there is room for
    if row.release is None:

        def put_in_force(done: Consolidation, fixed: Plan, digest: str) -> None:
            consolidations.register(lease, **registered(done, fixed, digest))

        def report(phase: str, step: int, total: int, _: Mapping[str, float]) -> None:
            consolidations.note_progress(lease, phase=phase, step=step, total=total)

        consolidated(
            Wanted(row.model_name),
            approver_of(row),
            register=put_in_force,
            report=report,
            should_stop=partial(consolidations.is_cancelled, lease),
        )
    else:
        put_away_again(row)
    consolidations.finish_consolidation(lease)


def approver_of(row: Approved) -> StaffMember:
    if row.approved_by is None:
        raise ConsolidationError("Nobody approved this consolidation.")
    return row.approved_by


def put_away_again(row: Approved) -> None:
    """Quarantine what the release in force replaced, where a worker died before it did."""
    replaced = manifests.read_manifest(bytes(row.parent.manifest)).base_sha256
    if replaced in quarantined(root(), row.model_name):
        note_quarantined(row.model_name, replaced, approver_of(row))
    else:
        put_away(row.model_name, load_served(row.model_name, replaced, root()), approver_of(row))


# --- The whole of it ----------------------------------------------------------------------------
def root() -> Path:
    return Path(settings.RTBF_RELEASE_DIR)


def consolidated(
    wanted: Wanted,
    member: StaffMember,
    *,
    register: Register,
    report: Report,
    should_stop: ShouldStop = never,
) -> dict[str, Any]:
    """Plan and log it, train and measure, `register`, quarantine the replaced weights."""
    model = wanted.model
    live, in_force = releases.cases_in_force(model)
    references = {str(each.case_id): each.reference for each in in_force}
    chosen = clustered(in_force, wanted.cluster) if wanted.cluster else in_force
    if live.merged and not wanted.cluster:
        raise ConsolidationError(
            f"{len(live.merged)} cases are merged into these weights already. They would have to be"
            " measured again on newer ones, which this version does not do."
        )
    cases = gated_cases(chosen, wanted.subjects)
    base, control = load_served(model, live.base_sha256, root()), load_control(model)
    refs = [AdapterRef(str(a.case_id), a.sha256, a.gate_sha256) for a in live.adapters]
    shared_files.fetch(refs)
    rows: Sequence[Fact | str] = ()
    if not wanted.cluster:
        rows = read_retained(wanted.retained) if wanted.retained else registered_data(base)
    try:
        fixed = plan(
            base,
            cases,
            retained=rows,
            control=control,
            level="gated" if wanted.cluster else "merged",
            seed=wanted.seed,
            report=report,
            should_stop=should_stop,
        )
        digest = releases.plan_consolidation(
            model_name=model, parent=live.digest, plan=fixed.record(), actor_member=member
        )
        common: dict[str, Any] = {
            "root": root(),
            "adapters_root": Path(settings.RTBF_ADAPTER_DIR),
            "gate_key": tasks.gate_key(),
            "control": control,
            "parent": live.digest,
            "report": report,
            "should_stop": should_stop,
        }
        if wanted.cluster:
            merged = [str(case_id) for case_id in live.merged]
            done = cluster(base, fixed, in_force=refs, merged=merged, **common)
        else:
            done = consolidate(base, fixed, **common)
    except ConsolidationError as error:
        raise ConsolidationError(with_references(str(error), references)) from None
    try:
        shared_files.put(done.release.adapters)
        register(done, fixed, digest)
    except BaseException:  # whatever it was: what is not in force must not lie about
        done.abandon()
        raise
    found = {
        "model": model,
        "release": done.release.sha256,
        "merged": [references.get(case_id, case_id) for case_id in done.merged],
        "gated": [references[ref.case_id] for ref in done.individual],
        "figures": {references[case_id]: found for case_id, found in done.figures.items()},
    }
    if wanted.cluster:
        return {**found, "cluster": sorted(each.reference for each in chosen)}
    moved = put_away(model, base, member)
    return {
        **found,
        "weights": done.base.sha256,
        "replaced": base.sha256,
        "replaced_weights": "quarantined" if moved else "left where they came from: not ours",
        "retained": fixed.record()["retained"],
    }


def registered(done: Consolidation, fixed: Plan, digest: str) -> dict[str, Any]:
    """What the record takes of a consolidation to put it in force."""
    return {
        "manifest": (root() / f"{done.release.sha256}.json").read_bytes(),
        "plan_sha256": digest,
        "retained": fixed.record()["retained"]["kind"],
        "cases": case_figures(done),
    }


def put_away(model: str, base: BaseModel, member: StaffMember) -> bool:
    """Quarantine replaced weights and log it; False if they are not ours to move."""
    moved = quarantine(root(), base)
    if moved:
        note_quarantined(model, base.sha256, member)
    return moved


def note_quarantined(model: str, sha256: str, member: StaffMember) -> None:
    releases.record_weights(
        model_name=model, sha256=sha256, what="quarantined", actor_member=member
    )


def clustered(in_force: tuple[CaseInForce, ...], named: Sequence[str]) -> tuple[CaseInForce, ...]:
    """The cases of these references. Raises ConsolidationError naming those not in force."""
    if unknown := sorted(set(named) - {each.reference for each in in_force}):
        raise ConsolidationError(
            f"No adapter of {', '.join(unknown)} is in force: name cases that are gated now."
        )
    return tuple(each for each in in_force if each.reference in named)


def gated_cases(in_force: tuple[CaseInForce, ...], subjects: Path | None) -> list[GatedCase]:
    """The cases in force with the persons' data. Raises ConsolidationError naming those without."""
    found, without = [], []
    for each in in_force:
        file = subjects / f"{each.reference}.json" if subjects else None
        if file is not None and file.is_file():
            subject = read_subject(file)
        elif each.facts is not None:
            subject = Subject(each.name, each.aliases, tuple(Fact(q, a) for q, a in each.facts))
        else:
            without.append(each.reference)
            continue
        ref = AdapterRef(str(each.case_id), each.adapter.sha256, each.adapter.gate_sha256)
        found.append(GatedCase(ref, subject))
    if without:
        raise ConsolidationError(
            f"The data of {', '.join(without)} is gone, so these cases can be neither carried nor"
            " measured on new weights; all cases stay as they are. If it is still held elsewhere,"
            " give --subjects with a file <reference>.json for each."
        )
    return found


def case_figures(done: Consolidation) -> dict[UUID, CaseFigures]:
    """What was measured of each case, as the record takes it."""
    return {
        UUID(case_id): CaseFigures(
            verdict=figures["verdict"],
            probes=tuple(ProbeRow(**row) for row in probe_results(figures)),
        )
        for case_id, figures in done.figures.items()
    }


def with_references(text: str, references: Mapping[str, str]) -> str:
    """The message with the cases' references in the place of their ids."""
    for case_id, reference in references.items():
        text = text.replace(case_id, reference)
    return text
