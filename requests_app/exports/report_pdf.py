"""The same report as a PDF for archives and screen readers, with the evidence JSON inside."""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from requests_app import report
from requests_app.dossier import Dossier
from requests_app.exports import evidence_json
from requests_app.typesetting import typeset

OF = "case"
TITLE = _("Report (PDF/A, evidence JSON inside)")
CONTENT_TYPE = "application/pdf"
EXTENSION = "pdf"

TEMPLATE = settings.BASE_DIR / "templates" / "exports" / "report.typ"


def render(dossier: Dossier) -> bytes:
    """PDF bytes from templates/exports/report.typ; the same dossier gives the same bytes."""
    told = report.tell(dossier)
    last = datetime.fromisoformat(dossier.events[-1].body["at"]).astimezone(UTC)
    return typeset(TEMPLATE, told, last, evidence=evidence_json.render(dossier).decode())
