"""What a run was made with: its settings, digests and versions, and the attempts beside it.

All of it is read from what was recorded; before a step is done, its part is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.utils.translation import gettext as _

from requests_app.charts.drawing import number_of
from requests_app.models import Adapter, ErasureRun, ProbeResult
from requests_app.services.run_rows import not_met_runs
from requests_app.views.run_progress import spelt

FIRST = ("method", "modifier", "learning_rate", "rank", "alpha", "max_steps", "keep_weight")
ONCE = ("attempt", "seed", "code_sha256")  # of a recipe, shown elsewhere


@dataclass(frozen=True)
class Settings:
    """`device`, `method`, `base_sha256`, `code_sha256` are empty while they are not recorded."""

    method: str = ""
    device: str = ""
    base_sha256: str = ""
    code_sha256: str = ""
    profile: str = ""
    recipe: Sequence[tuple[str, str]] = ()
    digests: Sequence[tuple[str, str]] = ()
    versions: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Attempt:
    """A run of the same case and model, beside this one."""

    run: ErasureRun
    method: str
    steps: str
    took: str
    met: int
    deciding: int
    probes: Sequence[ProbeResult] = field(default=())  # those that decide


def attempt_of(run: ErasureRun) -> int:
    """Which attempt on its test plan a run is, from 1."""
    return len(not_met_runs(run.case, run.model_name, before=run.number)) + 1


def protocol_of(run: ErasureRun) -> dict[str, Any]:
    """The test plan of a run; empty before it is fixed."""
    found: dict[str, Any] = json.loads(bytes(run.protocol)) if run.protocol else {}
    return found


def settings_of(run: ErasureRun) -> Settings:
    """From the adapter's row, the evidence, and before they are there from the test plan."""
    plan, adapter = protocol_of(run), _adapter(run)
    planned = plan.get("attempts", [])[attempt_of(run) - 1 :][:1]
    recipe: Mapping[str, Any] = adapter.settings if adapter else planned[0] if planned else {}
    environment = dict((run.evidence or {}).get("environment", {}))
    code = environment.pop("code_sha256", "") or recipe.get("code_sha256", "")
    placed = (environment.get("device_map", ""), environment.get("dtype", ""))
    model, control = plan.get("model") or {}, plan.get("control") or {}
    base = adapter.base_sha256 if adapter else model.get("sha256", "")
    digests = [
        (_("Base weights"), base),
        (_("Tokenizer"), model.get("tokenizer_sha256", "")),
        (_("Control"), control.get("sha256", "")),
        (_("Test plan"), run.protocol_sha256),
        (_("Adapter"), adapter.sha256 if adapter else ""),
        (_("Adapter settings file"), adapter.config_sha256 if adapter else ""),
        (_("Gate"), adapter.gate_sha256 if adapter else ""),
        (_("Release"), run.release_id or ""),
        (_("Code"), code),
    ]
    order = [*(name for name in FIRST if name in recipe), *sorted(set(recipe) - {*FIRST, *ONCE})]
    return Settings(
        method=str(recipe.get("method", "")),
        device=" ".join(filter(None, placed)),
        base_sha256=base,
        code_sha256=code,
        profile=str(plan.get("profile", "")),
        recipe=[(name.replace("_", " "), str(recipe[name])) for name in order],
        digests=[(what, value) for what, value in digests if value],
        versions=sorted((name.replace("_", " "), str(v)) for name, v in environment.items()),
    )


def attempts_beside(run: ErasureRun) -> list[Attempt]:
    """Every run of the case on this model, oldest first; none if there is only this one."""
    rows = run.case.runs.filter(model_name=run.model_name).order_by("number")
    rows = rows.select_related("adapter").prefetch_related("probe_results")
    found = []
    for row in rows:
        adapter = _adapter(row)
        made = adapter.settings if adapter else {}
        deciding = [probe for probe in row.probe_results.all() if probe.threshold]
        found.append(
            Attempt(
                run=row,
                method=str(made.get("method", "")),
                steps=str(made.get("steps", "")),
                took=_took(row),
                met=sum(probe.holds is True for probe in deciding),
                deciding=len(deciding),
                probes=sorted(deciding, key=lambda probe: probe.probe),
            )
        )
    return found if len(found) > 1 else []


def _took(run: ErasureRun) -> str:
    measured = [number_of(str(value)) for value in run.seconds.values()]
    if measured and None not in measured:
        return spelt(timedelta(seconds=sum(filter(None, measured))))
    if run.started_at and run.finished_at:
        return spelt(run.finished_at - run.started_at)
    return ""


def _adapter(run: ErasureRun) -> Adapter | None:
    """The adapter of a run; None before it is stored."""
    found: Adapter | None = getattr(run, "adapter", None)
    return found
