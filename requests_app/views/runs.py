"""Erasure runs: live progress and log."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from requests_app.lifecycle import CaseStatus
from requests_app.permissions import CANCEL, DECIDE, member, staff_page
from requests_app.services import runs as run_services
from requests_app.services.cases import why_not_repeat
from requests_app.views.common import refusals_in_words
from requests_app.views.run_progress import Progress, line_of, progress_of
from requests_app.views.run_settings import attempt_of, attempts_beside, settings_of


@staff_page("run")
@require_GET
def run_page(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """One run: its steps, progress, settings, log, and the other attempts of its case."""
    progress = _find(run_id)
    run = progress.run
    role = member(request).role
    following = run.case.runs.filter(model_name=run.model_name, number__gt=run.number)
    is_reviewed = run.case.status == CaseStatus.EVIDENCE_REVIEW and not following.exists()
    context = {
        **progress.context(),
        "attempt": attempt_of(run),
        "may_cancel": role in CANCEL,
        "next_run": following.order_by("number").first(),
        "may_repeat": is_reviewed and role in DECIDE,
        "why_not_repeat": why_not_repeat(run) if is_reviewed else "",
        "settings": settings_of(run),
        "attempts": attempts_beside(run),
    }
    return render(request, "staff/run.html", context)


@staff_page("run_progress")
@require_GET
def run_progress(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The part of the run page that is polled; once the run has ended the whole page reloads."""
    context = _find(run_id).context()
    response = render(request, "staff/run_progress.html", context)
    if not context["active"]:
        response.headers["HX-Refresh"] = "true"
    return response


@staff_page("run_log")
@require_GET
def run_log(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Every event of a run as a text file, a line each."""
    progress = _find(run_id)
    lines = "".join(f"{line_of(event)}\n" for event in progress.events)
    response = HttpResponse(lines, content_type="text/plain; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="run-{run_id}.log"'
    return response


@staff_page("run_cancel")
@require_POST
@refusals_in_words
def cancel_run(request: HttpRequest, run_id: UUID) -> HttpResponse:
    run_services.cancel_run(run_id=run_id, actor_member=member(request))
    messages.success(request, _("Cancelling. The worker stops at its next step."))
    return redirect("run", run_id=run_id)


def _find(run_id: UUID) -> Progress:
    progress = progress_of(run_id)
    if progress is None:
        raise Http404
    return progress
