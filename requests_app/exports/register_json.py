"""The register of cases for machines: a JSON array, one object a case, written as it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date

from django.utils.translation import gettext_lazy as _

from requests_app.extract import CaseRow, Extract
from requests_app.models.exports import Level

OF = "record"
TITLE = _("Register of cases (JSON)")
CONTENT_TYPE = "application/json"
EXTENSION = "json"
LEVELS = (Level.AUTHORITY, Level.INTERNAL)

COLUMNS = (
    "reference",
    "received_on",
    "channel",
    "jurisdiction",
    "status",
    "due",
    "extended",
    "on_behalf",
    "identity_method",
    "outcome",
    "grounds",
    "exemptions",
    "scope",
    "decided_on",
    "proposed_by",
    "approved_by",
    "verdicts",
    "answered_on",
    "days_to_answer",
    "late",
    "withdrawn_on",
    "sealed_on",
)


def render(extract: Extract) -> Iterator[bytes]:
    """UTF-8 JSON, one case a line."""
    before = b"[\n"
    for row in extract.cases():
        yield before + json.dumps(tell(row, on=extract.made_on), ensure_ascii=False).encode()
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def tell(row: CaseRow, *, on: date) -> dict[str, object]:
    """One case as JSON values, in the order of COLUMNS."""
    return {
        "reference": row.reference,
        "received_on": row.received_on.isoformat(),
        "channel": row.channel,
        "jurisdiction": row.jurisdiction,
        "status": row.status,
        "due": row.due.isoformat(),
        "extended": row.is_extended,
        "on_behalf": row.is_on_behalf,
        "identity_method": row.identity_method,
        "outcome": row.outcome,
        "grounds": list(row.grounds),
        "exemptions": list(row.exemptions),
        "scope": [asdict(item) for item in row.scope],
        "decided_on": _iso(row.decided_on),
        "proposed_by": row.proposed_by,
        "approved_by": row.approved_by,
        "verdicts": [f"{model}: {verdict}" for model, verdict in sorted(row.verdicts.items())],
        "answered_on": _iso(row.answered_on),
        "days_to_answer": row.days,
        "late": row.is_late(on),
        "withdrawn_on": _iso(row.withdrawn_on),
        "sealed_on": _iso(row.sealed_on),
    }


def _iso(day: date | None) -> str | None:
    return day.isoformat() if day else None
