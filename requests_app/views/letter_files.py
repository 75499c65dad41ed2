"""A letter as a file: the exact text that was written, and the same as a PDF for the post."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.translation import override

from requests_app import vault
from requests_app.models import Letter
from requests_app.services.letter_texts import NAMES
from requests_app.typesetting import typeset

TEMPLATE = settings.BASE_DIR / "templates" / "public" / "letter.typ"


def letter_download(request: HttpRequest, letter: Letter) -> HttpResponse:
    """The letter's frozen text, or with `?as=pdf` its PDF, named by reference and kind."""
    text = vault.get(letter.case, f"letter/{letter.pk}")
    name = f"{letter.case.reference}-{letter.kind}"
    if request.GET.get("as") == "pdf":
        response = HttpResponse(letter_pdf(letter, text), content_type="application/pdf")
        name += ".pdf"
    else:
        response = HttpResponse(text, content_type="text/plain; charset=utf-8")
        name += ".txt"
    response.headers["Content-Language"] = letter.language
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def letter_pdf(letter: Letter, text: str) -> bytes:
    """PDF/A-3a and PDF/UA-1 of a letter's text, word for word; the same letter gives the same
    bytes."""
    with override(letter.language):
        title = f"{NAMES.get(letter.kind, letter.kind)} {letter.case.reference}"
    told = {
        "title": title,
        "language": letter.language,
        "controller": settings.RTBF_CONTROLLER_NAME,
        "reference": letter.case.reference,
        "parts": list(parts_of(text)),
    }
    return typeset(TEMPLATE, told, letter.created_at)


def parts_of(text: str) -> Iterator[dict[str, Any]]:
    """Headings, which letters have in capitals on a line of their own, and paragraphs."""
    for block in text.strip().split("\n\n"):
        first, _, rest = block.strip().partition("\n")
        if first.isupper():
            yield {"heading": True, "text": first}
        body = rest if first.isupper() else block
        if body.strip():
            yield {"heading": False, "text": body.strip()}
