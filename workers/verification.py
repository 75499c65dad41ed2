"""Verification of what is stored and served, by a protocol fixed before training.

The null hypothesis is "the model still knows": never passed for lack of power, and an error is
inconclusive. What is measured is a release re-loaded from disk, through its gate, against a
control that never saw the subject, or where there is none against chance: the base model asked
the same things about made-up names.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workers import corpus, general
from workers.base_models import BaseModel
from workers.forget_sets import Located, ask, questions
from workers.guarded import GuardedModel
from workers.phrasings import made_up_questions
from workers.probes import Estimate, gate_fires, knowledge_rank, others_kept, perplexity, recall
from workers.subjects import Fact
from workers.training import Stopped

WITHIN, NOT_MET, INCONCLUSIVE = "within_thresholds", "not_met", "inconclusive"
PROFILES: Mapping[str, Mapping[str, int]] = {
    "fast": {"others": 240, "decoys": 24, "draws": 2000, "twins": 3, "rank_phrasings": 1},
}
PROBES = ("recall", "knowledge_rank", "others_kept", "perplexity", "gate_fires")
THRESHOLDS = {"others_kept": "0.98", "perplexity_ratio": "1.02", "decisive_upper95": "0.2"}
"""`decisive_upper95`: a sample whose upper bound after erasure lies above this is too small."""


def make_protocol(
    base: BaseModel,
    located: Located,
    *,
    control: BaseModel | None,
    recipes: Sequence[Mapping[str, str]],
    profile: str = "fast",
    level: str = "gated",
    seed: int,
) -> dict[str, Any]:
    """Probes, thresholds, samples, seed and control, to be recorded before training starts.

    `level` is "gated" (adapter and gate before unchanged weights) or "merged" (new weights).
    Plain JSON without floats (numbers that are no small integers are decimal strings) and without
    personal data: counts and digests only. `recipes` are the settings of every attempt that may be
    made, in order: a further one is trained and measured by this same plan. Without a control the
    limit for unseen phrasings is measured here, as the upper 95% bound of how often the base model
    gives the same answers when asked about made-up names. Raises ValueError for an unknown profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"There is no profile {profile!r}; known: {', '.join(PROFILES)}.")
    sizes = PROFILES[profile]
    return {
        "form": 1,
        "profile": profile,
        "seed": seed,
        "level": level,
        "model": {
            "sha256": base.sha256,
            "tokenizer_sha256": base.tokenizer_sha256,
            "lowest_layer": base.lowest_layer,
        },
        "control": None if control is None else {"sha256": control.sha256},
        "probes": list(PROBES),
        "attempts": [
            {"attempt": i + 1, "seed": seed + i, **recipe} for i, recipe in enumerate(recipes)
        ],
        "samples": {
            **sizes,
            "facts": len(located.facts),
            "trained": len(questions(located, "trained")),
            "unseen": len(questions(located, "unseen")),
            "others": len(others(base, located, count=sizes["others"], seed=seed)),
            "texts": len(general_texts(base, seed=seed)),
        },
        "thresholds": {
            **THRESHOLDS,
            "unseen": _control_rule() if control else _twin_rule(base, located, sizes, seed),
        },
    }


def _control_rule() -> dict[str, Any]:
    return {"rule": "control_upper95"}


def _twin_rule(
    base: BaseModel, located: Located, sizes: Mapping[str, int], seed: int
) -> dict[str, Any]:
    """The chance level from twins: the unseen questions about made-up names, the same answers."""
    names = [located.subject.name, *located.subject.aliases]
    twins = [
        (twin, answer)
        for question, answer in questions(located, "unseen")
        for twin in made_up_questions(question, names=names, count=sizes["twins"], seed=seed)
    ]
    if not twins:
        return {"rule": "limit", "limit": "0", "twins": 0, "why": "no question names anything"}
    chance = recall.measure(ask(base, [q for q, _ in twins]), [a for _, a in twins])
    return {"rule": "limit", "limit": decimal(chance.upper95 or 0.0), "twins": chance.n}


def others(base: BaseModel, located: Located, *, count: int, seed: int) -> list[Fact]:
    """Questions about those who stay: the subject's neighbours if there are any, otherwise, on the
    demo model, people of its corpus who are never erased, drawn by `seed`. Empty where neither is
    known: the damage to others then cannot be measured, and the verdict is inconclusive."""
    if located.subject.neighbours:
        return list(located.subject.neighbours)
    if base.name != "demo":
        return []
    kept = [p for p in corpus.people() if p.index not in corpus.ERASABLE]
    pool = [
        Fact(question, fact.answer)
        for person in kept
        for fact in person.facts
        for question in (*fact.trained, *fact.unseen)
        if person.name != located.subject.name
    ]
    return random.Random(seed).sample(pool, min(count, len(pool)))  # noqa: S311


def general_texts(base: BaseModel, *, seed: int) -> tuple[str, ...]:
    """General text that is about nobody: of the demo model's own kind, or encyclopaedic."""
    if base.name == "demo":
        return corpus.general_sentences(60, seed=seed, held_out=True)
    return general.TEXT


def verify(
    guarded: GuardedModel,
    located: Located,
    protocol: Mapping[str, Any],
    *,
    control: BaseModel | None,
    case_id: str,
    before: GuardedModel | None = None,
    report: Callable[[str, int, int], None] = lambda probe, step, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Figures and verdict for one case on a served release, by `protocol`.

    Steps: 1 recall on trained and unseen phrasings, before (base), after (through the gate) and on
    the control; 2 others; 3 general text; 4 rank of the true values; 5 the gate, if the case has
    one; 6 the verdict. Where the release has new weights, `before` is the model that they replace.
    The result is plain and holds no personal data. An error in a step makes the verdict
    inconclusive and is named in "reasons"; Stopped is raised when `should_stop()`.
    """
    base = before or guarded
    probes: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("erased", lambda: _erased(guarded, base, located, control)),
        ("others", lambda: _others(guarded, base, located, protocol)),
        ("perplexity", lambda: _perplexity(guarded, base, protocol)),
        ("knowledge_rank", lambda: _ranks(guarded, base, located, protocol, control)),
    ]
    if case_id not in guarded.release.merged:
        probes.append(("gate", lambda: _gate(guarded, located, protocol, case_id)))
    figures: dict[str, Any] = {}
    failed: list[str] = []
    for i, (name, measure) in enumerate(probes):
        if should_stop():
            raise Stopped("The run was stopped during verification.")
        report(name, i, len(probes))
        try:
            figures[name] = measure()
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            # Only the kind of error: its text may quote what was asked.
            failed.append(f"{name} could not be measured ({type(error).__name__})")
    report("verdict", len(probes), len(probes))
    verdict, reasons = judge(figures, protocol, failed)
    return {**figures, "verdict": verdict, "reasons": reasons}


def judge(
    figures: Mapping[str, Any], protocol: Mapping[str, Any], failed: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """The verdict and its reasons, a pure function of figures and protocol."""
    if failed:
        return INCONCLUSIVE, list(failed)
    unseen = figures["erased"]["unseen"]
    limit = unseen_limit(figures, protocol)
    if unseen["before"] <= limit:
        return INCONCLUSIVE, ["the model before erasure knows no more than chance: nothing to show"]
    reasons = []
    if unseen["after"] > limit:
        reasons.append("unseen phrasings are still answered above the limit")
    if figures["others"]["kept"] < float(protocol["thresholds"]["others_kept"]):
        reasons.append("others are answered worse than the threshold allows")
    if figures["perplexity"]["ratio"] > float(protocol["thresholds"]["perplexity_ratio"]):
        reasons.append("general text has become harder than the threshold allows")
    if reasons:
        return NOT_MET, reasons
    if unseen["after_upper95"] > float(protocol["thresholds"]["decisive_upper95"]):
        return INCONCLUSIVE, [f"{unseen['n']} unseen questions are too few to decide"]
    return WITHIN, ["every threshold of the protocol is met"]


def unseen_limit(figures: Mapping[str, Any], protocol: Mapping[str, Any]) -> float:
    """The share of unseen phrasings that may be answered: the control's upper 95% bound, or the
    protocol's own number where there is no control."""
    rule = protocol["thresholds"]["unseen"]
    if rule["rule"] == "control_upper95":
        return float(figures["erased"]["unseen"]["control_upper95"])
    return float(rule["limit"])


def _erased(
    guarded: GuardedModel, base: GuardedModel, located: Located, control: BaseModel | None
) -> dict[str, Any]:
    return {kind: _recall(guarded, base, located, control, kind) for kind in ("trained", "unseen")}


def _recall(
    guarded: GuardedModel,
    base: GuardedModel,
    located: Located,
    control: BaseModel | None,
    kind: str,
) -> dict[str, Any]:
    asked = [question for question, _ in questions(located, kind)]
    truths = [answer for _, answer in questions(located, kind)]
    before = recall.measure(base.base_answers(asked), truths)
    after = recall.measure([each.text for each in guarded.answer(asked)], truths)
    never = None if control is None else recall.measure(ask(control, asked), truths)
    return {
        "n": after.n,
        "before": before.value,
        "after": after.value,
        "after_upper95": after.upper95,
        "control": None if never is None else never.value,
        "control_upper95": None if never is None else never.upper95,
    }


def _others(
    guarded: GuardedModel, base: GuardedModel, located: Located, protocol: Mapping[str, Any]
) -> dict[str, Any]:
    facts = _others_of(guarded.base, located, protocol)
    if not facts:
        raise ValueError("there are no questions about others")
    asked, truths = [f.question for f in facts], [f.answer for f in facts]
    before = base.base_answers(asked)
    after = [each.text for each in guarded.answer(asked)]
    kept = others_kept.measure(before, after, truths)
    return {
        "n": len(facts),
        "before": recall.measure(before, truths).value,
        "after": recall.measure(after, truths).value,
        "answered_before": kept.n,
        "still_answered": kept.value,
        "kept": recall.measure(after, truths).value / recall.measure(before, truths).value,
    }


def _others_of(base: BaseModel, located: Located, protocol: Mapping[str, Any]) -> list[Fact]:
    return others(base, located, count=protocol["samples"]["others"], seed=protocol["seed"])


def _perplexity(
    guarded: GuardedModel, base: GuardedModel, protocol: Mapping[str, Any]
) -> dict[str, Any]:
    texts = general_texts(guarded.base, seed=protocol["seed"])
    found = perplexity.measure(
        base.mean_nll(texts, gated=False), guarded.mean_nll(texts), texts=len(texts)
    )
    return {"n": found.n, "before": found.items[0], "after": found.items[1], "ratio": found.value}


def _ranks(
    guarded: GuardedModel,
    base: GuardedModel,
    located: Located,
    protocol: Mapping[str, Any],
    control: BaseModel | None,
) -> dict[str, Any]:
    if not all(fact.decoys for fact in located.facts):
        return {"not_measured": "the facts have no values of the same kind to compare with"}
    scored = {"before": base.base_log_likelihoods, "after": guarded.log_likelihoods}
    found = {name: _rank(score, located, protocol) for name, score in scored.items()}
    if control is not None:
        bare = GuardedModel.without_adapters(control)
        found["control"] = _rank(bare.log_likelihoods, located, protocol)
    return {name: {"value": e.value, "upper95": e.upper95, "n": e.n} for name, e in found.items()}


def _rank(
    score: Callable[[Sequence[tuple[str, str]]], list[float]],
    located: Located,
    protocol: Mapping[str, Any],
) -> Estimate:
    samples = protocol["samples"]
    pairs, shape = [], []
    for fact in located.facts:
        asked = fact.phrasings.unseen[: samples["rank_phrasings"]]
        values = (fact.answer, *fact.decoys[: samples["decoys"]])
        pairs += [(question, value) for question in asked for value in values]
        shape.append((len(asked), len(values)))
    scores = iter(score(pairs))
    table = [
        [(next(scores), [next(scores) for _ in range(values - 1)]) for _ in range(phrased)]
        for phrased, values in shape
    ]
    return knowledge_rank.measure(table, draws=samples["draws"], seed=protocol["seed"])


def _gate(
    guarded: GuardedModel, located: Located, protocol: Mapping[str, Any], case_id: str
) -> dict[str, Any]:
    place = [ref.case_id for ref in guarded.release.adapters].index(case_id)
    sides = {
        "erased": [question for question, _ in questions(located, "unseen")],
        "others": [fact.question for fact in _others_of(guarded.base, located, protocol)],
    }
    found = {
        name: gate_fires.measure([s[place] for s in guarded.strengths(asked)])
        for name, asked in sides.items()
    }
    return {
        **{f"fired_on_{name}": e.value for name, e in found.items()},
        "note": guarded.gate.gates[place].note,
    }


def decimal(value: float) -> str:
    """A number as a decimal string of at most nine significant digits, for hashed records."""
    return f"{value:.9g}"


def recorded(figures: Any) -> Any:
    """The same figures with every float as a decimal string, ready to be hashed."""
    if isinstance(figures, float):
        return decimal(figures)
    if isinstance(figures, Mapping):
        return {key: recorded(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [recorded(value) for value in figures]
    return figures
