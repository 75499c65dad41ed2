"""Rechecks: cases in force measured again, on each later release and on schedule.

Up to RTBF_RECHECK_CAP cases all of them; beyond it the newest twenty and a sample of the others,
drawn with a seed that the log holds. Each is measured by the test plan of its own run, so that no
threshold moves. A case that no longer holds is reopened. One more row of each occasion stands for
the release as a whole: what it costs everybody else, against the original model.

The rows are the truth: a worker leases each by itself; what a killed one left is taken up again.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Max
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import SYSTEM, WORKER
from requests_app.audit import Entry
from requests_app.lifecycle import CaseStatus, RecheckState, RunState, move_recheck
from requests_app.models import AuditEntry, Case, ErasureRun, Recheck, Release
from requests_app.models.runs import Verdict
from requests_app.services import wake
from requests_app.services.errors import Invalid, LeaseLost, NotFound
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
from requests_app.services.locking import advance, lock_case
from requests_app.services.manifests import Manifest, destroyed_key, read_manifest
from requests_app.services.run_rows import fell_back, not_met_runs
from requests_app.services.run_values import without_floats
from requests_app.verifier import canonical

RECHECK_TASK = "workers.recheck"
ACTIVE = (RecheckState.QUEUED, RecheckState.RUNNING)
REOPENED_FROM = (CaseStatus.RESPONDING, CaseStatus.COMPLETED)
MEASURED = frozenset({Verdict.WITHIN, Verdict.NOT_MET, Verdict.INCONCLUSIVE})
NEWEST = 20
SEED_LIMIT = 2**31
WHY_LENGTH = 200
Drawn = TypeVar("Drawn")
SEALED = "the case is sealed: its data is gone"
SUPERSEDED = "another release went live before this was measured"


@dataclass(frozen=True)
class RecheckLease:
    """The right to measure one row until it expires or a higher fence is given out."""

    recheck_id: UUID
    owner: str
    fence: int


@dataclass(frozen=True)
class RecheckInput:
    """What the worker needs for one row. The personal part never shows in a repr or traceback.

    Without a case (`case_id` None) the release as a whole is to be measured. `facts` is None once
    the case is sealed. `trained_on` are the weights that the case was erased from first, `original`
    those that the model was first released on; of both `destroyed` tells which are gone for good.
    """

    recheck_id: UUID
    case_id: UUID | None
    model_name: str
    release: str
    manifest: bytes = field(repr=False)
    base_sha256: str
    original: str
    trained_on: str
    destroyed: frozenset[str]
    protocol: Mapping[str, Any] | None
    attempt: int  # of the run, by whose wordings it was judged
    name: str = field(repr=False)
    aliases: tuple[str, ...] = field(repr=False)
    facts: tuple[tuple[str, str], ...] | None = field(repr=False)


# --- Queueing -----------------------------------------------------------------------------------
def queue_rechecks(
    release: Release, reason: Recheck.Reason, *, measured: Collection[UUID] = ()
) -> Entry:
    """Queue the cases of a live release, and the release itself, to be measured. In the caller's
    transaction, which holds the release locked and logs what is returned, last.

    Cases in `measured` were measured on this very release to put it live, and are left out.
    """
    manifest = read_manifest(bytes(release.manifest))
    due = [each for each in _runs_in_force(release, manifest) if each[0] not in measured]
    seed = secrets.randbelow(SEED_LIMIT)
    chosen = draw(due, seed=seed)
    last = release.rechecks.aggregate(last=Max("occasion"))["last"]
    common: dict[str, Any] = {
        "release": release,
        "occasion": 1 if last is None else last + 1,
        "reason": reason,
        "seed": seed,
        "created_at": timezone.now(),
    }
    rows = [Recheck(run_id=run_id, case_id=case_id, **common) for case_id, run_id in chosen]
    rows.append(Recheck(**common))
    Recheck.objects.bulk_create(rows)
    wake.send_after_commit(RECHECK_TASK, rows[0].id, queue="model")
    data = {
        "model": release.model_name,
        "release": release.digest,
        "occasion": common["occasion"],
        "reason": reason.value,
        "cases": len(chosen),
        "of": len(manifest.cases.difference(measured)),
        "seed": seed,
    }
    return Entry("release.rechecks_queued", SYSTEM.name, data)


def draw(runs: Sequence[Drawn], *, seed: int) -> list[Drawn]:
    """Those of `runs`, oldest first, that are measured: all up to RTBF_RECHECK_CAP, else the newest
    twenty and as many of the others, drawn by `seed`, as the cap leaves."""
    cap = int(settings.RTBF_RECHECK_CAP)
    if len(runs) <= cap:
        return list(runs)
    split = len(runs) - min(NEWEST, cap)
    places = random.Random(seed).sample(range(split), cap - (len(runs) - split))  # noqa: S311
    return [runs[place] for place in sorted(places)] + list(runs[split:])


def queue_due_rechecks() -> int:
    """Queue the cases of each live release whose last occasion lies RTBF_RECHECK_DAYS back; returns
    how many releases."""
    live = Release.objects.filter(is_live=True).order_by("model_name")
    return sum(_queue_if_due(digest) for digest in live.values_list("digest", flat=True))


@transaction.atomic
def _queue_if_due(digest: str) -> bool:
    release = Release.objects.select_for_update().filter(pk=digest, is_live=True).first()
    if release is None or release.rechecks.filter(state__in=ACTIVE).exists():
        return False
    due = next_due(release)
    if due is not None and due > timezone.now():
        return False
    audit.append_entries([queue_rechecks(release, Recheck.Reason.SCHEDULE)])
    return True


def next_due(release: Release) -> datetime | None:
    """When the cases of a live release are measured next; None if they never were: at once."""
    last = release.rechecks.aggregate(last=Max("created_at"))["last"]
    return None if last is None else last + timedelta(days=int(settings.RTBF_RECHECK_DAYS))


def rechecks_to_wake() -> list[UUID]:
    """One row of each live release that has some that somebody should take up."""
    waiting = is_to_wake(RecheckState.QUEUED, RecheckState.RUNNING)
    rows = Recheck.objects.filter(waiting, release__is_live=True)
    found = rows.order_by("-created_at", "-id").values_list("release_id", "id")
    return sorted(dict(found).values())


def end_superseded() -> None:
    """End the rows of releases that are not live any more: what follows is measured instead."""
    stale = Recheck.objects.filter(state__in=ACTIVE, release__is_live=False)
    for digest in stale.order_by("release_id").values_list("release_id", flat=True).distinct():
        _end_superseded(digest)


@transaction.atomic
def _end_superseded(digest: str) -> None:
    rows = Recheck.objects.select_for_update().filter(release_id=digest, state__in=ACTIVE)
    ended = [row for row in rows.order_by("id") if not is_leased(row)]
    if not ended or Release.objects.filter(pk=digest, is_live=True).exists():
        return
    for row in ended:
        _close(row, RecheckState.FAILED, verdict="", figures={}, why=SUPERSEDED)
    _log_superseded(ended)


# --- Leases -------------------------------------------------------------------------------------
def rows_to_measure(recheck_id: UUID) -> list[UUID]:
    """All unfinished rows of the release that this row is of; cases first, then the release."""
    release = Recheck.objects.filter(pk=recheck_id).values_list("release_id", flat=True).first()
    rows = Recheck.objects.filter(release_id=release, state__in=ACTIVE)
    ordered = rows.order_by(F("case_id").asc(nulls_last=True), "occasion")
    return list(ordered.values_list("id", flat=True))


@transaction.atomic
def lease_recheck(*, recheck_id: UUID, owner: str) -> RecheckLease | None:
    """Take a queued row of a live release, or a running one whose lease ran out; None if there is
    nothing to do.

    An erasure that waits for the same model goes first: somebody's deadline runs. After
    RTBF_MAX_LEASES leases the row ends as inconclusive.
    """
    case, row = _locked(recheck_id)
    model_name = row.release.model_name
    waiting = ErasureRun.objects.filter(model_name=model_name, state=RunState.QUEUED).exists()
    if row.state not in ACTIVE or is_leased(row) or not row.release.is_live or waiting:
        return None
    if not is_worked_on_here(model_name):
        return None
    if used_up(row):
        _end(case, row, RecheckState.FAILED, verdict=Verdict.INCONCLUSIVE, why=TOO_MANY)
        return None
    if row.state == RecheckState.QUEUED:
        move_recheck(row, RecheckState.RUNNING)
    take_lease(row, owner=owner)
    row.save()
    return RecheckLease(recheck_id=row.id, owner=owner, fence=row.fence)


def extend_lease(lease: RecheckLease) -> bool:
    """Hold the row for RTBF_LEASE_SECONDS more; False if it is no longer ours."""
    held = Recheck.objects.filter(
        pk=lease.recheck_id, fence=lease.fence, state=RecheckState.RUNNING
    ).update(lease_expires_at=timezone.now() + lease_time())
    return bool(held)


@transaction.atomic
def read_recheck_input(lease: RecheckLease) -> RecheckInput:
    """Everything the worker needs, decrypted: keep it in memory only."""
    case, row = _held(lease)
    release = row.release
    manifest = read_manifest(bytes(release.manifest))
    first = Release.objects.filter(model_name=release.model_name).order_by("created_at").first()
    original = read_manifest(bytes((first or release).manifest)).base_sha256
    trained_on = row.run.adapter.base_sha256 if row.run is not None else manifest.base_sha256
    name, aliases, facts = _personal(case)
    return RecheckInput(
        recheck_id=row.id,
        case_id=row.case_id,
        model_name=release.model_name,
        release=release.digest,
        manifest=manifest.raw,
        base_sha256=manifest.base_sha256,
        original=original,
        trained_on=trained_on,
        destroyed=frozenset(each for each in (original, trained_on) if _is_destroyed(each)),
        protocol=_protocol_of(row.run),
        attempt=_attempt_of(row.run),
        name=name,
        aliases=aliases,
        facts=facts,
    )


# --- Results ------------------------------------------------------------------------------------
@transaction.atomic
def record_recheck(
    lease: RecheckLease, *, figures: Mapping[str, Any], verdict: str = "", why: str = ""
) -> Recheck:
    """Store and log what was measured: of a case with a verdict, of the release as a whole without.

    Figures are numbers alone; floats become decimal strings. A case that was within its thresholds
    until now and is not any more goes back to the evidence review, unless it is sealed. Nothing
    counts that was measured on a release which is not live any more.
    """
    case, row = _held(lease)
    if (verdict not in MEASURED) if case else verdict:
        raise Invalid(f"“{verdict}” is no verdict of this recheck.")
    figures = without_floats(dict(figures))
    if not row.release.is_live:
        _close(row, RecheckState.FAILED, verdict="", figures={}, why=SUPERSEDED)
        _log_superseded([row])
        return row
    _end(case, row, RecheckState.DONE, verdict=verdict, figures=figures, why=why)
    return row


@transaction.atomic
def fail_recheck(lease: RecheckLease, *, error: str) -> None:
    """End a row that could not be measured, with a short sentence that holds no personal data: an
    error is inconclusive. Nothing counts of a release which is not live any more."""
    case, row = _held(lease)
    if not row.release.is_live:
        _close(row, RecheckState.FAILED, verdict="", figures={}, why=SUPERSEDED)
        _log_superseded([row])
        return
    verdict = Verdict.INCONCLUSIVE if case else Verdict.NONE
    _end(case, row, RecheckState.FAILED, verdict=verdict, why=error)


# --- Inside -------------------------------------------------------------------------------------
def _end(
    case: Case | None,
    row: Recheck,
    to: RecheckState,
    *,
    verdict: str,
    why: str,
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Close a locked row, log it, and reopen its locked case if it fell back with this row."""
    had_fallen = row.run is not None and fell_back(row.run)
    _close(row, to, verdict=verdict, figures=figures or {}, why=why)
    data: dict[str, Any] = {
        "recheck": str(row.id),
        "model": row.release.model_name,
        "release": row.release_id,
        "occasion": row.occasion,
        "reason": row.reason,
        "why": row.why,
        "figures_sha256": hashlib.sha256(canonical.dumps(row.figures)).hexdigest(),
    }
    if case is None:
        audit.append_entry(type="release.rechecked", actor=WORKER.name, data=data)
        return
    data |= {"run": str(row.run_id), "verdict": verdict}
    falls = verdict == Verdict.NOT_MET and not had_fallen and case.status in REOPENED_FROM
    if falls:
        advance(case, CaseStatus.EVIDENCE_REVIEW)
        case.save()
    audit.append_entry(type="case.rechecked", actor=WORKER.name, case=case, data=data)
    if falls:
        kept = {key: data[key] for key in ("recheck", "run", "model", "release", "why")}
        audit.append_entry(type="case.reopened", actor=WORKER.name, case=case, data=kept)


def _close(
    row: Recheck, to: RecheckState, *, verdict: str, figures: Mapping[str, Any], why: str
) -> None:
    move_recheck(row, to)
    row.verdict, row.figures, row.why = verdict, dict(figures), why[:WHY_LENGTH]
    row.finished_at = timezone.now()
    drop_lease(row)
    row.save()


def _log_superseded(rows: Sequence[Recheck]) -> None:
    audit.append_entry(
        type="release.rechecks_superseded",
        actor=SYSTEM.name,
        data={
            "model": rows[0].release.model_name,
            "release": rows[0].release_id,
            "rechecks": len(rows),
        },
    )


def _locked(recheck_id: UUID) -> tuple[Case | None, Recheck]:
    found = Recheck.objects.filter(pk=recheck_id).values_list("case_id", flat=True)
    if not found:
        raise NotFound(_("There is no such recheck."))
    case = lock_case(found[0]) if found[0] is not None else None
    return case, Recheck.objects.select_for_update().get(pk=recheck_id)


def _held(lease: RecheckLease) -> tuple[Case | None, Recheck]:
    case, row = _locked(lease.recheck_id)
    if row.fence != lease.fence or row.state != RecheckState.RUNNING:
        raise LeaseLost(f"Recheck {row.id} is no longer held under fence {lease.fence}.")
    return case, row


def _runs_in_force(release: Release, manifest: Manifest) -> list[tuple[UUID, UUID]]:
    """Each case of a manifest and its last run within thresholds, in the order of their releases.

    Of a run no more is read than that: there are as many as adapters in force."""
    runs = ErasureRun.objects.filter(
        model_name=release.model_name, verdict=Verdict.WITHIN, release__isnull=False
    )
    found = list(runs.order_by("release__created_at", "id").values_list("case_id", "id", "number"))
    last: dict[UUID, int] = {}
    for case_id, _run, number in found:
        last[case_id] = max(number, last.get(case_id, 0))
    return [
        (case_id, run_id)
        for case_id, run_id, number in found
        if number == last[case_id] and case_id in manifest.cases
    ]


def _personal(
    case: Case | None,
) -> tuple[str, tuple[str, ...], tuple[tuple[str, str], ...] | None]:
    if case is None:
        return "", (), None
    try:
        name, aliases = vault.get(case, "name"), tuple(vault.get(case, "aliases"))
        stored = vault.get(case, "facts", default=[])
    except vault.VaultSealed:
        return "", (), None
    return name, aliases, tuple((fact["question"], fact["answer"]) for fact in stored)


def _protocol_of(run: ErasureRun | None) -> Mapping[str, Any] | None:
    if run is None or run.protocol is None:
        return None
    value = canonical.loads(bytes(run.protocol), file="protocol")
    if not isinstance(value, dict):
        raise Invalid(_("The stored protocol is not an object."))
    return value


def _attempt_of(run: ErasureRun | None) -> int:
    return 1 if run is None else len(not_met_runs(run.case, run.model_name, before=run.number)) + 1


def _is_destroyed(sha256: str) -> bool:
    return AuditEntry.objects.filter(idem_key=destroyed_key(sha256)).exists()
