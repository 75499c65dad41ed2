"""The report a person reads: what was done, measured, and not shown. One HTML file, no scripts."""

from __future__ import annotations

from django.template.loader import render_to_string
from django.utils.translation import gettext_lazy as _

from requests_app import report
from requests_app.dossier import Dossier

OF = "case"
TITLE = _("Report (HTML)")
CONTENT_TYPE = "text/html; charset=utf-8"
EXTENSION = "html"


def render(dossier: Dossier) -> bytes:
    """UTF-8 HTML from templates/exports/report.html."""
    return render_to_string("exports/report.html", report.tell(dossier)).encode()
