"""What anybody may check: signed checkpoints, public keys, rough counts, and one's own receipt."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from requests_app import audit, keys, marks, receipts, selectors
from requests_app.forms import ReceiptForm
from requests_app.models import Case, Checkpoint
from requests_app.ratelimit import limit_posts
from requests_app.views.common import posted
from requests_app.views.public import may_have_receipt, opened_case

SHOWN = 5
TEXT = "text/plain; charset=utf-8"


@require_http_methods(["GET", "POST"])
@limit_posts("receipt", tries=20, seconds=600)
def transparency(request: HttpRequest) -> HttpResponse:
    """The log in public. POST checks a receipt; a receipt that does not fit gets one answer, for
    whatever reason, and nothing of it is kept."""
    form = ReceiptForm(posted(request), request.FILES or None)
    checked: dict[str, Any] = {}
    if form.is_valid():
        checked = {"checked": True, "opened": receipts.open_receipt(form.cleaned_data["receipt"])}
        form = ReceiptForm()  # what was pasted is not sent back
    context = {
        "form": form,
        "origin": settings.RTBF_LOG_ORIGIN,
        "checkpoints": [
            (row, bytes(row.root).hex(), marks.cosigned_note(row).decode())
            for row in Checkpoint.objects.order_by("-size")[:SHOWN]
        ],
        "broken_at": audit.differs_from_newest_checkpoint(),
        "releases": selectors.releases_in_fives(),
        "trust": keys.trust_text(),
        "months": selectors.months_in_round_numbers(),
        **checked,
    }
    status = 422 if form.errors else 200
    return render(request, "public/transparency.html", context, status=status)


@require_GET
def checkpoint(request: HttpRequest, size: int | None = None) -> HttpResponse:
    """A signed note, verbatim, with the cosignatures it has: of that size, or the latest."""
    rows = Checkpoint.objects.order_by("size")
    row = rows.last() if size is None else rows.filter(size=size).first()
    if row is None:
        raise Http404
    return HttpResponse(marks.cosigned_note(row), content_type=TEXT)


@require_GET
def trust(request: HttpRequest) -> HttpResponse:
    """The public keys, as the verifier takes them."""
    return HttpResponse(keys.trust_text(), content_type=TEXT)


@require_GET
def receipt(request: HttpRequest, reference: str) -> HttpResponse:
    """The receipt of the case that this session opened, to print."""
    case = _case_with_receipt(request, reference)
    if case is None:
        return redirect("status_lookup")
    made = receipts.make_receipt(case)
    context = {"case": case, "receipt": made, "file": receipts.receipt_file(made).decode()}
    return render(request, "public/receipt.html", context)


@require_GET
def receipt_file(request: HttpRequest, reference: str) -> HttpResponse:
    """The same as a file to keep; it is made anew each time and stored nowhere."""
    case = _case_with_receipt(request, reference)
    if case is None:
        return redirect("status_lookup")
    content = receipts.receipt_file(receipts.make_receipt(case))
    response = HttpResponse(content, content_type="application/json")
    name = f"{case.reference}-receipt.json"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _case_with_receipt(request: HttpRequest, reference: str) -> Case | None:
    case = opened_case(request, reference)
    return case if case is not None and may_have_receipt(case) else None
