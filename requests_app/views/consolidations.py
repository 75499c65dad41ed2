"""Consolidations: proposed on the page of releases, approved and followed on their own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from requests_app.lifecycle import ConsolidationState
from requests_app.models import Case, Consolidation, StaffMember
from requests_app.models.runs import Phase
from requests_app.permissions import OPERATE, fresh_log_in, is_post, member, staff_page
from requests_app.services import consolidations
from requests_app.services.manifests import read_manifest
from requests_app.views.common import refusals_in_words, why_not_approve
from requests_app.views.run_progress import CAUSES


@staff_page("consolidation_propose")
@require_POST
@refusals_in_words
def propose(request: HttpRequest) -> HttpResponse:
    """Propose the consolidation of a model; a second person starts it."""
    found = consolidations.propose_consolidation(
        model_name=request.POST.get("model", ""), actor_member=member(request)
    )
    messages.success(request, _("Proposed. Another person has to approve it."))
    return redirect("consolidation", consolidation_id=found.pk)


@staff_page("consolidation")
@require_http_methods(["GET", "POST"])
@fresh_log_in(when=is_post)
@refusals_in_words
def consolidation(request: HttpRequest, consolidation_id: UUID) -> HttpResponse:
    """What it carries over, how far it is, what came of it; `action` is approve or cancel."""
    staff = member(request)
    if request.method == "POST":
        if request.POST.get("action") == "approve":
            consolidations.approve_consolidation(
                consolidation_id=consolidation_id, actor_member=staff
            )
            messages.success(request, _("Approved. A worker of the model takes it up."))
        elif request.POST.get("action") == "cancel":
            consolidations.cancel_consolidation(
                consolidation_id=consolidation_id, actor_member=staff
            )
            messages.success(request, _("Cancelled, or stopping at the next step."))
        return redirect("consolidation", consolidation_id=consolidation_id)
    rows = Consolidation.objects.select_related("parent", "release", "proposed_by", "approved_by")
    row = rows.filter(pk=consolidation_id).first()
    if row is None:
        raise Http404
    return render(request, "staff/consolidation.html", _context(row, staff))


def _context(row: Consolidation, staff: StaffMember) -> dict[str, Any]:
    before = read_manifest(bytes(row.parent.manifest))
    after = read_manifest(bytes(row.release.manifest)) if row.release else None
    cases = Case.objects.filter(pk__in=before.cases).order_by("reference")
    active = row.state in (ConsolidationState.QUEUED, ConsolidationState.RUNNING)
    proposed = row.state == ConsolidationState.PROPOSED
    return {
        "row": row,
        "cases": cases,
        "merged": [case for case in cases if after and case.pk in after.merged],
        "gated": [case for case in cases if after and case.pk not in after.merged],
        "active": active,
        "phase": Phase(row.phase).label if row.phase in Phase.values else row.phase,
        "cause": CAUSES.get(row.error, row.error),
        "may_approve": proposed and not why_not_approve(row, staff),
        "why_not_approve": why_not_approve(row, staff) if proposed else "",
        "may_cancel": (active or proposed)
        and staff.role in OPERATE
        and row.release is None
        and row.cancel_requested_at is None,
    }
