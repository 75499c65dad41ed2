"""Pages of the data subject: confirming the mailbox, following the request, withdrawing it."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET, require_http_methods

from requests_app import selectors, vault
from requests_app.actors import SUBJECT
from requests_app.forms import ConfirmForm, ReferenceForm, StatusForm
from requests_app.jurisdictions import profile
from requests_app.lifecycle import CASE_MOVES, CaseStatus
from requests_app.models import Case, Letter
from requests_app.models.record import Channel, ExtensionCause
from requests_app.ratelimit import limit_posts
from requests_app.services import intake
from requests_app.services.clock import is_running
from requests_app.services.errors import ServiceError
from requests_app.views.common import posted
from requests_app.views.letter_files import letter_download
from requests_app.views.sent import forget_access_code
from requests_app.views.stages import stages
from requests_app.views.wizard import OPENED, SENT, limit_session

ANSWERS = ("completion", "partial", "refusal", "cannot_identify", "excessive")
REFUSALS = ("partial", "refusal", "cannot_identify", "excessive")
CODE_REFUSED = _(
    "This reference and code do not work together. The code may be mistyped, older than 15 minutes,"
    " or tried too often. Check it, or ask for a new code below."
)
ACCESS_REFUSED = _(
    "This reference and access code do not belong together. Check both and try again."
)


@require_http_methods(["GET", "POST"])
@limit_posts("confirm", tries=20, seconds=600)
def confirm(request: HttpRequest) -> HttpResponse:
    """The mailed code. One answer for a wrong, late, worn-out or unknown code."""
    initial = {"reference": request.session.get(SENT, [""])[-1]}
    form = ConfirmForm(posted(request), initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            intake.confirm_email(
                reference=form.cleaned_data["reference"], code=form.cleaned_data["code"]
            )
        except ServiceError:
            form.add_error("code", CODE_REFUSED)
        else:
            return redirect("erasure_confirmed")
    status = 422 if form.errors else 200
    return render(request, "public/confirm.html", {"form": form}, status=status)


@require_GET
def confirmed(request: HttpRequest) -> HttpResponse:
    return render(request, "public/confirmed.html")


@require_http_methods(["GET", "POST"])
@limit_posts("resend", tries=6, seconds=600)
def resend(request: HttpRequest) -> HttpResponse:
    """Ask for a new code; the answer does not tell whether the request exists."""
    if request.method == "GET":
        return redirect("erasure_confirm")
    form = ReferenceForm(request.POST)
    if form.is_valid():
        intake.resend_code(reference=form.cleaned_data["reference"])
        messages.success(
            request,
            _(
                "If a request with this reference waits for a code, a new one is on its way. At"
                " most one code is sent a minute."
            ),
        )
        return redirect("erasure_confirm")
    page = ConfirmForm(request.POST)  # the same form, of which a second button sends the reference
    page.errors.pop("code", None)
    return render(request, "public/confirm.html", {"form": page}, status=422)


@require_http_methods(["GET", "POST"])
@limit_posts("status", tries=20, seconds=600)
def status_lookup(request: HttpRequest) -> HttpResponse:
    """Reference and access code open the status page for this session."""
    form = StatusForm(posted(request), initial={"reference": request.GET.get("reference", "")})
    if request.method == "POST" and form.is_valid():
        case = selectors.access_ok(form.cleaned_data["reference"], form.cleaned_data["access_code"])
        if case is not None:
            request.session.cycle_key()
            request.session[OPENED] = [*request.session.get(OPENED, []), case.reference]
            forget_access_code(request, case.reference)
            limit_session(request)
            return redirect("status", reference=case.reference)
        form.add_error("access_code", ACCESS_REFUSED)
    return render(
        request, "public/status_lookup.html", {"form": form}, status=422 if form.errors else 200
    )


def opened_case(request: HttpRequest, reference: str) -> Case | None:
    """The case, if this session gave its access code and the code still holds (sealing ends it)."""
    if reference.upper() not in request.session.get(OPENED, []):
        return None
    return Case.objects.filter(reference=reference.upper()).exclude(access_digest="").first()


def may_have_receipt(case: Case) -> bool:
    """Whether the mailbox was confirmed, or staff took the request: else anybody may have typed
    the name."""
    return case.email_confirmed_at is not None or case.channel != Channel.FORM


@require_GET
def status(request: HttpRequest, reference: str) -> HttpResponse:
    """Where the request stands, its dates and its letters."""
    case = opened_case(request, reference)
    if case is None:
        return redirect("status_lookup")
    letters = list(case.letters.order_by("-created_at"))
    law = profile(case.jurisdiction)
    answer = next((letter for letter in letters if letter.kind in ANSWERS), None)
    context = {
        "case": case,
        "stages": stages(case),
        "letters": letters,
        "answer": answer if case.completed_at else None,
        "refused": answer is not None and answer.kind in REFUSALS,
        "question": _open_question(case, letters),
        "is_late": is_running(case) and case.due < timezone.localdate(),
        "extension": _extension(case),
        "complaint": gettext(law.complaint),
        "remedy": gettext(law.remedy),
        "may_withdraw": CaseStatus.WITHDRAWN in CASE_MOVES[CaseStatus(case.status)],
        "may_have_receipt": may_have_receipt(case),
        "needs_code": case.status == CaseStatus.AWAITING_CONFIRMATION,
    }
    return render(request, "public/status.html", context)


def _open_question(case: Case, letters: Sequence[Letter]) -> Letter | None:
    """The letter whose question we wait for an answer to."""
    if case.status != CaseStatus.IDENTITY_CHECK:
        return None
    return next((letter for letter in letters if letter.kind == "identity_question"), None)


def _extension(case: Case) -> dict[str, str]:
    """Why the period was extended, as the letter says it; empty without an extension."""
    if case.extended_on is None:
        return {}
    return {
        "cause": str(ExtensionCause(case.extension_cause).label),
        "reasons": vault.get(case, "extension/reasons", default=""),
    }


@require_GET
def status_letter(request: HttpRequest, reference: str, letter_id: int) -> HttpResponse:
    """One letter as the frozen text that was written, or as PDF."""
    case = opened_case(request, reference)
    if case is None:
        return redirect("status_lookup")
    letter = case.letters.filter(pk=letter_id).first()
    if letter is None:
        raise Http404
    return letter_download(request, letter)


@require_http_methods(["GET", "POST"])
def withdraw(request: HttpRequest, reference: str) -> HttpResponse:
    """Ask once more, then withdraw the request."""
    case = opened_case(request, reference)
    if case is None:
        return redirect("status_lookup")
    if request.method == "POST":
        try:
            intake.withdraw_case(case_id=case.id, actor=SUBJECT)
        except ServiceError:
            messages.error(request, _("This request has gone too far to be withdrawn."))
        else:
            messages.success(request, _("Your request is withdrawn."))
        return redirect("status", reference=case.reference)
    return render(request, "public/withdraw.html", {"case": case})


@require_GET
def privacy(request: HttpRequest) -> HttpResponse:
    return render(request, "public/privacy.html")


@require_GET
def accessibility(request: HttpRequest) -> HttpResponse:
    return render(request, "public/accessibility.html")
