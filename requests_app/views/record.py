"""The record as evidence: the audit log, and the exports of a case."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET, require_http_methods

from requests_app import audit, dossier, exports, marks
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import AuditEntry, AuditKey, Checkpoint, LogHead
from requests_app.models.people import Role
from requests_app.permissions import fresh_log_in, is_post, member, staff_page
from requests_app.selectors import case_by_reference
from requests_app.services import annexes, cases
from requests_app.templatetags.rtbf import EVENT_WORDS
from requests_app.verifier import canonical
from requests_app.views.common import actor_names, find_case, refusals_in_words

PAGE = 50
LOOKED_AT = 100_000
CLOSING = ("bundle.exported", "case.sealed")


@staff_page("audit")
@require_GET
def audit_page(request: HttpRequest) -> HttpResponse:
    """The latest entries (`?before=<number>` pages back), of one case or kind if the address says
    so, and the last signed checkpoint."""
    head = LogHead.objects.first()
    size = head.size if head else 0
    shown, older = _entries(request, size)
    bodies = [
        cast(dict[str, Any], canonical.loads(bytes(row.body), file=f"entry {row.seq}"))
        for row in shown
    ]
    names = actor_names(body["actor"] for body in bodies)
    checkpoint = Checkpoint.objects.order_by("-size").first()
    kept = {name: request.GET[name] for name in ("case", "type") if request.GET.get(name)}
    context = {
        "kept": kept,
        "query": urlencode(kept),
        "kinds": sorted(EVENT_WORDS),  # related ones stand together, in every language
        "entries": [
            {
                "seq": row.seq,
                "type": row.type,
                "at": parse_datetime(body["at"]),
                "actor": names[body["actor"]],
                "leaf": bytes(row.leaf_hash).hex(),
                "text": bytes(row.body).decode(),
            }
            for row, body in zip(shown, bodies, strict=True)
        ],
        "older": older,
        "size": size,
        "checkpoint": checkpoint,
        "unsigned": size - (checkpoint.size if checkpoint else 0),
        "keys": AuditKey.objects.order_by("purpose", "valid_from"),
    }
    return render(request, "staff/audit.html", context)


def _entries(request: HttpRequest, size: int) -> tuple[list[AuditEntry], int | None]:
    """A page of entries, and the number before which the next one begins, None at the first entry.

    Entries of one kind are looked for among the `LOOKED_AT` last ones alone, since no index has
    their kinds: the next page goes on from there.
    """
    before, kind = request.GET.get("before", ""), request.GET.get("type", "")
    top = min(int(before), size) if before.isdecimal() else size
    rows = AuditEntry.objects.filter(seq__lt=top).order_by("-seq")
    end = 0
    if request.GET.get("case"):
        case = case_by_reference(request.GET["case"])
        rows = rows.filter(case_id=case.pk) if case else rows.none()
    elif kind:
        end = max(0, top - LOOKED_AT)
    if kind:
        rows = rows.filter(type=kind)
    shown = list(rows.filter(seq__gte=end)[: PAGE + 1])
    if len(shown) > PAGE:
        return shown[:PAGE], shown[PAGE - 1].seq
    return shown, end or None


@staff_page("exports")
@fresh_log_in(when=is_post)
@require_http_methods(["GET", "POST"])
@refusals_in_words
def exports_page(request: HttpRequest, reference: str) -> HttpResponse:
    """What can be exported; POST prepares the bundle: an entry of the log, soon signed."""
    case = find_case(reference)
    if request.method == "POST":
        cases.export_case(case_id=case.id, actor=staff_actor(member(request)))
        messages.success(request, _("The export is entered in the log. The signer signs it next."))
        return redirect("exports", reference=case.reference)
    closed = [entry for entry in audit.case_entries(case.id) if entry.type in CLOSING]
    ready = bool(closed) and marks.closed_after(closed[-1].seq) is not None
    context = {
        "case": case,
        "exports": [(name, exports.load(name)) for name in exports.names(exports.CASE)],
        "prepared": bool(closed),
        "ready": ready,
        "waiting": bool(closed) and not ready,
        "may_prepare": case.status != CaseStatus.SEALED,
        "annex": case.annexes.order_by("pk").last(),
        "annex_asked": annexes.asked_for(case),
        "may_ask_annex": case.status != CaseStatus.SEALED
        and member(request).role in (Role.OFFICER, Role.APPROVER),
        "may_approve_annex": member(request).role == Role.APPROVER,
    }
    return render(request, "staff/exports.html", context)


@staff_page("export")
@require_GET
@refusals_in_words
def export(request: HttpRequest, reference: str, name: str) -> HttpResponse:
    """One export as a file; the 409 page with the reason while the bundle is not ready."""
    case = find_case(reference)
    if name not in exports.names(exports.CASE):
        raise Http404
    made = exports.load(name)
    gathered = dossier.gather(case)
    try:
        content = made.render(gathered)
    except dossier.BundleNotReady as reason:
        context = {"reason": str(reason), "reference": case.reference}
        return render(request, "staff/409.html", context, status=409)
    response = HttpResponse(content, content_type=made.CONTENT_TYPE)
    file_name = exports.file_name(name, gathered)
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name}"'
    return response
