"""Erasure runs and their evidence as the case page shows them: a card each, in a few queries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import OuterRef, Subquery

from requests_app import charts
from requests_app.models import ErasureRun, ProbeResult, RunEvent, StaffMember
from requests_app.models.runs import Phase
from requests_app.permissions import CANCEL
from requests_app.services.run_rows import ACTIVE

STEPS = tuple(phase for phase in Phase if phase != Phase.DONE)


@dataclass(frozen=True)
class RunCard:
    """One run: its step of how many, how far that step is in percent where the worker counts it
    (None where it does not), and whether this member may cancel it."""

    run: ErasureRun
    step: int
    steps: int
    phase: str
    percent: int | None
    is_active: bool
    may_cancel: bool
    fell_back: bool


@dataclass(frozen=True)
class EvidenceCard:
    """What the last measured run of a model found, with the probes that decided it as a figure."""

    run: ErasureRun
    chart: charts.Chart | None


def run_cards(
    runs: Sequence[ErasureRun], staff: StaffMember, *, fell_back: Collection[UUID]
) -> dict[str, Any]:
    """`runs`, newest first, as cards: the last of each model, and the earlier ones."""
    last = _last_of_each_model(runs)
    newest = RunEvent.objects.filter(run=OuterRef("run")).order_by("-seq").values("pk")[:1]
    active = [run.pk for run in runs if run.state in ACTIVE]
    events = {
        event.run_id: event
        for event in RunEvent.objects.filter(run__in=active, pk=Subquery(newest))
    }
    cards = [_card(run, events.get(run.pk), staff, fell_back=run.pk in fell_back) for run in runs]
    return {
        "runs": [card for card in cards if card.run in last],
        "earlier_runs": [card for card in cards if card.run not in last],
    }


def evidence_cards(runs: Sequence[ErasureRun]) -> list[EvidenceCard]:
    """One card for each model of which a run has evidence, by the last such run."""
    measured = _last_of_each_model([run for run in runs if run.evidence])
    rows: dict[UUID, list[charts.Row]] = {run.pk: [] for run in measured}
    decisive = ProbeResult.objects.filter(run__in=measured).exclude(threshold="").order_by("id")
    for p in decisive:
        figures = (p.before, p.after, p.control, p.bound, p.threshold)
        rows[p.run_id].append(charts.Row(p.probe, *figures, p.holds))
    return [
        EvidenceCard(run, charts.dumbbell(rows[run.pk]) if rows[run.pk] else None)
        for run in measured
    ]


def _last_of_each_model(runs: Sequence[ErasureRun]) -> list[ErasureRun]:
    last: dict[str, ErasureRun] = {}
    for run in runs:
        last.setdefault(run.model_name, run)
    return [last[name] for name in sorted(last)]


def _card(
    run: ErasureRun, event: RunEvent | None, staff: StaffMember, *, fell_back: bool
) -> RunCard:
    is_active = run.state in ACTIVE
    values = [phase.value for phase in STEPS]
    at = values.index(run.phase) if run.phase in values else len(values) - 1
    counted = event is not None and event.total and event.phase == run.phase
    return RunCard(
        run=run,
        step=at + 1,
        steps=len(values),
        phase=str(STEPS[at].label),
        percent=100 * event.step // event.total if event and counted else None,
        is_active=is_active,
        may_cancel=is_active and staff.role in CANCEL and run.cancel_requested_at is None,
        fell_back=fell_back,
    )
