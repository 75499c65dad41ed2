"""The verdict of a run judged anew: by its test plan, from its figures, and by nothing else.

The same judgement as the model side's (the rules are in the plan), written a second time on
purpose: a verdict, a word or a threshold that does not follow from plan and figures is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import canonical, statements
from .errors import Invalid

FORM = 3
PRIMARY = ("recall_unseen", "knowledge_rank")
"""Probes that the model must have answered better than chance before, or nothing is shown."""
CONTROL_UPPER = "control_upper95"
LIMITABLE = frozenset({"after", "bound"})
DIRECTIONS = {"at_most": 1.0, "at_least": -1.0}
HOLDS, SHORT, UNDECIDED = "holds", "short", "undecided"
HOLDS_AS = {HOLDS: True, SHORT: False, UNDECIDED: None}
UNMEASURED = "could not be measured"
_DECIMAL = re.compile(r"-?(\d{1,20}(\.\d{1,20})?(e[+-]\d{1,3})?|inf)|nan")


@dataclass(frozen=True)
class Plan:
    """What a test plan fixes: which weights, seeds and recipes, which probes with which rules."""

    file: str
    value: Mapping[str, Any]
    profile: str
    level: str
    model: str
    tokenizer: str
    control: str  # digest of the control, empty where made-up people stand for it
    attempts: tuple[Mapping[str, Any], ...]
    questions: Mapping[str, str]
    rules: Mapping[str, Sequence[Mapping[str, str]]]
    not_tested: Mapping[str, str]


def read_plan(data: bytes, *, file: str) -> Plan:
    """The test plan of a run; Invalid unless it has its form."""
    value: Any = canonical.loads(data, file=file)
    match value:
        case {
            "form": form,
            "profile": str(profile),
            "level": str(level),
            "model": {"sha256": str(model), "tokenizer_sha256": str(tokenizer)},
            "control": dict(control),
            "attempts": list(attempts),
            "probes": dict(probes),
            "not_tested": dict(not_tested),
        } if form == FORM and not isinstance(form, bool):
            pass
        case _:
            raise Invalid("The test plan does not have its form.", file=file)
    questions, rules = {}, {}
    for name, probe in probes.items():
        match probe:
            case {"question": str(question), "rules": list(found)} if all(map(_is_rule, found)):
                questions[name], rules[name] = question, found
            case _:
                raise Invalid(f"The test plan has no rules for {name}.", file=file)
    seen = control.get("sha256", "")
    texts = [seen, *not_tested.values()]
    if not all(isinstance(text, str) for text in texts) or set(not_tested) & set(probes):
        raise Invalid("The test plan does not have its form.", file=file)
    if not all(isinstance(attempt, Mapping) for attempt in attempts):
        raise Invalid("The attempts of the test plan are malformed.", file=file)
    return Plan(
        file=file,
        value=value,
        profile=profile,
        level=level,
        model=model,
        tokenizer=tokenizer,
        control=seen,
        attempts=tuple(attempts),
        questions=questions,
        rules=rules,
        not_tested=not_tested,
    )


def check_attempt(plan: Plan, fact: Mapping[str, Any], settings: Mapping[str, Any] | None) -> None:
    """Invalid unless the run is the attempt that the plan lists: its seed, its recipe."""
    number = fact["attempt"]
    if number > len(plan.attempts):
        raise Invalid(f"The test plan lists no attempt {number}.", file=plan.file)
    listed = {"attempt": number, "seed": fact["seed"]}
    recipe = plan.attempts[number - 1]
    if any(not _same(recipe.get(key), value) for key, value in listed.items()):
        raise Invalid("The test plan lists another seed for this attempt.", file=plan.file)
    if settings is None:
        return
    if fact["adapter"]["base_sha256"] != plan.model:
        raise Invalid("The adapter was made on other weights than planned.", file=plan.file)
    for key, value in recipe.items():
        if key != "seed" and not _same(settings.get(key), value):
            raise Invalid(
                f"The adapter was made with another “{key}” than planned.", file=plan.file
            )


def check_figures(
    plan: Plan, fact: Mapping[str, Any], figures: Mapping[str, Any], *, file: str
) -> None:
    """Invalid unless the figures are of this run, and give what was logged of it, by its plan."""
    adapter = fact["adapter"]
    own = {
        "protocol": plan.value,
        "adapter": {key: adapter[key] for key in ("sha256", "gate_sha256")},
        "control": {"sha256": plan.control} if plan.control else None,
    }
    for key, expected in own.items():
        if key not in figures or not _same(figures[key], expected):
            raise Invalid(f"“{key}” of the figures is not that of the run.", file=file)
    match figures:
        case {
            "model": {"sha256": plan.model, "tokenizer": plan.tokenizer},
            "attempt": {"number": number},
            "release": str(release),
            "probes": dict(probes),
            "not_measured": dict(failed),
        } if _same(number, fact["attempt"]) and fact["release"] in (None, release):
            pass
        case _:
            raise Invalid("The figures are not of this model, attempt and release.", file=file)
    for name in plan.rules:
        if (name in probes) == (name in failed):
            raise Invalid(f"The figures do not say what became of {name}.", file=file)
    if set(probes) - set(plan.rules) or not all(isinstance(why, str) for why in failed.values()):
        raise Invalid("The figures hold what was not planned.", file=file)
    outcomes = {
        name: _outcome(plan.rules[name], _numbers(found, name, file), found, f"{file}: {name}")
        for name, found in probes.items()
    }
    _check_logged(fact["figures"]["estimates"], plan, probes, outcomes, file=file)
    if _verdict(plan, probes, outcomes, failed) != fact["verdict"]:
        raise Invalid("The verdict does not follow from the figures and the test plan.", file=file)


def details(
    plan: Plan | None, settings: Mapping[str, Any] | None, figures: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the statement says of a run out of its files: method, what it rests on, what was not
    tested. Null or empty where there is no such file."""
    method = None
    if settings is not None:
        method = {
            "name": settings.get("method"),
            "modifier": settings.get("modifier"),
            "codeDigest": {"sha256": settings.get("code_sha256")},
        }
    rests = {}
    if plan is not None:
        rests = {"base-model": plan.model, "tokenizer": plan.tokenizer, "control": plan.control}
    environment = (figures or {}).get("environment")
    code = environment.get("code_sha256") if isinstance(environment, Mapping) else None
    return {
        "method": method,
        "resolvedDependencies": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in rests.items() if digest
        ],
        "evaluation": {
            "profile": plan.profile if plan else None,
            "codeDigest": {"sha256": code} if code else None,
            "notTested": dict(plan.not_tested) if plan else {},
            "notMeasured": dict((figures or {}).get("not_measured", {})),
        },
    }


# --- Inside -------------------------------------------------------------------------------------
def _is_rule(rule: object) -> bool:
    match rule:
        case {"figure": str(figure), "is": str(way), "limit": str(limit), **rest} if not rest:
            known = figure in LIMITABLE and way in DIRECTIONS
            return known and (limit == CONTROL_UPPER or _DECIMAL.fullmatch(limit) is not None)
    return False


def _number(value: object) -> float | None:
    """The number that a decimal text or a whole number means; ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise ValueError("not a number")


def _numbers(found: object, name: str, file: str) -> dict[str, float | None]:
    if not isinstance(found, Mapping) or not isinstance(found.get("n"), int):
        raise Invalid(f"The figures of {name} are malformed.", file=file)
    keys = ("before", "after", "control", "bound", CONTROL_UPPER)
    try:
        return {key: _number(found[key]) for key in keys}
    except (KeyError, ValueError):
        raise Invalid(f"The figures of {name} are malformed.", file=file) from None


def _limit(rule: Mapping[str, str], numbers: Mapping[str, float | None]) -> float:
    """Where nothing could be asked that stands for the control, nothing may be told."""
    if rule["limit"] == CONTROL_UPPER:
        return numbers[CONTROL_UPPER] or 0.0
    return float(rule["limit"])


def _outcome(
    rules: Sequence[Mapping[str, str]],
    numbers: Mapping[str, float | None],
    found: Mapping[str, Any],
    where: str,
) -> str:
    """What the rules make of the figures of a probe; empty without rules. Invalid if the figures
    themselves say another limit or outcome."""
    outcomes = [_rule_outcome(rule, numbers) for rule in rules]
    outcome = SHORT if SHORT in outcomes else UNDECIDED if UNDECIDED in outcomes else HOLDS
    if not rules:
        outcome = ""
    stated = found.get("limits", [])
    limits = [repr(_limit(rule, numbers)) for rule in rules]  # texts: NaN is not even itself
    try:
        fits = isinstance(stated, list) and [repr(_number(each)) for each in stated] == limits
    except ValueError:
        fits = False
    if not fits or found.get("outcome", "") != outcome:
        raise Invalid("The outcome does not follow from the figures.", file=where)
    return outcome


def _rule_outcome(rule: Mapping[str, str], numbers: Mapping[str, float | None]) -> str:
    sign, limit = DIRECTIONS[rule["is"]], _limit(rule, numbers)
    value, after = numbers[rule["figure"]], numbers["after"]
    if value is None or after is None or not all(map(math.isfinite, (value, after, limit))):
        return UNDECIDED
    if sign * value <= sign * limit:
        return HOLDS
    return UNDECIDED if rule["figure"] == "bound" and sign * after <= sign * limit else SHORT


def _check_logged(
    estimates: Mapping[str, Any],
    plan: Plan,
    probes: Mapping[str, Any],
    outcomes: Mapping[str, str],
    *,
    file: str,
) -> None:
    """Invalid unless the entry of the log carries exactly these figures."""
    if set(estimates) != set(probes):
        raise Invalid("The figures are not of the probes that were logged.", file=file)
    for name, logged in estimates.items():
        found, rules = probes[name], plan.rules[name]
        expected = {
            "n": found["n"],
            **{key: _text(found[key]) for key in ("before", "after", "control", "bound")},
            "threshold": _text(found["limits"][0]) if rules else "",
            "holds": HOLDS_AS[outcomes[name]] if rules else None,
        }
        if not _same(logged, expected):
            raise Invalid(f"The figures of {name} are not those that were logged.", file=file)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _verdict(
    plan: Plan,
    probes: Mapping[str, Any],
    outcomes: Mapping[str, str],
    failed: Mapping[str, str],
) -> str:
    """An intersection-union test: every probe that decides must hold; errors decide nothing."""
    deciding = [name for name, rules in plan.rules.items() if rules]
    measured = [name for name in deciding if name in probes]
    broken = any(name in deciding or why.startswith(UNMEASURED) for name, why in failed.items())
    if broken or not measured:
        return statements.INCONCLUSIVE
    for name in PRIMARY:
        if name in measured:
            before = _number(probes[name]["before"])
            limits = [_number(each) or 0.0 for each in probes[name]["limits"]]
            if not (before or 0.0) > max(limits):
                return statements.INCONCLUSIVE
    found = {outcomes[name] for name in measured}
    if SHORT in found:
        return statements.NOT_MET
    return statements.INCONCLUSIVE if UNDECIDED in found else statements.WITHIN


def _same(one: object, other: object) -> bool:
    """Equal as canonical JSON: a truth value is no number."""
    return canonical.dumps(one) == canonical.dumps(other)
