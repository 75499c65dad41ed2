"""The test plan of a case, fixed before training: probes, rules, samples, seed and control.

And what it lets the probes ask about (`case_of`). Plain values; nothing here is measured.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from workers import corpus, general
from workers.answers import is_match, sampled_answers
from workers.base_models import BaseModel
from workers.forget_sets import Located, questions, twin_questions
from workers.probes import CONTROL, Case, load_probe, probe_names, sides_of
from workers.subjects import Fact

PRIMARY = ("recall_unseen", "knowledge_rank")
"""What a later release is measured by again."""
GATED, MERGED, EXACT = "gated", "merged", "exact"
FAST = (
    "recall_unseen",
    "recall_trained",
    "knowledge_rank",
    "others_kept",
    "perplexity",
    "gate_fires",
    "leak",
    "verbatim",
    "answer_loss",
    "least_likely",
    "refusals",
    "fluency",
    "ablated",
)
STANDARD = (
    *FAST,
    "neighbours",
    "membership",
    "multiple_choice",
    "in_context",
    "adversarial",
    "quantised",
)
FULL = (*STANDARD, "relearned", "traces", "muse")
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "fast": {
        "probes": FAST,
        "sizes": {"others": 240, "decoys": 24, "draws": 2000, "twins": 3},
    },
    "standard": {
        "probes": STANDARD,
        "sizes": {"others": 480, "decoys": 48, "draws": 10_000, "twins": 3},
    },
    "full": {
        "probes": FULL,
        "sizes": {"others": 960, "decoys": 99, "draws": 10_000, "twins": 3},
    },
}
OF_GATES = ("gate_fires",)
"""Probes that ask about the case's gate: not run where the release holds the case merged."""
CONTROL_UPPER = "control_upper95"
Rule = Mapping[str, str]


def at_most(limit: str, figure: str = "after") -> Rule:
    return {"figure": figure, "is": "at_most", "limit": limit}


def at_least(limit: str, figure: str = "after") -> Rule:
    return {"figure": figure, "is": "at_least", "limit": limit}


RULES: Mapping[str, Sequence[Rule]] = {
    "recall_unseen": (at_most(CONTROL_UPPER), at_most("0.2", "bound")),
    "knowledge_rank": (at_most("0.7", "bound"),),
    "others_kept": (at_least("0.98"), at_least("0.95", "bound")),
    "perplexity": (at_most("1.02"),),
    "leak": (at_most("0.2", "bound"),),
    "verbatim": (at_most("0.2", "bound"),),
    "refusals": (at_most("0.02"),),
}
"""What decides, by probe. A figure beyond its limit is not met; one within it whose bound is beyond
is undecided: the sample is too small. Chosen by `benchmarks.calibration`."""
MERGED_RULES: Mapping[str, Sequence[Rule]] = {"ablated": RULES["recall_unseen"]}
"""What decides on new weights besides."""
NOT_OF_EXACT = ("perplexity",)
"""What decides nothing on weights trained anew: how another training writes in general is for who
trained it to judge. That they answer about others keeps a ruined model from passing."""
HELD_BACK = (
    ("One last question. {question}", "For my notes: {question}"),
    ("Quick question: {question}", "And another thing. {question}"),
)
"""Wordings for the second and the third attempt: the first was judged by others."""
FEWEST_VALUES = 8


def make_protocol(
    base: BaseModel,
    located: Located,
    *,
    control: BaseModel | None,
    recipes: Sequence[Mapping[str, str]],
    profile: str = "fast",
    level: str = GATED,
    seed: int,
) -> dict[str, Any]:
    """Probes, thresholds, samples, seed and control, to be recorded before training starts.

    `level` is "gated" (adapter and gate before unchanged weights), "merged" (consolidated weights)
    or "exact" (weights trained anew).
    Plain JSON without floats (numbers that are no small integers are decimal strings) and without
    personal data: counts and digests only. `recipes` are the settings of every attempt that may be
    made, in order: a further one is trained and measured by this same plan, on wordings that no
    earlier one was judged by. Raises ValueError for an unknown profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"There is no profile {profile!r}; known: {', '.join(PROFILES)}.")
    sizes = PROFILES[profile]["sizes"]
    probes = PROFILES[profile]["probes"]
    rules = {**RULES, **({} if level == GATED else MERGED_RULES)}
    for name in NOT_OF_EXACT if level == EXACT else ():
        del rules[name]
    return {
        "form": 3,
        "profile": profile,
        "seed": seed,
        "level": level,
        "model": {
            "sha256": base.sha256,
            "tokenizer_sha256": base.tokenizer_sha256,
            "lowest_layer": base.lowest_layer,
        },
        "control": {"sha256": control.sha256} if control else {"made_up_people": sizes["twins"]},
        "probes": {
            name: {
                "question": load_probe(name).QUESTION,
                "sides": _sides(name, control is not None),
                "rules": _plain(rules.get(name, ())),
            }
            for name in probes
        },
        "not_tested": {
            name: load_probe(name).QUESTION for name in probe_names() if name not in probes
        },
        "attempts": [
            {"attempt": i + 1, "seed": seed + i, **recipe} for i, recipe in enumerate(recipes)
        ],
        "held_back": [list(wordings) for wordings in HELD_BACK],
        "samples": {
            **sizes,
            "facts": len(located.facts),
            "trained": len(questions(located, "trained")),
            "unseen": len(questions(located, "unseen")),
            "others": len(others(base, located, count=sizes["others"], seed=seed)),
            "texts": len(general_texts(base, seed=seed)),
        },
    }


def _sides(name: str, has_control: bool) -> list[str]:
    return [side for side in sides_of(name) if has_control or not side.startswith(CONTROL)]


def _plain(rules: Sequence[Rule]) -> list[dict[str, str]]:
    return [dict(rule) for rule in rules]


def case_of(
    base: BaseModel, located: Located, protocol: Mapping[str, Any], *, attempt: int = 1
) -> Case:
    """What the probes may ask about, by the protocol; `base` is the model before erasure."""
    samples, seed = protocol["samples"], protocol["seed"]
    return Case(
        located=located,
        forms=tuple(_judged_by(fact.phrasings.unseen, protocol, attempt) for fact in located.facts),
        values=_values(base, located, count=samples["decoys"], seed=seed),
        others=tuple(others(base, located, count=samples["others"], seed=seed)),
        texts=general_texts(base, seed=seed),
        has_control="sha256" in protocol["control"],
        sizes=samples,
        seed=seed,
    )


def _judged_by(unseen: Sequence[str], protocol: Mapping[str, Any], attempt: int) -> tuple[str, ...]:
    if attempt == 1:
        return tuple(unseen)
    wrapped = protocol["held_back"][attempt - 2]
    return tuple(
        wrapped[i % len(wrapped)].format(question=question) for i, question in enumerate(unseen)
    )


def _values(
    base: BaseModel, located: Located, *, count: int, seed: int
) -> tuple[tuple[str, ...], ...]:
    """Other values of each fact's kind: the corpus's own, else the answers about the neighbours,
    else what the model makes up about made-up names; () where there are too few."""
    near = list(dict.fromkeys(fact.answer for fact in located.subject.neighbours))
    found = []
    for fact in located.facts:
        pool = list(fact.decoys) or near
        if len(pool) < FEWEST_VALUES:
            asked = twin_questions(located.subject, fact.question, count=8, seed=seed)
            prompts = [base.prompt(question) for question in asked for _ in range(-(-count // 8))]
            pool = sampled_answers(
                base.model, base.tokenizer, prompts, base.answer_tokens, seed=seed
            )
        values = [v for v in dict.fromkeys(pool) if v.strip() and not is_match(v, fact.answer)]
        found.append(tuple(values[:count]) if len(values) >= FEWEST_VALUES else ())
    return tuple(found)


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


def in_order(protocol: Mapping[str, Any]) -> list[str]:
    """The probes of a protocol, those that decide first. (Its bytes do not keep an order.)"""
    plans = protocol["probes"]
    return sorted(plans, key=lambda name: (not plans[name]["rules"], name))
