"""What a process that serves a model has loaded."""

from __future__ import annotations

from django.db import transaction

from requests_app import audit
from requests_app.actors import SYSTEM

_said: dict[tuple[str, str], str] = {}


@transaction.atomic
def note_served(*, process: str, kind: str, model_name: str, digest: str) -> None:
    """Log what a process serves when that changes; `digest`: empty for the base model alone."""
    if _said.get((process, model_name)) == digest:
        return
    audit.append_entry(
        type="serving.changed",
        actor=SYSTEM.name,
        data={"process": process, "kind": kind, "model": model_name, "release": digest},
    )
    _said[process, model_name] = digest
