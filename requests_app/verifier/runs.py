"""What the events of a case say about its erasure runs, and what follows from it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from . import statements
from .errors import Invalid

ENDINGS = {"run.finished": "finished", "run.failed": "failed", "run.cancelled": "cancelled"}
SUBJECTS = (("adapter_model.safetensors", "sha256"), ("adapter_config.json", "config_sha256"))
LEVELS = {
    "case.merged": "merged",
    "case.retrained": "exact",
    "case.reverified": "gated",
    "case.regated": "gated",
    "case.revoked": "revoked",
}
SERVED = ("release", "adapter_sha256", "gate_sha256", "base_sha256")
IN_FORCE = ("gated", "merged", "exact")  # from weak to strong
TRAINED_ON = ("gate_report_sha256", "build_sha256")
FIGURES = ("n", "before", "after", "control", "bound", "threshold", "holds")
_STEPS = {
    "run.protocol_fixed": "protocol",
    "adapter.created": "adapter",
    "run.verified": "figures",
    "release.registered": "release",
}
_MADE = (("adapter", "sha256"), ("gate", "gate_sha256"), ("base", "base_sha256"))
_ADAPTER = ("sha256", "config_sha256", "gate_sha256", "base_sha256", "settings_sha256", "overlap")


class LoggedEvent(Protocol):
    """An entry of the case: where in the log it is, from which file, and what it says."""

    @property
    def seq(self) -> int: ...
    @property
    def file(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...
    @property
    def raw(self) -> bytes: ...


def run_facts(events: Iterable[LoggedEvent]) -> list[dict[str, Any]]:
    """Each run of a case as its events tell it, in the order of queueing.

    Keys: run, model, number, seed, attempt, state, verdict, error, level, rechecked, protocol,
    adapter, figures, release, served; the last five are null until logged. `served` is what acts
    for the case by its last release: digests of release, adapter, gate and weights, the middle two
    empty where the weights themselves stand for it. `attempt` counts those measured as not met
    since the last within thresholds; `level` is none, gated, merged, exact or revoked, none before
    its release goes live; `rechecked` is the verdict of the last recheck that decided, empty before
    the first; `figures` carries the logged estimates by probe. Invalid when events of a run
    come twice or in the wrong order: a test plan is fixed before the adapter is made, the adapter
    is made before it is tested, a release is registered only of what was tested, and a run ends
    with the verdict that was measured. Without an adapter a run can only be inconclusive. Runs of a
    model follow one another, none left out; further attempts share the first one's plan and count
    its seed on; no run has another one's adapter or figures.
    """
    runs: dict[str, dict[str, Any]] = {}
    for event in events:
        data, kind = event.body["data"], event.body["type"]
        if kind in LEVELS:
            _move(runs.values(), kind, data, file=event.file)
            continue
        name = data.get("run") if isinstance(data, Mapping) else None
        if not isinstance(name, str):
            continue
        try:
            if kind == "run.queued":
                runs[name] = _queued(runs, name, data)
            else:
                _add(runs, name, kind, data, event.seq)
        except (KeyError, TypeError):
            raise Invalid(f"{kind} does not fit its erasure run.", file=event.file) from None
        except ValueError as problem:
            raise Invalid(f"The erasure run {name}: {problem}.", file=event.file) from None
    return list(runs.values())


def claim_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """The strongest claim that the latest run of each model carries."""
    latest = {run["model"]: run for run in runs}.values()
    finished = [run for run in latest if run["state"] == "finished" and run["adapter"]]
    if latest and len(finished) == len(latest):
        if level_of(runs) == "revoked":
            return statements.ERASURE_REVOKED
        within = [run for run in finished if run["verdict"] == statements.WITHIN]
        if len(within) == len(latest) and all(run["level"] in IN_FORCE for run in within):
            if any(run["rechecked"] == statements.NOT_MET for run in finished):
                return statements.SUPPRESSION_NOT_KEPT
            return statements.BY_LEVEL[level_of(runs)]
        return statements.PROCEDURE_EXECUTED
    if any(run["adapter"] for run in runs):
        return statements.PROCEDURE_EXECUTED
    return statements.REQUEST_RECORDED


def level_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """The level that holds for all models with an adapter: the weakest that any of them has."""
    levels = dict.fromkeys((run["model"] for run in runs if run["adapter"]), "none")
    levels |= {run["model"]: run["level"] for run in runs if run["level"] != "none"}
    found = set(levels.values())
    return next((level for level in ("none", *IN_FORCE, "revoked") if level in found), "none")


def conclusions(
    facts: Sequence[Mapping[str, Any]], events: Sequence[LoggedEvent]
) -> dict[str, Any]:
    """Claim, limits and outcome of a case: what a statement concludes from its events."""
    claim = claim_of(facts)
    level = level_of(facts)
    approved = [e.body["data"] for e in events if e.body["type"] == "decision.approved"]
    return {
        "claim": {
            "name": claim,
            "says": statements.CLAIMS[claim],
            "level": level,
            "scope": statements.SCOPES[level],
            "baseModelUnchanged": not any(fact["level"] in IN_FORCE[1:] for fact in facts),
        },
        "limitations": limits_of(facts),
        "outcome": approved[-1].get("outcome") if approved else None,
    }


def limits_of(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the limits that hold for these runs: those of the level, and one more where a
    model was measured more than once. An adapter has those of a gated one, in force or not."""
    level = level_of(facts)
    made = any(fact["adapter"] for fact in facts)
    here = {*statements.LIMITS["gated" if made and level == "none" else level]}
    measured = [fact["model"] for fact in facts if fact["adapter"] and fact["figures"]]
    if len(measured) > len(set(measured)):
        here.add(statements.SEVERAL_ATTEMPTS)
    return [name for name in statements.LIMITATIONS if name in here]


def subject_of(
    facts: Sequence[Mapping[str, Any]], events: Sequence[LoggedEvent]
) -> list[dict[str, Any]]:
    """What a statement is about: the adapters with their configurations, latest run first.

    Without an adapter it is the last event of the case.
    """
    made = [fact for fact in reversed(facts) if fact["adapter"]]
    if not made:
        name = statements.event_file(len(events) - 1)
        return [{"name": name, "digest": {"sha256": hashlib.sha256(events[-1].raw).hexdigest()}}]
    subject = []
    for place, fact in enumerate(made):
        folder = f"{fact['model']}/{fact['number']}/" if place else ""
        for name, key in SUBJECTS:
            subject.append({"name": folder + name, "digest": {"sha256": fact["adapter"][key]}})
    return subject


def tests_of(fact: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tests of a run by probe: what was logged, and the word that follows from it."""
    estimates = fact["figures"]["estimates"] if fact["figures"] else {}
    return {
        name: {
            "result": statements.result_word(holds=row["holds"], threshold=row["threshold"]),
            **row,
        }
        for name, row in sorted(estimates.items())
    }


def _queued(runs: Mapping[str, Any], name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    if name in runs:
        raise ValueError("it was queued twice")
    earlier = [run for run in runs.values() if run["model"] == data["model"]]
    if data["number"] != len(earlier) + 1 or isinstance(data["number"], bool):
        raise ValueError("a run before it was left out")
    if not isinstance(data["seed"], int) or isinstance(data["seed"], bool):
        raise ValueError("it has no seed")
    if any(run["state"] not in ENDINGS.values() for run in earlier):
        raise ValueError("it was queued before the run before it had ended")
    short = _short(earlier)
    if short and data["seed"] != short[0]["seed"] + len(short):
        raise ValueError("its seed is not the one after the attempt before")
    return {
        "run": name,
        "model": _text(data, "model"),
        "number": data["number"],
        "seed": data["seed"],
        "attempt": len(short) + 1,
        "state": "queued",
        "verdict": "",
        "error": "",
        "level": "none",
        "rechecked": "",
        "protocol": None,
        "adapter": None,
        "figures": None,
        "release": None,
        "served": None,
    }


def _short(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The attempts measured as not met since the last run within thresholds, oldest first."""
    found: list[dict[str, Any]] = []
    for run in runs:
        within = run["state"] == "finished" and run["verdict"] == statements.WITHIN
        short = run["verdict"] == statements.NOT_MET
        found = [] if within else [*found, run] if short else found
    return found


def _add(
    runs: Mapping[str, dict[str, Any]], name: str, kind: str, data: Mapping[str, Any], seq: int
) -> None:
    """Add one later event to a run; ValueError when it comes twice or too early."""
    run = runs[name]
    others = [other for other in runs.values() if other is not run]
    same_model = [other for other in others if other["model"] == run["model"]]
    if kind in _STEPS:
        place = list(_STEPS).index(kind)
        later = [run[key] for key in list(_STEPS.values())[place:]]
        if run["state"] in ENDINGS.values() or any(later):
            raise ValueError(f"{kind} comes twice or too late")
        run["state"] = "running"
    if kind == "run.protocol_fixed":
        run["protocol"] = {"sha256": _text(data, "sha256"), "logged_at": seq}
        short = _short(other for other in same_model if other["number"] < run["number"])
        if short and short[0]["protocol"]["sha256"] != run["protocol"]["sha256"]:
            raise ValueError("it has another test plan than the attempt before")
    elif kind == "adapter.created":
        if run["protocol"] is None:
            raise ValueError("its adapter was made before its test plan was fixed")
        run["adapter"] = {**{key: _text(data, key) for key in _ADAPTER}, "logged_at": seq}
        if run["adapter"]["sha256"] in [o["adapter"]["sha256"] for o in others if o["adapter"]]:
            raise ValueError("its adapter is that of another run")
    elif kind == "run.verified":
        run["verdict"] = _text(data, "verdict")
        if run["verdict"] not in statements.RESULTS:
            raise ValueError("there is no verdict of that name")
        if run["adapter"] is None and run["verdict"] != statements.INCONCLUSIVE:
            raise ValueError("it has a verdict on an adapter that was not logged before")
        run["figures"] = {
            "sha256": _text(data, "figures_sha256"),
            "logged_at": seq,
            "estimates": {name: _estimate(row) for name, row in dict(data["estimates"]).items()},
        }
        if run["figures"]["sha256"] in [o["figures"]["sha256"] for o in others if o["figures"]]:
            raise ValueError("its figures are those of another run")
    elif kind == "release.registered":
        if run["figures"] is None:
            raise ValueError(f"{kind} comes before it was verified")
        run["release"] = _text(data, "release")
        if data["live"] is not (run["verdict"] == statements.WITHIN):
            raise ValueError("its release went live, or did not, against its verdict")
        if data["live"]:
            for other in same_model:
                other["level"], other["served"] = "none", None  # the new adapter takes its place
            made = {f"{what}_sha256": run["adapter"][key] for what, key in _MADE}
            run["level"], run["served"] = "gated", {"release": run["release"], **made}
    elif kind == "case.rechecked":
        _recheck(run, _text(data, "verdict"))
    elif kind in ENDINGS:
        _end(run, kind, data)


def _recheck(run: dict[str, Any], verdict: str) -> None:
    """What was measured again; what could not be measured takes no earlier verdict back."""
    if verdict not in statements.RESULTS:
        raise ValueError("it was measured again without a verdict")
    if run["figures"] is None:
        raise ValueError("it was measured again before it was verified")
    if verdict != statements.INCONCLUSIVE or not run["rechecked"]:
        run["rechecked"] = verdict


def _move(runs: Iterable[dict[str, Any]], kind: str, data: object, *, file: str) -> None:
    """Set the level of the runs of the models that the event names, and what is served for them."""
    served: Mapping[Any, Any] | None = None
    match kind, data:
        case "case.revoked", {"releases": dict(models)}:
            pass
        case "case.regated", {"model": str(model), **said}:
            models, served = {model: ""}, said
        case _, {"model": str(model), "verdict": verdict, "estimates": dict(rows), **said}:
            models, served = {model: ""}, said
            found = [row.get("holds") if isinstance(row, dict) else False for row in rows.values()]
            if verdict != statements.WITHIN or False in found:
                raise Invalid("It went into force although it fell short.", file=file)
            if kind == "case.retrained" and not all(_is_digest(said.get(k)) for k in TRAINED_ON):
                raise Invalid("It does not name what the weights were trained on.", file=file)
        case _:
            raise Invalid(f"{kind} does not name its models, or what was measured.", file=file)
    if served is not None:
        served = {key: served.get(key) for key in SERVED}
        if not all(isinstance(digest, str) for digest in served.values()):
            raise Invalid(f"{kind} does not name what is in force.", file=file)
    moved = [run for run in runs if run["model"] in models and run["level"] != "none"]
    if {run["model"] for run in moved} != {*models}:
        raise Invalid(f"{kind} names a model on which nothing was in force.", file=file)
    for run in moved:
        run["level"], run["served"] = LEVELS[kind], served


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _end(run: dict[str, Any], kind: str, data: Mapping[str, Any]) -> None:
    """End the run with the verdict measured; unmeasured it can only fail or be cancelled."""
    if run["state"] in ENDINGS.values():
        raise ValueError("it ended twice")
    verdict = _text(data, "verdict")
    if run["figures"] is not None:
        if verdict != run["verdict"]:
            raise ValueError("it ended with another verdict than was measured")
    elif kind == "run.finished" or verdict not in ("", statements.INCONCLUSIVE):
        raise ValueError("it ended as if it had been measured, but was never verified")
    run["state"], run["verdict"], run["error"] = ENDINGS[kind], verdict, _text(data, "error")


def _estimate(row: Mapping[str, Any]) -> dict[str, Any]:
    """The logged figures of one probe; `holds` and `threshold` decide its result in a word."""
    if not (row["holds"] is None or isinstance(row["holds"], bool)):
        raise ValueError("“holds” of a test is neither true, false nor null")
    _text(row, "threshold")
    return {key: row[key] for key in FIGURES}


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise ValueError(f"“{key}” is not a text")
    return value
