"""Erasure runs: live progress, log, and the releases in service."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from requests_app import charts, selectors
from requests_app.lifecycle import CaseStatus
from requests_app.models import Adapter, Case, Release
from requests_app.permissions import CANCEL, DECIDE, member, staff_page
from requests_app.services import runs as run_services
from requests_app.services.cases import why_not_repeat
from requests_app.services.manifests import read_manifest
from requests_app.services.rechecks import next_due
from requests_app.services.run_rows import adapters_in_force
from requests_app.views.common import refusals_in_words
from requests_app.views.run_progress import Progress, line_of, progress_of
from requests_app.views.run_settings import attempt_of, attempts_beside, settings_of

LEAST_KEPT = 0.98
"""Of the accuracy about others, as a run's own threshold has it."""
MATRIX_CASES = 100


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


def _charts(model_name: str) -> dict[str, Any]:
    """What the releases of a model cost everybody else, and what is told again, in figures."""
    steps = selectors.utility_trend(model_name)
    points = [
        charts.Point(step.number, _number(step.kept), lower=_number(step.kept_bound))
        for step in steps
    ]
    again = selectors.told_by_release(model_name)
    count = len(again.cases)
    return {
        "trend": steps,
        "trend_chart": charts.trend(points, LEAST_KEPT) if steps else None,
        "told_chart": charts.matrix(
            range(1, count + 1), again.releases, again.told, limits=again.limits
        )
        if 0 < count <= MATRIX_CASES
        else None,
    }


def _number(figure: str) -> float | None:
    """A decimal string of the record as a number; None where nothing was measured."""
    return float(figure) if figure else None


def _in_force(model_name: str) -> dict[str, Any]:
    """The adapters in force that a run made, and the cases that share one which none made."""
    rows = adapters_in_force(model_name)
    own = Adapter.objects.filter(sha256__in=[row.sha256 for row in rows])
    made = set(own.values_list("sha256", flat=True))
    shared = [row.case_id for row in rows if row.sha256 not in made]
    return {
        "adapters": own.select_related("run__case").order_by("created_at"),
        "sharing": Case.objects.filter(pk__in=shared).order_by("reference"),
    }


@staff_page("releases")
@require_GET
def releases(request: HttpRequest) -> HttpResponse:
    """What is live for each model, and which adapters are in force, by digest."""
    live = [
        {
            "release": release,
            **_in_force(release.model_name),
            "merged": Case.objects.filter(
                pk__in=read_manifest(bytes(release.manifest)).merged
            ).order_by("reference"),
            "rechecks": selectors.recheck_state(release),
            "next_due": next_due(release),
            **_charts(release.model_name),
        }
        for release in Release.objects.filter(is_live=True).order_by("model_name")
    ]
    earlier = Release.objects.filter(is_live=False).order_by("-created_at")[:50]
    return render(request, "staff/releases.html", {"live": live, "earlier": earlier})
