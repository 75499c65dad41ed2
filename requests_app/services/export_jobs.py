"""Exports of the whole record: asked for by staff, made by a leased job, kept for a week.

The row is the truth. A job that was killed is taken up again from the start: its half-written file
is never the finished one, which takes its place only under the lease that wrote it.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import SYSTEM, WORKER, Actor, staff_actor
from requests_app.lifecycle import ExportState, move_export
from requests_app.models import ExportJob, Release, StaffMember
from requests_app.models.exports import Level
from requests_app.models.people import Role
from requests_app.services import wake
from requests_app.services.errors import Invalid, LeaseLost, NotFound
from requests_app.services.leases import (
    TOO_MANY,
    drop_lease,
    is_leased,
    is_to_wake,
    lease_time,
    take_lease,
    used_up,
)
from requests_app.services.locking import require_role

EXPORT_TASK = "requests_app.make_export"
EXPORTERS = (Role.OFFICER, Role.APPROVER, Role.AUDITOR)
ACTIVE = (ExportState.QUEUED, ExportState.RUNNING)
KEPT = timedelta(days=7)
NAME = re.compile(r"[a-z0-9_]{1,48}")


@dataclass(frozen=True)
class ExportLease:
    """The right to write one export until it expires or a higher fence is given out."""

    job_id: UUID
    owner: str
    fence: int


# --- Asking -------------------------------------------------------------------------------------
@transaction.atomic
def ask_export(
    *,
    export: str,
    level: str,
    first: date,
    last: date,
    actor_member: StaffMember,
    release: str | None = None,
) -> ExportJob:
    """Ask for an export of the record from `first` to `last`, or of the release of that digest.

    What the public gets covers whole months that have ended, so that two of them cannot be
    subtracted from one another down to a day. Raises Invalid, NotAllowed.
    """
    require_role(actor_member, *EXPORTERS)
    if not NAME.fullmatch(export) or level not in Level.values:
        raise Invalid(_("There is no such export or level."))
    _check_period(level, first, last)
    found = Release.objects.filter(pk=release).first() if release is not None else None
    if release is not None and found is None:
        raise Invalid(_("There is no release of that digest."))
    job = ExportJob.objects.create(
        export=export,
        level=level,
        first=first,
        last=last,
        release=found,
        asked_by=staff_actor(actor_member).name,
        created_at=timezone.now(),
    )
    audit.append_entry(
        type="export.requested",
        actor=job.asked_by,
        data={
            "job": str(job.id),
            "export": export,
            "level": level,
            "first": first.isoformat(),
            "last": last.isoformat(),
            "release": release,
        },
    )
    wake.send_after_commit(EXPORT_TASK, job.id)
    return job


def _check_period(level: str, first: date, last: date) -> None:
    today = timezone.localdate()
    if first > last:
        raise Invalid(_("The first day of the period lies after its last."))
    if last > today:
        raise Invalid(_("The period ends in the future."))
    whole = first.day == 1 and last.day == monthrange(last.year, last.month)[1]
    if level == Level.PUBLIC and not (whole and last < today):
        raise Invalid(_("For the public a period is made of whole months that have ended."))


# --- Making -------------------------------------------------------------------------------------
def exports_to_wake() -> list[UUID]:
    """Jobs that somebody should take up: queued and not picked up, or left by a killed worker."""
    rows = ExportJob.objects.filter(is_to_wake(ExportState.QUEUED, ExportState.RUNNING))
    return list(rows.order_by("created_at", "id").values_list("id", flat=True))


@transaction.atomic
def lease_export(*, job_id: UUID, owner: str) -> ExportLease | None:
    """Take a queued job, or a running one whose lease ran out; None if there is nothing to do.

    After RTBF_MAX_LEASES leases it fails.
    """
    job = _locked(job_id)
    if job.state not in ACTIVE or is_leased(job):
        return None
    if used_up(job):
        _fail(job, TOO_MANY)
        return None
    if job.state == ExportState.QUEUED:
        move_export(job, ExportState.RUNNING)
    job.done = 0  # from the start again
    take_lease(job, owner=owner)
    job.save()
    return ExportLease(job_id=job.id, owner=owner, fence=job.fence)


def report_rows(lease: ExportLease, *, done: int, total: int) -> None:
    """Say how many rows were read, and hold the job for RTBF_LEASE_SECONDS more. LeaseLost if it is
    no longer ours."""
    held = ExportJob.objects.filter(
        pk=lease.job_id, fence=lease.fence, state=ExportState.RUNNING
    ).update(done=done, total=total, lease_expires_at=timezone.now() + lease_time())
    if not held:
        raise LeaseLost(f"Export {lease.job_id} is no longer held under fence {lease.fence}.")


@transaction.atomic
def finish_export(lease: ExportLease, *, sha256: str, size: int) -> ExportJob:
    """Put the written file in its place and log its digest."""
    job = _held(lease)
    partial_file(lease).replace(file_of(job.id))
    move_export(job, ExportState.DONE)
    job.sha256, job.size, job.finished_at = sha256, size, timezone.now()
    job.done = job.total
    drop_lease(job)
    job.save()
    audit.append_entry(
        type="export.made",
        actor=WORKER.name,
        data={"job": str(job.id), "export": job.export, "sha256": sha256, "bytes": size},
    )
    return job


@transaction.atomic
def fail_export(lease: ExportLease, *, error: str) -> None:
    """End a job that cannot be made, with a code that holds no personal data."""
    _fail(_held(lease), error)


# --- The file -----------------------------------------------------------------------------------
def file_of(job_id: UUID) -> Path:
    """Where the finished file of a job lies; it is there from `finish_export` to its removal."""
    return _folder() / str(job_id)


def partial_file(lease: ExportLease) -> Path:
    """Where the file is written under this lease."""
    return _folder() / f"{lease.job_id}.{lease.fence}"


@transaction.atomic
def record_download(*, job_id: UUID, actor: Actor) -> Path:
    """Log who takes the file of a finished job away, and say where it is. NotFound without one."""
    job = _locked(job_id)
    if job.state != ExportState.DONE or job.removed_at is not None or not file_of(job_id).exists():
        raise NotFound(_("The file of this export is not there any more. Ask for it again."))
    audit.append_entry(
        type="export.downloaded",
        actor=actor.name,
        data={"job": str(job.id), "export": job.export, "sha256": job.sha256},
    )
    return file_of(job_id)


def remove_old_exports() -> int:
    """Remove files a week after they were made, and what killed workers left; returns how many jobs
    lost their file."""
    old = ExportJob.objects.filter(
        state=ExportState.DONE, removed_at=None, finished_at__lt=timezone.now() - KEPT
    )
    ids = list(old.values_list("id", flat=True))
    for job_id in ids:
        _remove(job_id)
    found = list(
        _folder().iterdir()
    )  # before the rows: what is written from now on is not looked at
    running = list(ExportJob.objects.filter(state=ExportState.RUNNING))
    kept = ExportJob.objects.filter(state=ExportState.DONE, removed_at=None)
    wanted = {str(job_id) for job_id in kept.values_list("id", flat=True)}
    wanted |= {name for job in running for name in (str(job.id), f"{job.id}.{job.fence}")}
    for path in found:
        if path.name not in wanted:
            path.unlink(missing_ok=True)
    return len(ids)


@transaction.atomic
def _remove(job_id: UUID) -> None:
    job = _locked(job_id)
    job.removed_at = timezone.now()
    job.save(update_fields=["removed_at"])
    audit.append_entry(
        type="export.removed",
        actor=SYSTEM.name,
        data={"job": str(job.id), "export": job.export, "sha256": job.sha256},
    )


def _folder() -> Path:
    folder = Path(settings.RTBF_VAR_DIR) / "exports"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


# --- Inside -------------------------------------------------------------------------------------
def _locked(job_id: UUID) -> ExportJob:
    job = ExportJob.objects.select_for_update().filter(pk=job_id).first()
    if job is None:
        raise NotFound(_("There is no such export."))
    return job


def _held(lease: ExportLease) -> ExportJob:
    job = _locked(lease.job_id)
    if job.fence != lease.fence or job.state != ExportState.RUNNING:
        raise LeaseLost(f"Export {job.id} is no longer held under fence {lease.fence}.")
    return job


def _fail(job: ExportJob, error: str) -> None:
    move_export(job, ExportState.FAILED)
    job.error, job.finished_at = error, timezone.now()
    drop_lease(job)
    job.save()
    audit.append_entry(
        type="export.failed",
        actor=WORKER.name,
        data={"job": str(job.id), "export": job.export, "error": error},
    )
