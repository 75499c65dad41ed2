"""The audit log as JSON Lines: the last signed checkpoint, then one entry a line.

Internal: the exact text of each entry, so that `SHA-256(0x00 || text)` is its leaf hash and all
leaves of the whole log make the root of the checkpoint (RFC 9162). For an authority staff stand in
the text by role; the public gets the leaf hashes alone, and can still hold us to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from django.utils.translation import gettext_lazy as _

from requests_app.extract import Extract
from requests_app.models import Checkpoint
from requests_app.models.exports import Level

OF = "record"
TITLE = _("Audit log (JSON Lines)")
CONTENT_TYPE = "application/jsonl"
EXTENSION = "jsonl"
LEVELS = (Level.PUBLIC, Level.AUTHORITY, Level.INTERNAL)


def render(extract: Extract) -> Iterator[bytes]:
    """UTF-8; the first line says what follows."""
    checkpoint = Checkpoint.objects.order_by("-size").first()
    yield _line(
        {
            "schema": "audit-log-export.v1",
            "level": extract.level.value,
            "exact": extract.level == Level.INTERNAL,
            "first": extract.spell(extract.first),
            "last": extract.spell(extract.last),
            "checkpoint": checkpoint.note if checkpoint else None,
        }
    )
    for row in extract.entries():
        told: dict[str, object] = {"seq": row.seq, "leaf": row.leaf}
        yield _line(told if row.body is None else {**told, "body": row.body})


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
