"""The confirmation: a page that keeps its address, and the same as a PDF to keep.

The PDF has no access code. The code opens every letter, and a file is printed, mailed and copied.
The page shows it for some minutes from the first time on, since an answer may be lost on its way
and the page be loaded again, and not any more once it was given on the status page.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from requests_app import vault
from requests_app.jurisdictions import profile
from requests_app.models import Case
from requests_app.services.letter_texts import spell_date
from requests_app.typesetting import typeset
from requests_app.views.wizard import ACCESS_CODES, OPENED, SENT

SHOWN_AGAIN = timedelta(minutes=15)
TEMPLATE = settings.BASE_DIR / "templates" / "public" / "sent.typ"


@require_GET
def sent(request: HttpRequest, reference: str) -> HttpResponse:
    """The confirmation. Dates only in the session that sent it; one page for all others."""
    reference = reference.upper()
    case = _own_case(request, reference, SENT)
    context = {
        "reference": reference,
        "case": case,
        "received": received_words(case) if case else "",
        "access_code": _access_code(request, reference),
        "minutes": SHOWN_AGAIN // timedelta(minutes=1),
        "next_steps": next_steps(case),
    }
    return render(request, "public/sent.html", context)


@require_GET
def sent_pdf(request: HttpRequest, reference: str) -> HttpResponse:
    """The confirmation as PDF/A-3a and PDF/UA-1, in the language of the page; no personal data."""
    reference = reference.upper()
    case = _own_case(request, reference, SENT, OPENED)
    if case is None:
        return redirect("erasure_sent", reference=reference)
    response = HttpResponse(render_pdf(case), content_type="application/pdf")
    response.headers["Content-Disposition"] = f'attachment; filename="{reference}.pdf"'
    return response


def next_steps(case: Case | None) -> list[str]:
    """What happens after a request was sent, in its order; with a date where the case is known."""
    last = _(
        "For AI models we measure the result. You receive our answer with reasons and figures."
    )
    if case is not None:
        last = _(
            "For AI models we measure the result. You receive our answer with reasons and figures,"
            " by %(due)s."
        ) % {"due": spell_date(case.due)}
    return [
        _(
            "We send a code to the e-mail address that was given. Enter it within 15 minutes; you"
            " can ask for a new one."
        ),
        _("We check, only as far as needed, that the request comes from the right person."),
        _("One person decides what is erased and a second person checks it."),
        last,
    ]


def received_words(case: Case) -> str:
    """The moment of receipt with its zone: 25 November 2026, 21:42 CET."""
    at = timezone.localtime(case.received_at)
    return f"{date_format(at, 'DATETIME_FORMAT')} {at:%Z}"


def tell(case: Case) -> dict[str, Any]:
    """What the PDF says, as plain JSON values in the language of the page."""
    law = profile(case.jurisdiction)
    return {
        "language": get_language() or "en",
        "controller": settings.RTBF_CONTROLLER_NAME,
        "title": _("Erasure request sent"),
        "about": _("Confirmation that your erasure request reached us"),
        "head": [_("Item"), _("What is recorded")],
        "rows": [
            [_("Reference"), case.reference],
            [_("Received"), received_words(case)],
            [_("We answer by"), spell_date(case.due)],
            [_("Law"), _(law.law)],
        ],
        "next": _("What happens next"),
        "steps": next_steps(case),
        "follow": _("Follow your request"),
        "follow_text": _(
            "Give this reference and your access code on our page “Follow a request”. The access"
            " code was shown once when you sent the request. It is not in this file, so that nobody"
            " who finds the file can read our letters."
        ),
        "rights": _("If you do not agree"),
        "rights_text": f"{_(law.complaint)} {settings.RTBF_AUTHORITY_NAME},"
        f" {settings.RTBF_AUTHORITY_URL}. {_(law.remedy)}",
        "contact": _("Contact the data protection officer"),
        "contact_text": f"{settings.RTBF_CONTROLLER_EMAIL} · {settings.RTBF_CONTROLLER_PHONE} ·"
        f" {settings.RTBF_CONTROLLER_ADDRESS}",
    }


def render_pdf(case: Case) -> bytes:
    """PDF bytes from templates/public/sent.typ; the same case and language give the same bytes."""
    return typeset(TEMPLATE, tell(case), case.received_at)


def forget_access_code(request: HttpRequest, reference: str) -> None:
    """Show it no more: its owner has it."""
    codes: dict[str, str] = request.session.get(ACCESS_CODES, {})
    if draft_id := codes.pop(reference, ""):
        request.session[ACCESS_CODES] = codes
        vault.delete_draft(UUID(draft_id))


def _access_code(request: HttpRequest, reference: str) -> str:
    """The access code of what this session sent, empty once its minutes are over."""
    draft_id = request.session.get(ACCESS_CODES, {}).get(reference, "")
    if not draft_id:
        return ""
    code = (vault.load_draft(UUID(draft_id)) or {}).get("code", "")
    vault.shorten_draft(UUID(draft_id), left=SHOWN_AGAIN)
    return str(code)


def _own_case(request: HttpRequest, reference: str, *kept: str) -> Case | None:
    """The case, if this session sent it or gave its access code (whichever is asked for)."""
    if not any(reference in request.session.get(name, []) for name in kept):
        return None
    return Case.objects.filter(reference=reference).exclude(access_digest="").first()
