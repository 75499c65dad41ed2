"""The record of processing activities for this application itself (Art. 30(1) GDPR).

The kinds of data are read from the tables themselves: each says what it holds of a person, why, and
how it goes away. What only the controller knows is left to be filled in, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from django.apps import apps
from django.conf import settings
from django.template.loader import render_to_string
from django.utils.text import camel_case_to_spaces
from django.utils.translation import gettext_lazy as _

from requests_app import vault
from requests_app.extract import Extract
from requests_app.jurisdictions import current
from requests_app.models.exports import Level
from requests_app.services import retention
from requests_app.services.code_mails import CODE_LIFE
from requests_app.services.export_jobs import KEPT

OF = "record"
TITLE = _("Record of processing of this application (Art. 30)")
CONTENT_TYPE = "text/html; charset=utf-8"
EXTENSION = "html"
LEVELS = (Level.AUTHORITY,)

PERSONAL_DATA = re.compile(r"Personal data: (.+?)(?:\n\s*\n|\Z)", re.S)


def render(extract: Extract) -> Iterator[bytes]:
    """UTF-8 HTML from templates/exports/record_of_processing.html; the period does not matter."""
    yield render_to_string(
        "exports/record_of_processing.html",
        {
            "made_on": extract.made_on,
            "name": settings.RTBF_CONTROLLER_NAME,
            "address": settings.RTBF_CONTROLLER_ADDRESS,
            "email": settings.RTBF_CONTROLLER_EMAIL,
            "phone": settings.RTBF_CONTROLLER_PHONE,
            "law": current(settings.RTBF_JURISDICTION),
            "models": settings.RTBF_MODELS,
            "tables": list(_tables()),
            "hours": {"draft": vault.DRAFT_LIFE.total_seconds() / 3600},
            "minutes": {"code": CODE_LIFE.total_seconds() / 60},
            "days": {
                "export": KEPT.days,
                **{rule: kept.days for rule, kept in retention.keeps().items()},
            },
        },
    ).encode()


def _tables() -> Iterator[dict[str, str]]:
    """Every table that holds something of a person, and what it says of that."""
    for model in apps.get_app_config("requests_app").get_models():
        found = PERSONAL_DATA.search(model.__doc__ or "")
        words = " ".join(found.group(1).split()).replace("`", "") if found else ""
        if words and not words.startswith("none"):
            yield {"name": camel_case_to_spaces(model.__name__).capitalize(), "words": words}
