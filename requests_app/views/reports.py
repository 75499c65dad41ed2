"""Exports of the whole record and of releases: asking, progress, download."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from django.contrib import messages
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET, require_http_methods

from requests_app import exports
from requests_app.actors import staff_actor
from requests_app.models import ExportJob
from requests_app.models.exports import Level
from requests_app.permissions import fresh_log_in, is_post, member, staff_page
from requests_app.services import export_jobs
from requests_app.services.errors import Invalid
from requests_app.services.export_jobs import ACTIVE
from requests_app.views.common import actor_names, refusals_in_words
from requests_app.views.report_forms import JobForm, RecordExportForm, ReleaseExportForm, level_name

SHOWN = 50
PIECE = 64 * 1024  # bytes
WHY_FAILED = {
    "unknown_export": _("This installation has no such export."),
    "cannot_write": _("The file could not be written: see whether the disk is full."),
    "too_many_leases": _("It was tried several times and never ended. Ask for a shorter period."),
}


@staff_page("reports")
@fresh_log_in(when=is_post)
@require_http_methods(["GET", "POST"])
@refusals_in_words
def reports(request: HttpRequest) -> HttpResponse:
    """What can be exported of the record, a form for each kind, and the exports asked for."""
    asked = request.POST.get("of", "")
    of_record = RecordExportForm(
        request.POST if asked == exports.RECORD else None,
        initial={"first": date(timezone.localdate().year, 1, 1), "last": timezone.localdate()},
    )
    of_release = ReleaseExportForm(request.POST if asked == exports.RELEASE else None)
    form: JobForm = of_release if asked == exports.RELEASE else of_record
    if request.method == "POST" and form.is_valid() and _ask(request, form):
        messages.success(request, _("The export is being made. It appears below."))
        return redirect("reports")
    context = {"form": form, "of_record": of_record, "of_release": of_release, **_jobs()}
    return render(request, "staff/reports.html", context)


@staff_page("report_jobs")
@require_GET
def report_jobs(request: HttpRequest) -> HttpResponse:
    """The list of exports asked for, which the page polls while one of them is being made."""
    return render(request, "staff/report_jobs.html", _jobs())


@staff_page("report_file")
@require_GET
@refusals_in_words
def report_file(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """The file of a finished export; taking it is an entry of the log."""
    job = ExportJob.objects.filter(pk=job_id).first()
    if job is None or job.export not in exports.names(exports.RECORD, exports.RELEASE):
        raise Http404
    made = exports.load_job(job.export)
    path = export_jobs.record_download(job_id=job_id, actor=staff_actor(member(request)))
    of = f"{job.level}-{job.first}-{job.last}" if job.release_id is None else job.release_id[:12]
    # Under ASGI a synchronous file would be read into memory as a whole.
    pieces = _pieces(path) if isinstance(request, ASGIRequest) else path.open("rb")
    response = StreamingHttpResponse(pieces, content_type=made.CONTENT_TYPE)
    response.headers["Content-Length"] = str(job.size)
    name = f"{job.export}-{of}.{made.EXTENSION}"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return cast(HttpResponse, response)  # django-stubs: a sibling, not a subclass


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece


def _ask(request: HttpRequest, form: JobForm) -> bool:
    """Ask for what a valid form says; False with the reason in the form if that is refused."""
    try:
        export_jobs.ask_export(actor_member=member(request), **_wanted(form.cleaned_data))
    except Invalid as refused:
        form.add_error("last" if "last" in form.fields else "release", str(refused))
        return False
    return True


def _wanted(said: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ask_export`; a release has no period and one level."""
    if "release" not in said:
        return dict(said)
    today = timezone.localdate()
    return {
        "export": said["export"],
        "release": said["release"].digest,
        "level": Level.AUTHORITY,
        "first": today,
        "last": today,
    }


def _jobs() -> dict[str, Any]:
    """The latest exports asked for, for a page."""
    rows = list(ExportJob.objects.order_by("-created_at", "-id")[:SHOWN])
    names = actor_names(row.asked_by for row in rows)
    known = exports.names(exports.RECORD, exports.RELEASE)
    return {
        "jobs": [
            {
                "row": row,
                "title": exports.load_job(row.export).TITLE if row.export in known else row.export,
                "level": level_name(Level(row.level)),
                "asked_by": names[row.asked_by],
                "is_active": row.state in ACTIVE,
                "why": WHY_FAILED.get(row.error, row.error),
            }
            for row in rows
        ],
        "waiting": any(row.state in ACTIVE for row in rows),
        "kept_days": export_jobs.KEPT.days,
    }
