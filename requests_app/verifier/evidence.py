"""Whether a statement is backed: each thing it says of a run by events and enclosed files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from . import canonical, statements
from .errors import Invalid
from .figures import Plan, check_attempt, check_figures, details, read_plan
from .runs import SUBJECTS, LoggedEvent, conclusions, run_facts, subject_of, tests_of


def check_runs(
    files: Mapping[str, bytes], statement: Mapping[str, Any], events: Sequence[LoggedEvent]
) -> None:
    """Invalid unless the statement's runs, claim and subject are those that the events carry."""
    facts = run_facts(events)
    predicate = statement["predicate"]
    if [run.get("run") for run in predicate["runs"]] != [fact["run"] for fact in facts]:
        raise Invalid(
            "The statement does not name exactly the erasure runs of the events.",
            file=statements.STATEMENT,
        )
    paths = run_files(facts)
    for stated, fact in zip(predicate["runs"], facts, strict=True):
        _check_run(files, stated, fact, paths[fact["run"]])
    for key, value in conclusions(facts, events).items():
        if canonical.dumps(predicate[key]) != canonical.dumps(value):
            raise Invalid(f"“{key}” is not what the events carry.", file=statements.STATEMENT)
    if statement["subject"] != subject_of(facts, events):
        raise Invalid(
            "The subject of the statement is not what the events produced.",
            file=statements.STATEMENT,
        )


def run_files(facts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The files of each run by role, as they lie in a bundle: those of the latest run where readers
    look first, those of earlier ones in folders named by run."""
    found = {}
    for fact in facts:
        roles = {
            "protocol": fact["protocol"],
            "config": fact["adapter"],
            "metrics": fact["figures"],
            "environment": fact["figures"],
            "testResult": fact["figures"] and fact["adapter"],
        }
        folder = "" if fact is facts[-1] else f"{fact['run']}/"
        found[fact["run"]] = {
            role: f"eval/{folder}{role}.json" for role, logged in roles.items() if logged
        }
        if "testResult" in found[fact["run"]]:
            name = "test-result.dsse.json"
            found[fact["run"]]["testResult"] = f"eval/{folder}{name}" if folder else name
    return found


def run_details(
    files: Mapping[str, bytes], paths: Mapping[str, str], fact: Mapping[str, Any]
) -> dict[str, Any]:
    """What a statement says of a run out of its files, and the questions of its tests; Invalid
    unless the files are those that were logged, are of this run, and give its verdict."""
    digests = {
        "protocol": (fact["protocol"] or {}).get("sha256"),
        "config": (fact["adapter"] or {}).get("settings_sha256"),
        "metrics": (fact["figures"] or {}).get("sha256"),
    }
    for role, digest in digests.items():
        if digest is not None and _digest(files, paths[role]) != digest:
            raise Invalid("The file is not the one whose digest was logged.", file=paths[role])
    plan: Plan | None = None
    if "protocol" in paths:
        plan = read_plan(files[paths["protocol"]], file=paths["protocol"])
    settings = _object(files, paths, "config")
    figures = _object(files, paths, "metrics")
    if plan is not None:
        check_attempt(plan, fact, settings)
    if figures is not None:
        _check_figures(files, paths, fact, plan, figures)
    questions = plan.questions if plan else {}
    return {
        **details(plan, settings, figures),
        "tests": [
            {"name": name, "question": questions.get(name, ""), **test}
            for name, test in tests_of(fact).items()
        ],
    }


def test_result_of(fact: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Subject and predicate of the in-toto test-result/v0.1 of a verified run.

    PASSED: within thresholds; FAILED: not met; WARNED: inconclusive.
    """
    named = {word: [] for word in ("PASSED", "WARNED", "FAILED")}  # type: dict[str, list[str]]
    for name, test in tests_of(fact).items():
        if test["result"] in named:
            named[test["result"]].append(name)
    subject = [{"name": name, "digest": {"sha256": fact["adapter"][key]}} for name, key in SUBJECTS]
    predicate = {
        "result": statements.RESULTS[fact["verdict"]],
        "configuration": [
            {"name": "protocol.json", "digest": {"sha256": fact["protocol"]["sha256"]}}
        ],
        **{f"{word.lower()}Tests": names for word, names in named.items()},
    }
    return subject, predicate


def _check_figures(
    files: Mapping[str, bytes],
    paths: Mapping[str, str],
    fact: Mapping[str, Any],
    plan: Plan | None,
    figures: Mapping[str, Any],
) -> None:
    file = paths["metrics"]
    if figures.get("run") != fact["run"]:
        raise Invalid("The figures are of another run.", file=file)
    environment = canonical.dumps(figures.get("environment"))
    if _digest(files, paths["environment"]) != hashlib.sha256(environment).hexdigest():
        raise Invalid("The environment is not that of the figures.", file=paths["environment"])
    if figures.get("nothing_measurable") is True:
        if fact["verdict"] != statements.INCONCLUSIVE or fact["figures"]["estimates"]:
            raise Invalid("There was nothing to measure, and yet a verdict.", file=file)
    elif plan is None or fact["adapter"] is None:
        raise Invalid("The figures are of no adapter.", file=file)
    else:
        check_figures(plan, fact, figures, file=file)


def _check_run(
    files: Mapping[str, bytes],
    stated: Mapping[str, Any],
    fact: Mapping[str, Any],
    paths: Mapping[str, str],
) -> None:
    expected = {**fact, **run_details(files, paths, fact), "files": paths}
    name = fact["run"]
    if set(stated) != set(expected):
        raise Invalid(f"The run {name} does not have its fields.", file=statements.STATEMENT)
    for key, value in expected.items():
        if canonical.dumps(stated[key]) != canonical.dumps(value):
            raise Invalid(
                f"“{key}” of the run {name} is not what events and files say.",
                file=statements.STATEMENT,
            )


def _object(
    files: Mapping[str, bytes], paths: Mapping[str, str], role: str
) -> Mapping[str, Any] | None:
    """The JSON object of a run's file; None where the run has none."""
    if role not in paths:
        return None
    value = canonical.loads(files[paths[role]], file=paths[role])
    if not isinstance(value, Mapping):
        raise Invalid("The file does not hold a JSON object.", file=paths[role])
    return value


def _digest(files: Mapping[str, bytes], name: str) -> str:
    if name not in files:
        raise Invalid("The file is missing from the bundle.", file=name)
    return hashlib.sha256(files[name]).hexdigest()
