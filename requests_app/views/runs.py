"""Erasure runs: live progress, evidence, and the releases in service."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from requests_app import charts, selectors
from requests_app.lifecycle import RunState
from requests_app.models import Adapter, Case, ErasureRun, ProbeResult, Release
from requests_app.models.runs import Phase
from requests_app.permissions import CANCEL, member, staff_page
from requests_app.services import runs as run_services
from requests_app.services.manifests import level_of, read_manifest
from requests_app.services.rechecks import next_due
from requests_app.services.run_rows import adapters_in_force, not_met_runs
from requests_app.views.common import refusals_in_words

ACTIVE = (RunState.QUEUED, RunState.RUNNING)
EVENTS_SHOWN = 30
LEAST_KEPT = 0.98
"""Of the accuracy about others, as a run's own threshold has it."""
MATRIX_CASES = 100


@staff_page("run")
@require_GET
def run_page(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """One run: its steps, progress and settings."""
    context = _progress(run_id)
    run = context["run"]
    earlier = not_met_runs(run.case, run.model_name, before=run.number)
    following = run.case.runs.filter(model_name=run.model_name, number__gt=run.number)
    context["may_cancel"] = member(request).role in CANCEL
    context["attempt"] = len(earlier) + 1
    context["next_run"] = following.order_by("number").first()
    return render(request, "staff/run.html", context)


@staff_page("run_progress")
@require_GET
def run_progress(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The part of the run page that is polled; once the run has ended the whole page reloads."""
    context = _progress(run_id)
    response = render(request, "staff/run_progress.html", context)
    if not context["active"]:
        response.headers["HX-Refresh"] = "true"
    return response


@staff_page("run_cancel")
@require_POST
@refusals_in_words
def cancel_run(request: HttpRequest, run_id: UUID) -> HttpResponse:
    run_services.cancel_run(run_id=run_id, actor_member=member(request))
    messages.success(request, "Cancelling. The worker stops at its next step.")
    return redirect("run", run_id=run_id)


@staff_page("run_evidence")
@require_GET
def evidence(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Before, after, control, bound and threshold of each probe; the verdict in words; digests."""
    run = _find(run_id)
    probes = list(run.probe_results.order_by("id"))
    losses = selectors.item_losses(run)
    context = {
        "run": run,
        "case": run.case,
        "probes": probes,
        "chart": _chart(probes),
        "highlights": _highlights(probes),
        "losses": charts.distribution(losses) if losses else None,
        "reasons": (run.evidence or {}).get("reasons", []),
        "adapter": getattr(run, "adapter", None),
        "level": level_of(run.case_id, run.model_name) or "not in force",
        "protocol": _pretty(run.protocol),
        "figures": _pretty(run.evidence),
    }
    return render(request, "staff/evidence.html", context)


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


def _find(run_id: UUID) -> ErasureRun:
    run = ErasureRun.objects.select_related("case", "release", "adapter").filter(pk=run_id).first()
    if run is None:
        raise Http404
    return run


def _progress(run_id: UUID) -> dict[str, Any]:
    progress = selectors.run_progress(run_id)
    if progress is None:
        raise Http404
    run, events = progress.run, progress.events
    last = events[-1] if events else None
    return {
        "run": run,
        "case": run.case,
        "active": run.state in ACTIVE,
        "last": last,
        "phases": _phases(run),
        "events": list(reversed(events[-EVENTS_SHOWN:])),
        "hidden_events": max(0, len(events) - EVENTS_SHOWN),
        "last_seq": progress.last_seq,
    }


def _phases(run: ErasureRun) -> list[dict[str, Any]]:
    """Every step of a run but the last word `done`, with where it stands and its seconds."""
    names = [phase for phase in Phase if phase.value != Phase.DONE.value]
    values = [phase.value for phase in Phase]  # `done` comes last
    at = values.index(run.phase)
    ended_well = run.state == RunState.SUCCEEDED
    found = []
    for index, phase in enumerate(names):
        if ended_well or index < at:
            standing, glyph, word = "done", "✓", "done"
        elif index == at and run.state == RunState.RUNNING:
            standing, glyph, word = "now", "●", "now"
        elif index == at and run.state in (RunState.FAILED, RunState.CANCELLED):
            standing, glyph, word = "now", "✖", "stopped here"
        else:
            standing, glyph, word = "next", "", "to come"
        found.append(
            {
                "label": phase.label,
                "standing": standing,
                "glyph": glyph,
                "word": word,
                "seconds": run.seconds.get(phase.value, ""),
            }
        )
    return found


def _highlights(probes: list[ProbeResult]) -> list[ProbeResult]:
    """The probes about the erased person and about others that compare shares of right answers."""
    wanted = ("unseen", "trained", "others")
    return [p for word in wanted for p in probes if word in p.probe and p.before and p.after][:3]


def _chart(probes: list[ProbeResult]) -> charts.Chart:
    return charts.dumbbell(
        [
            charts.Row(p.probe, p.before, p.after, p.control, p.bound, p.threshold, p.holds)
            for p in probes
        ]
    )


def _pretty(value: Any) -> str:
    """Stored JSON, indented for reading; empty if there is none."""
    if value is None:
        return ""
    if isinstance(value, bytes | memoryview):
        value = json.loads(bytes(value))
    return json.dumps(value, indent=2, ensure_ascii=False)
