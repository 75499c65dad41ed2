"""Statistics of a period, for an authority or the public, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

from django.utils.translation import gettext_lazy as _

from requests_app import period_statistics
from requests_app.extract import Extract
from requests_app.models.exports import Level

OF = "record"
TITLE = _("Statistics of a period (JSON)")
CONTENT_TYPE = "application/json"
EXTENSION = "json"
LEVELS = (Level.PUBLIC, Level.AUTHORITY)


def render(extract: Extract) -> Iterator[bytes]:
    """UTF-8 JSON, indented."""
    told = period_statistics.count(extract)
    yield json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n"
