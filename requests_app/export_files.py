"""Writing the file of an export job, piece by piece, under its lease."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from uuid import UUID

from requests_app import exports, extract
from requests_app.models import ExportJob
from requests_app.services import export_jobs
from requests_app.services.errors import Invalid, LeaseLost
from requests_app.services.export_jobs import ExportLease

EVERY = 1.0
"""Seconds between two reports of progress: each is a write to the job's row."""


def make(job_id: UUID, *, owner: str) -> None:
    """Make the export that a job asks for, unless somebody else does or it is made.

    A lost lease ends it quietly: whoever has it now writes a file of its own.
    """
    lease = export_jobs.lease_export(job_id=job_id, owner=owner)
    if lease is None:
        return
    with suppress(LeaseLost):
        try:
            sha256, size = _write(lease)
        except (exports.UnknownExport, Invalid):
            export_jobs.fail_export(lease, error="unknown_export")
        except OSError:
            export_jobs.fail_export(lease, error="cannot_write")
        else:
            export_jobs.finish_export(lease, sha256=sha256, size=size)


def _write(lease: ExportLease) -> tuple[str, int]:
    """Digest and bytes of what was written."""
    job = ExportJob.objects.select_related("release").get(pk=lease.job_id)
    last_report = 0.0

    def watch(done: int, total: int) -> None:
        nonlocal last_report
        if done == total or time.monotonic() - last_report >= EVERY:
            export_jobs.report_rows(lease, done=done, total=total)
            last_report = time.monotonic()

    digest, size = hashlib.sha256(), 0
    render = exports.load_job(job.export).render
    with export_jobs.partial_file(lease).open("wb") as file:
        for piece in render(extract.gather(job, watch=watch)):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size
