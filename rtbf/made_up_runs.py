"""Made-up runs: what a worker would record, with digests of nothing, for samples and tests.

Everything goes through the real services. No model is touched, so no figure here was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from requests_app.models import Adapter, ErasureRun
from requests_app.models.runs import Verdict
from requests_app.services import manifests, run_rows, runs
from requests_app.services.runs import Lease, ProbeRow
from requests_app.verifier import canonical


def digest(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


RECIPE = {"rank": 8, "rate": "0.01"}
PROTOCOL: dict[str, Any] = {
    "form": 3,
    "profile": "fast",
    "level": "gated",
    "seed": 7,
    "model": {"sha256": digest("base"), "tokenizer_sha256": digest("tokenizer")},
    "control": {"sha256": digest("control")},
    "probes": {
        "trained": {
            "question": "Does it tell in known wording?",
            "sides": ["before", "after", "control"],
            "rules": [],
        },
        "unseen": {
            "question": "Does it tell in new wording?",
            "sides": ["before", "after", "control"],
            "rules": [
                {"figure": "after", "is": "at_most", "limit": "control_upper95"},
                {"figure": "bound", "is": "at_most", "limit": "0.2"},
            ],
        },
    },
    "not_tested": {"relearned": "Does a little training bring it back?"},
    "attempts": [{"attempt": i + 1, "seed": 7 + i, **RECIPE} for i in range(3)],
    "samples": {"facts": 2, "draws": 2000},
}
PROBES = (
    ProbeRow("trained", "Does it tell in known wording?", 96, "0.99", "0.00", "0.01"),
    ProbeRow(
        "unseen",
        "Does it tell in new wording?",
        48,
        before="0.9375",
        after="0.0208",
        control="0.0417",
        bound="0.1253",
        threshold="0.1253",
        holds=True,
    ),
)
SHORT = {"after": "0.5", "bound": "0.62", "holds": False}
UNDECIDED = {"bound": "0.3", "holds": None}
OUTCOMES = {True: "holds", False: "short", None: "undecided"}


def protocol(run: ErasureRun) -> dict[str, Any]:
    """The test plan that all attempts of a run's case share, from the seed of the first."""
    first = run_rows.not_met_runs(run.case, run.model_name, before=run.number)
    seed = first[0].seed if first else run.seed
    attempts = [{**each, "seed": seed + i} for i, each in enumerate(PROTOCOL["attempts"])]
    return {**PROTOCOL, "seed": seed, "attempts": attempts}


def attempt(run: ErasureRun) -> int:
    return len(run_rows.not_met_runs(run.case, run.model_name, before=run.number)) + 1


def probes(verdict: str = Verdict.WITHIN) -> tuple[ProbeRow, ...]:
    """What was measured where a run ends with that verdict."""
    differing: dict[str, dict[str, Any]] = {
        Verdict.NOT_MET: SHORT,
        Verdict.INCONCLUSIVE: UNDECIDED,
    }
    changes = differing.get(Verdict(verdict), {})
    return (PROBES[0], replace(PROBES[1], **changes))


def evidence(
    run: ErasureRun,
    *,
    verdict: str = Verdict.WITHIN,
    rows: Sequence[ProbeRow] = (),
    release: str = "",
) -> dict[str, Any]:
    """The figures of a run as a worker records them."""
    adapter = Adapter.objects.get(run=run)
    return {
        "run": str(run.id),
        "adapter": {"sha256": adapter.sha256, "gate_sha256": adapter.gate_sha256},
        "release": release or hashlib.sha256(manifest(run, adapter.sha256)).hexdigest(),
        "protocol": protocol(run),
        "model": {
            "name": run.model_name,
            "sha256": digest("base"),
            "tokenizer": digest("tokenizer"),
        },
        "control": {"sha256": digest("control")},
        "attempt": {"number": attempt(run), "of_at_most": 3},
        "probes": {row.probe: _figures(row) for row in rows or probes(verdict)},
        "not_measured": {},
        "verdict": str(verdict),
        "reasons": ["as the figures say"],
        "environment": {"code_sha256": digest("code"), "python": "3.11"},
    }


def _figures(row: ProbeRow) -> dict[str, Any]:
    found = {key: getattr(row, key) or None for key in ("before", "after", "control", "bound")}
    told = {"n": row.n, **found, "control_upper95": row.threshold or None}
    if not row.threshold:
        return told
    return {**told, "limits": [row.threshold, "0.2"], "outcome": OUTCOMES[row.holds]}


def manifest(run: ErasureRun, sha256: str) -> bytes:
    """A manifest that names the adapters in force and this run's, in the place of an earlier one of
    its case."""
    live = manifests.live_manifest(run.model_name)
    kept = [a for a in live.adapters if a.case_id != run.case_id] if live else []
    gate = Adapter.objects.get(sha256=sha256).gate_sha256
    own = manifests.ManifestAdapter(run.case_id, sha256, gate)
    return manifest_of(
        [*kept, own],
        merged=[each for each in live.merged if each != run.case_id] if live else (),
        base=live.base_sha256 if live else digest("base"),
        parent=live.digest if live else None,
        name=run.model_name,
    )


def manifest_of(
    adapters: Sequence[manifests.ManifestAdapter],
    *,
    merged: Sequence[UUID] = (),
    base: str,
    parent: str | None,
    name: str = "demo",
) -> bytes:
    """The manifest of a release, in the form in which the model side writes it."""
    return canonical.dumps(
        {
            "form": 2,
            "base": {
                "name": name,
                "sha256": base,
                "tokenizer_sha256": digest("tokenizer"),
                "settings": digest("settings"),
            },
            "adapters": [
                {"case": str(a.case_id), "adapter": a.sha256, "gate": a.gate_sha256}
                for a in adapters
            ],
            "merged": sorted(map(str, merged)),
            "parent": parent,
        }
    )


def adapter_settings(run: ErasureRun) -> dict[str, Any]:
    """How an adapter was made, as a worker records it."""
    made_by = {"method": "npo", "modifier": "None", "code_sha256": digest("code")}
    return {**RECIPE, **made_by, "attempt": attempt(run)}


def record_adapter(lease: Lease, run: ErasureRun) -> str:
    """A made-up adapter of the run's own; returns its digest."""
    sha256 = digest("adapter", run.id)
    runs.record_adapter(
        lease,
        sha256=sha256,
        config_sha256=digest("config", run.id),
        gate_sha256=digest("gate", run.id),
        base_sha256=digest("base"),
        overlap="0.0000001",
        settings=adapter_settings(run),
    )
    return sha256


def work_off(
    lease: Lease,
    run: ErasureRun,
    *,
    verdict: str = Verdict.WITHIN,
    rows: Sequence[ProbeRow] = (),
) -> None:
    """Everything a worker records for a leased run, up to its end."""
    rows = rows or probes(verdict)
    runs.record_protocol(lease, protocol=protocol(run))
    sha256 = record_adapter(lease, run)
    found = evidence(run, verdict=verdict, rows=rows)
    runs.record_evidence(lease, evidence=found, verdict=verdict, probes=rows)
    runs.register_release(lease, manifest=manifest(run, sha256))
    runs.finish_run(lease)
