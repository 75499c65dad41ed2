"""What an operator watches, in Prometheus' text format: counts and ages alone.

No reference, name, model or address is a label, so that a stored series tells nothing of a person.
A figure that cannot be read is left out, never nought.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Min
from django.utils import timezone

from requests_app import selectors
from requests_app.lifecycle import (
    CaseStatus,
    ExportState,
    NoticeState,
    RecheckState,
    RunState,
)
from requests_app.models import (
    Case,
    Checkpoint,
    ErasureRun,
    ExportJob,
    Letter,
    LogHead,
    Recheck,
    RecipientNotice,
    VaultItem,
)
from requests_app.models.record import IS_OPEN
from requests_app.services import stuck, wake
from requests_app.services.restoring import why_not_served

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Gauge:
    """One figure: its name, what it says, and its value for each value of its label (or "")."""

    name: str
    says: str
    label: str
    values: Mapping[str, float]


def read() -> list[Gauge]:
    """All figures as they are now; a dozen queries, each over an index or a small table."""
    now = timezone.now()
    head = LogHead.objects.filter(id=1).first()
    size = head.size if head else 0
    overdue = Case.objects.filter(IS_OPEN, due__lt=timezone.localdate(), completed_at=None)
    signed = Checkpoint.objects.order_by("-size").first()
    ages = {
        queue: now.timestamp() - at
        for queue in wake.QUEUES
        if (at := wake.last_seen(queue)) is not None
    }
    return [
        _one("record_current", "1 if the database holds what was signed", not why_not_served()),
        Gauge("cases", "Cases by status", "status", _by(Case, "status", CaseStatus.values)),
        _one("cases_overdue", "Cases open after their last day", overdue.count()),
        Gauge("runs", "Erasure runs by state", "state", _by(ErasureRun, "state", RunState.values)),
        Gauge("queue_oldest_seconds", "Age of the oldest that waits", "queue", _oldest(now)),
        Gauge("waiting", "What waits to be sent", "kind", _waiting()),
        _one("letters_bounced", "Letters that came back", selectors.bounced_letters().count()),
        Gauge("stuck", "Work that used up its attempts", "kind", stuck.count_stuck()),
        _one("log_entries", "Entries of the audit log", size),
        _one(
            "log_entries_unsigned", "Entries not signed yet", size - (signed.size if signed else 0)
        ),
        Gauge(
            "checkpoint_age_seconds",
            "Since the last signed checkpoint; it grows while nothing happens",
            "",
            {"": (now - signed.created_at).total_seconds()} if signed else {},
        ),
        Gauge("worker_seen_seconds", "Since a worker of the queue was at work", "queue", ages),
    ]


def exposition(gauges: Iterable[Gauge]) -> str:
    """The text format 0.0.4; names and labels are words of code, so that nothing is escaped."""
    lines = []
    for gauge in gauges:
        name = f"rtbf_{gauge.name}"
        lines += [f"# HELP {name} {gauge.says}", f"# TYPE {name} gauge"]
        for value, figure in gauge.values.items():
            where = f'{{{gauge.label}="{value}"}}' if gauge.label else ""
            lines.append(f"{name}{where} {figure:.15g}")
    return "\n".join(lines) + "\n"


def _one(name: str, says: str, value: float) -> Gauge:
    return Gauge(name, says, "", {"": value})


def _by(model: type[Case] | type[ErasureRun], field: str, values: Iterable[str]) -> dict[str, int]:
    rows = model._default_manager.values_list(field).annotate(n=Count("pk")).order_by()
    return {**dict.fromkeys(values, 0), **dict(rows)}


def _oldest(now: datetime) -> dict[str, float]:
    """Seconds since the oldest queued row of each queue was made; 0 where nothing waits."""
    queued = {
        "run": ErasureRun.objects.filter(state=RunState.QUEUED),
        "recheck": Recheck.objects.filter(state=RecheckState.QUEUED),
        "export": ExportJob.objects.filter(state=ExportState.QUEUED),
    }
    oldest = {name: rows.aggregate(at=Min("created_at"))["at"] for name, rows in queued.items()}
    return {name: (now - at).total_seconds() if at else 0.0 for name, at in oldest.items()}


def _waiting() -> dict[str, int]:
    notices = RecipientNotice.objects.filter(state=NoticeState.TO_SEND, case__sealed_at=None)
    return {
        "code": VaultItem.objects.filter(name="code").count(),
        "letter": Letter.objects.filter(sent_at=None).count(),
        "notice": notices.count(),
    }
