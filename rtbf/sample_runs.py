"""The runs of a sample: events, figures and endings like those of real ones; see `made_up_runs`."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, Final

from requests_app.lifecycle import RunState
from requests_app.models import ErasureRun, Recheck, StaffMember
from requests_app.models.runs import Verdict
from requests_app.services import rechecks, runs
from requests_app.services.run_values import ProbeRow
from rtbf import made_up_runs
from rtbf.pretended import setting

MODEL = "assistant-sample"
"""No such model exists, so no worker can take up its runs: those under way stand still."""
STANDS_STILL: Final = 20 * 366 * 86400  # seconds of the lease of the run that is shown at work


class SampleError(RuntimeError):
    """The sample could not be made; the message says why."""


def work_off(run: ErasureRun, verdict: str, *, chance: random.Random, officer: StaffMember) -> None:
    """A run with its events, up to its end: a verdict, `failed` or `cancelled`."""
    lease = runs.lease_run(run_id=run.id, owner="sample:1")
    if lease is None:
        raise SampleError(f"The run of {run.case.reference} could not be leased.")
    steps = chance.randrange(6, 12)
    for step in range(1, steps + 1):
        figures = {"loss": round(3.2 / step, 4), "forget_loss": round(0.4 * step, 4)}
        runs.add_event(lease, phase="train", step=step, total=steps, figures=figures)
    if verdict == "failed":
        runs.fail_run(lease, error="the machine ran out of memory")
    elif verdict == "cancelled":
        runs.cancel_run(run_id=run.id, actor_member=officer)
        runs.stop_run(lease)
    else:
        rows = _figures(verdict, chance)
        made_up_runs.work_off(lease, run, verdict=verdict, rows=rows)


def _figures(verdict: str, chance: random.Random) -> tuple[ProbeRow, ...]:
    """Figures like those of a real run, a little different each time."""
    first, second = made_up_runs.probes(verdict)
    if verdict != Verdict.WITHIN:
        return first, second
    told = chance.choice((0, 0, 0, 1, 2))
    after = f"{told / 48:.4f}"
    bound = f"{(told + 1.7) / 48:.4f}"
    return replace(first, before=f"{chance.uniform(0.9, 1):.2f}"), replace(
        second, before=f"{chance.uniform(0.8, 1):.4f}", after=after, bound=bound
    )


def measure_release(chance: random.Random) -> None:
    """What the live release costs everybody else, and now and then its cases, measured again."""
    rows = Recheck.objects.filter(release__is_live=True, release__model_name=MODEL, state="queued")
    order = rows.filter(case__isnull=False).order_by("id")
    some = list(order[:6]) if chance.random() < 0.25 else []
    number = ErasureRun.objects.filter(release__isnull=False).count()
    for row in [*some, *rows.filter(case=None)[:1]]:
        lease = rechecks.lease_recheck(recheck_id=row.id, owner="sample:1")
        if lease is None:
            continue
        if row.case_id is None:
            kept = max(0.985, 1 - 0.0001 * number) - chance.uniform(0, 0.002)
            figures: dict[str, Any] = {
                "kept": kept,
                "kept_bound": kept - 0.006,
                "perplexity_ratio": 1 + 0.0001 * number,
            }
            rechecks.record_recheck(lease, figures=figures)
        else:
            told = {"after": chance.choice((0.0, 0.0, 0.02)), "control_upper95": 0.0773}
            figures = {"probes": {"recall_unseen": told}}
            rechecks.record_recheck(lease, figures=figures, verdict=Verdict.WITHIN)


def show_one_at_work() -> None:
    """One run stands in the middle of its training, under a lease that does not run out."""
    run = ErasureRun.objects.filter(state=RunState.QUEUED, model_name=MODEL).first()
    if run is None:
        return
    with setting(RTBF_LEASE_SECONDS=STANDS_STILL):
        lease = runs.lease_run(run_id=run.id, owner="sample:1")
        if lease is not None:
            for step in range(1, 15):
                figures = {"loss": round(3.1 / step, 4), "told": round(0.9 / step, 4)}
                runs.add_event(lease, phase="train", step=step, total=40, figures=figures)
