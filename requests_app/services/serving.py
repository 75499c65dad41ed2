"""Declared against observed: what the record says is in force, and what processes have loaded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone

from requests_app.models import Release, ServingProcess
from requests_app.services.errors import Invalid
from requests_app.services.lineage import DIGEST

SWAP_TIME = timedelta(minutes=1)
"""Within it a process may still serve what was in force before: it looks for a new release every
half minute."""
SILENT_AFTER = timedelta(minutes=5)
"""Of a process that said nothing for so long nobody knows what it serves, or whether it runs."""
KEPT = timedelta(days=1)


@dataclass(frozen=True)
class Served:
    """What one process said last. `differs`: it serves another release than the one in force."""

    process: str
    kind: str
    digest: str
    seen_at: datetime
    is_silent: bool
    differs: bool


def note_served(*, process: str, kind: str, model_name: str, digest: str) -> None:
    """Note that a process has loaded this release of a model and serves it; call it at each load
    and every minute. `kind`: worker or gateway; `digest`: empty for the base model alone.

    Writes no log entry: it is no change of the record. Raises Invalid.
    """
    if kind not in ServingProcess.Kind.values:
        raise Invalid(f"There is no kind “{kind}”. Known: {', '.join(ServingProcess.Kind.values)}.")
    if digest and not DIGEST.fullmatch(digest):
        raise Invalid("Name the release by its digest, 64 hexadecimal digits.")
    now = timezone.now()
    ServingProcess.objects.update_or_create(
        process=process[:120],
        model_name=model_name,
        defaults={"kind": kind, "digest": digest, "seen_at": now},
    )
    ServingProcess.objects.filter(seen_at__lt=now - KEPT).delete()


def served(model_name: str) -> list[Served]:
    """What the processes of the last day said of a model, gateways first."""
    rows = _with_declared().filter(model_name=model_name).order_by("kind", "process")
    return [_judged(row) for row in rows]


def differing() -> list[ServingProcess]:
    """The processes that serve something else than what is in force, for every staff page."""
    recent = _with_declared().filter(seen_at__gte=timezone.now() - SILENT_AFTER)
    return [row for row in recent.order_by("model_name", "process") if _judged(row).differs]


def _with_declared() -> QuerySet[Any]:
    """The processes with `declared`, the digest of the release in force on their model, and
    `live_since`: one query, since every staff page asks."""
    live = Release.objects.filter(model_name=OuterRef("model_name"), is_live=True)
    return ServingProcess.objects.annotate(
        declared=Subquery(live.values("digest")[:1]),
        live_since=Subquery(live.values("live_since")[:1]),
    )


def _judged(row: Any) -> Served:
    silent = row.seen_at < timezone.now() - SILENT_AFTER
    swapping = row.live_since is not None and row.seen_at < row.live_since + SWAP_TIME
    return Served(
        process=row.process,
        kind=row.get_kind_display(),
        digest=row.digest,
        seen_at=row.seen_at,
        is_silent=silent,
        differs=not silent and row.digest != (row.declared or "") and not swapping,
    )
