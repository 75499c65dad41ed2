"""The same report as a PDF for archives and screen readers, with the evidence JSON inside.

Built to PDF/A-3a (ISO 19005-3) and PDF/UA-1 (ISO 14289-1): typst refuses to write a document that
misses what either asks for, as far as a program can see. Typeset from typst's embedded fonts.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import cast

import typst
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from requests_app import report
from requests_app.dossier import Dossier
from requests_app.exports import evidence_json

OF = "case"
TITLE = _("Report (PDF/A, evidence JSON inside)")
CONTENT_TYPE = "application/pdf"
EXTENSION = "pdf"

TEMPLATE = settings.BASE_DIR / "templates" / "exports" / "report.typ"


def render(dossier: Dossier) -> bytes:
    """PDF bytes from templates/exports/report.typ; the same dossier gives the same bytes."""
    told = report.tell(dossier)
    last = datetime.fromisoformat(dossier.events[-1].body["at"]).astimezone(UTC)
    pdf = typst.Compiler(ignore_system_fonts=True).compile(
        input=TEMPLATE.read_bytes(),
        format="pdf",
        sys_inputs={
            "told": json.dumps(told),
            "evidence": evidence_json.render(dossier).decode(),
        },
        pdf_standards=["a-3a", "ua-1"],
        timestamp=last,
    )
    return cast(bytes, pdf)
