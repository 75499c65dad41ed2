"""How far a run is: its steps, what is left, its losses and log, as the run page shows them.

Read anew from the record each time; what is not known is said to be not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import quantiles
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from requests_app import charts, selectors
from requests_app.charts.drawing import number_of
from requests_app.lifecycle import RunState
from requests_app.models import ErasureRun, RunEvent
from requests_app.models.runs import Phase

LOG_EVENTS = 200
STEP_EVENTS = 20  # under each step
SILENT_AFTER = timedelta(seconds=90)
PACE_OF = 20  # the last steps that tell how long the next ones take
ENOUGH_STEPS = 4
PHASES = [phase for phase in Phase if phase.value != Phase.DONE.value]
CAUSES = {
    "cancelled": gettext_lazy("Somebody cancelled this run."),
    "too_many_leases": gettext_lazy("Its workers stopped too often before the run was done."),
}


@dataclass(frozen=True)
class Stage:
    """One step of a run as the page lists it. `opened`: the run stopped here."""

    phase: Phase
    standing: str
    glyph: str
    word: str
    spent: str  # empty where it is not known
    events: tuple[RunEvent, ...]
    hidden: int
    opened: bool


@dataclass(frozen=True)
class Progress:
    """A run with its events, looked at `now`. `place`: in the queue of its model, from 1."""

    run: ErasureRun
    events: tuple[RunEvent, ...]
    now: datetime
    place: int | None

    @property
    def active(self) -> bool:
        return self.run.state in (RunState.QUEUED, RunState.RUNNING)

    @property
    def silent(self) -> int | None:
        """Whole seconds without an event, once they are more than a working run needs."""
        if self.run.state != RunState.RUNNING:
            return None
        heard = max(filter(None, [self.run.started_at, *(e.at for e in self.events[-1:])]))
        apart = self.now - heard
        return int(apart.total_seconds()) if apart > SILENT_AFTER else None

    @property
    def elapsed(self) -> str:
        """From its start to its end or to now; empty before it began."""
        began = self.run.started_at
        return spelt((self.run.finished_at or self.now) - began) if began else ""

    def context(self) -> dict[str, Any]:
        """What `staff/run_progress.html` shows."""
        stages = stages_of(self)
        last = self.events[-1] if self.events else None
        at = next((i for i, stage in enumerate(stages, 1) if stage.standing == "now"), 0)
        return {
            "run": self.run,
            "case": self.run.case,
            "active": self.active,
            "place": self.place,
            "silent": self.silent,
            "elapsed": self.elapsed,
            "last": last,
            "percent": int(100 * last.step / last.total) if last and last.total else None,
            "left": seconds_left(self.events) if self.active else None,
            "stages": stages,
            "stage_number": at,
            "stage": stages[at - 1] if at else None,
            "cause": cause_of(self.run),
            "chart": losses_of(self.events),
            "log": [line_of(event) for event in self.events[-LOG_EVENTS:]],
            "hidden_events": max(0, len(self.events) - LOG_EVENTS),
            "last_seq": last.seq if last else -1,
        }


def progress_of(run_id: UUID) -> Progress | None:
    """A run as it is now; None if there is no such run."""
    found = selectors.run_progress(run_id)
    if found is None:
        return None
    run = found.run
    place = None
    if run.state == RunState.QUEUED:
        queue = ErasureRun.objects.filter(model_name=run.model_name, state=RunState.QUEUED)
        place = 1 + queue.filter(created_at__lt=run.created_at).count()
    return Progress(run, found.events, timezone.now(), place)


def stages_of(progress: Progress) -> list[Stage]:
    """Every step of a run but the last word `done`, with where it stands and what it took."""
    run, values = progress.run, [phase.value for phase in Phase]
    at = values.index(run.phase)
    stopped = run.state in (RunState.FAILED, RunState.CANCELLED)
    found = []
    for index, phase in enumerate(PHASES):
        opened = False
        if run.state == RunState.SUCCEEDED or index < at:
            standing, glyph, word = "done", "✓", _("done")
        elif index == at and run.state == RunState.RUNNING:
            standing, glyph, word = "now", "●", _("now")
        elif index == at and stopped:
            standing, glyph, word = "now", "✖", _("stopped here")
            opened = True
        else:
            standing, glyph, word = "next", "", _("not begun") if stopped else _("to come")
        own = [event for event in progress.events if event.phase == phase.value]
        found.append(
            Stage(
                phase=phase,
                standing=standing,
                glyph=glyph,
                word=word,
                spent=_spent(progress, phase, own) if standing != "next" else "",
                events=tuple(own[-STEP_EVENTS:]),
                hidden=max(0, len(own) - STEP_EVENTS),
                opened=opened,
            )
        )
    return found


def _spent(progress: Progress, phase: Phase, own: Sequence[RunEvent]) -> str:
    """What the worker measured of a step, else what its events tell."""
    if (measured := number_of(str(progress.run.seconds.get(phase.value, "")))) is not None:
        return spelt(timedelta(seconds=measured))
    if not own:
        return ""
    later = [event.at for event in progress.events if event.seq > own[-1].seq]
    end = later[0] if later else progress.run.finished_at or progress.now
    return spelt(end - own[0].at)


def seconds_left(events: Sequence[RunEvent]) -> tuple[str, str] | None:
    """The shortest and longest time for what is left of the last event's step, by the pace of its
    last events (their quartiles); None while there are too few of them."""
    if not events or not events[-1].total:
        return None
    last = events[-1]
    own = [event for event in events if event.phase == last.phase][-PACE_OF - 1 :]
    paces = [
        (b.at - a.at).total_seconds() / (b.step - a.step)
        for a, b in pairwise(own)
        if b.step > a.step
    ]
    if len(paces) < ENOUGH_STEPS:
        return None
    quick, _middle, slow = quantiles(paces, n=4)
    left = last.total - last.step
    return spelt(timedelta(seconds=max(quick, 0) * left)), spelt(timedelta(seconds=slow * left))


def losses_of(events: Sequence[RunEvent]) -> charts.Chart | None:
    """The losses that training told; None before it told any."""
    steps = []
    for event in events:
        values = {
            name: number
            for name, value in event.figures.items()
            if name in ("loss", "forget_loss", "keep_loss")
            and (number := number_of(str(value))) is not None
        }
        if event.phase == Phase.TRAIN.value and values:
            steps.append(charts.Step(event.step, values))
    return charts.losses(steps) if steps else None


def cause_of(run: ErasureRun) -> str:
    """Why a run stopped, in a sentence; empty if it did not."""
    return str(CAUSES.get(run.error, run.error))


def line_of(event: RunEvent) -> str:
    """One line of the log: time, number, step, figures."""
    at = timezone.localtime(event.at).strftime("%Y-%m-%d %H:%M:%S %Z")
    steps = f" {event.step}/{event.total}" if event.total else ""
    figures = "".join(f" · {name} {value}" for name, value in event.figures.items())
    return f"{at} #{event.seq} {event.phase}{steps}{figures}"


def spelt(span: timedelta) -> str:
    """A span of time in at most two units: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    seconds = max(span.total_seconds(), 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
