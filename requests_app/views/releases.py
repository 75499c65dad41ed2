"""Models and releases: what is declared and observed to be in service, and rolling back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_GET, require_http_methods

from requests_app import charts, selectors
from requests_app.forms import PlainForm
from requests_app.models import Adapter, Case, Consolidation, ModelNode, Release, StaffMember
from requests_app.permissions import OPERATE, fresh_log_in, is_post, member, staff_page
from requests_app.services import consolidations, lineage, roll_backs, serving
from requests_app.services.errors import NotFound
from requests_app.services.manifests import Manifest, read_manifest
from requests_app.services.rechecks import next_due
from requests_app.services.roll_backs import RollBackReason
from requests_app.views.common import actor_names, posted, refusals_in_words

LEAST_KEPT = 0.98
"""Of the accuracy about others, as a run's own threshold has it."""
MATRIX_CASES = 100
EARLIER_SHOWN = 50


class RollBackForm(PlainForm):
    reason = forms.ChoiceField(
        label=gettext_lazy("Why"),
        help_text=gettext_lazy("It is written to the log."),
        choices=RollBackReason.choices,
        widget=forms.RadioSelect,
    )


@staff_page("releases")
@require_GET
def releases(request: HttpRequest) -> HttpResponse:
    """What is live for each model, who serves it, and which adapters are in force."""
    live = Release.objects.filter(is_live=True).order_by("model_name")
    names = {each.model_name for each in live}
    context = {
        "live": [_in_service(release, member(request)) for release in live],
        "bare": [
            {"name": name, "served": serving.served(name)}
            for name in settings.RTBF_MODELS
            if name not in names
        ],
        "earlier": Release.objects.filter(is_live=False).order_by("-created_at")[:EARLIER_SHOWN],
    }
    return render(request, "staff/releases.html", context)


@staff_page("release")
@require_GET
@refusals_in_words
def release_page(request: HttpRequest, digest: str) -> HttpResponse:
    """One release: its weights, adapters and cases."""
    release = Release.objects.filter(pk=digest).first()
    if release is None:
        raise NotFound("There is no such release.")
    manifest = read_manifest(bytes(release.manifest))
    contents = _contents(manifest)
    context = {
        **contents,
        "release": release,
        "contents": {**contents, "release": release},
        "log": _log_of(release),
        "may_roll_back": member(request).role in OPERATE and not release.is_live,
    }
    return render(request, "staff/release.html", context)


@staff_page("release_roll_back")
@require_http_methods(["GET", "POST"])
@fresh_log_in(when=is_post)
@refusals_in_words
def roll_back(request: HttpRequest, digest: str) -> HttpResponse:
    """What a roll-back changes and what forbids it; then why, after a fresh log-in."""
    form = RollBackForm(posted(request))
    if request.method == "POST" and form.is_valid():
        release = roll_backs.roll_back_release(
            digest=digest, reason=form.cleaned_data["reason"], actor_member=member(request)
        )
        messages.success(request, _("Rolled back. What serves takes it over within a minute."))
        return redirect("release", digest=release.pk)
    change = roll_backs.what_changes(digest)
    status = 422 if form.errors else 200
    context = {
        "change": change,
        "form": form,
        "needs_approver": bool(change.loosened) and member(request).role != "approver",
    }
    return render(request, "staff/roll_back.html", context, status=status)


@staff_page("models")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def models_page(request: HttpRequest) -> HttpResponse:
    """Weights, what they came of, and quarantine; `action` is quarantine or lift."""
    staff = member(request)
    if request.method == "POST":
        sha256 = request.POST.get("sha256", "")
        if request.POST.get("action") == "quarantine":
            reached = lineage.quarantine_model(
                sha256=sha256,
                reason=request.POST.get("reason", ""),
                since=timezone.localdate(),
                actor_member=staff,
            )
            words = ngettext(
                "In quarantine, with %(count)d made of it.",
                "In quarantine, with %(count)d made of it.",
                len(reached),
            )
            messages.success(request, words % {"count": len(reached)})
        elif request.POST.get("action") == "lift":
            lineage.lift_quarantine(sha256=sha256, actor_member=staff)
            messages.success(request, _("The quarantine is lifted."))
        return redirect("models")
    context = {
        "nodes": selectors.model_lineage(),
        "reasons": [each for each in ModelNode.Reason if each != ModelNode.Reason.REPLACED],
        "may_manage": staff.role in OPERATE,
    }
    return render(request, "staff/models.html", context)


# --- Inside -------------------------------------------------------------------------------------
def _in_service(release: Release, staff: StaffMember) -> dict[str, Any]:
    """What the card of a live release says to this member."""
    manifest = read_manifest(bytes(release.manifest))
    log = _log_of(release)
    asked = Consolidation.objects.filter(model_name=release.model_name)
    last = asked.order_by("-created_at").first()
    return {
        "release": release,
        "consolidation": last,
        "may_consolidate": staff.role in OPERATE
        and bool(manifest.adapters)
        and not manifest.merged
        and not (last and last.state in consolidations.OPEN),
        **_contents(manifest),
        "since": log[0]["at"] if log else None,
        "by": log[0]["by"] if log else "",
        "served": serving.served(release.model_name),
        "capacity": _capacity(manifest),
        "rechecks": selectors.recheck_state(release),
        "next_due": next_due(release),
        **_charts(release.model_name),
    }


def _contents(manifest: Manifest) -> dict[str, Any]:
    """Weights, the adapters in their order with the cases behind each, and the merged cases."""
    cases = Case.objects.in_bulk(list(manifest.cases))
    made = Adapter.objects.select_related("run").in_bulk(
        [each.sha256 for each in manifest.adapters]
    )
    covered: dict[str, list[Case]] = {}
    gates: dict[str, str] = {}
    for each in manifest.adapters:
        covered.setdefault(each.sha256, []).append(cases[each.case_id])
        gates.setdefault(each.sha256, each.gate_sha256)
    return {
        "base": manifest.base_sha256,
        "node": ModelNode.objects.filter(pk=manifest.base_sha256).first(),
        "adapters": [
            {
                "sha256": sha256,
                "gate": gates[sha256],
                "cases": of,
                "made": made.get(sha256),
                "bytes": _stored_bytes(sha256, gates[sha256]),
            }
            for sha256, of in covered.items()
        ],
        "merged": sorted((cases[each] for each in manifest.merged), key=lambda row: row.reference),
    }


def _stored_bytes(sha256: str, gate_sha256: str) -> int | None:
    """Size of an adapter's weights; None where the store does not lie on this machine."""
    folder = Path(settings.RTBF_ADAPTER_DIR) / f"{sha256[:32]}-{gate_sha256[:32]}"
    path = folder / "adapter_model.safetensors"
    return path.stat().st_size if path.is_file() else None


def _capacity(manifest: Manifest) -> dict[str, int] | None:
    """How full the model is, by what its adapters recorded in training; None without such a record.

    `all_apart`: so many adapters can all be orthogonal to one another. `fullest`: the largest
    number of earlier ones that could act on the prompts of one new; no more than `all_apart` fit.
    """
    rows = Adapter.objects.filter(sha256__in=[each.sha256 for each in manifest.adapters])
    told = [row.settings for row in rows if int(row.settings.get("capacity", 0))]
    if not told:
        return None
    room = min(int(each["capacity"]) for each in told)
    fullest = max(int(each["neighbours"]) for each in told) + 1
    used = len({each.sha256 for each in manifest.adapters})
    return {
        "all_apart": room,
        "used": min(used, room),
        "left": max(0, room - used),
        "fullest": fullest,
        "left_in_fullest": max(0, room - fullest),
    }


def _log_of(release: Release) -> list[dict[str, Any]]:
    """When the release was put in force and by whom, as the log says, last first."""
    entries = selectors.entries_of_release(release)
    names = actor_names(entry.actor for entry in entries)
    return [
        {"seq": entry.seq, "type": entry.type, "at": entry.at, "by": names[entry.actor]}
        for entry in entries
    ]


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
