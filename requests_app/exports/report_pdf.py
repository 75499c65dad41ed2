"""The same report as a tagged PDF (PDF/UA-1), typeset by typst from its embedded fonts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import cast

import typst
from django.conf import settings

from requests_app.dossier import Dossier
from requests_app.exports import report_html

TITLE = "Report (PDF)"
CONTENT_TYPE = "application/pdf"
EXTENSION = "pdf"

TEMPLATE = settings.BASE_DIR / "templates" / "exports" / "report.typ"


def render(dossier: Dossier) -> bytes:
    """PDF bytes from templates/exports/report.typ; the same dossier gives the same bytes."""
    told = report_html.content(dossier)
    compiler = typst.Compiler(ignore_system_fonts=True)
    last = datetime.fromisoformat(told["events"][-1]["at"]).astimezone(UTC)
    pdf = compiler.compile(
        input=TEMPLATE.read_bytes(),
        format="pdf",
        sys_inputs={"told": json.dumps(told)},
        pdf_standards="ua-1",
        timestamp=last,
    )
    return cast(bytes, pdf)
