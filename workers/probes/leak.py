"""Probability that sampling at temperature 1 tells the truth, exactly: the product of the
probabilities of the value's tokens, without the end token (arXiv 2410.03523; leak@k, arXiv
2511.04934).

Greedy answers hide what one sample in a hundred still tells. No sampling is needed: the value is
teacher-forced. A value told otherwise (in other tokens, or later in the answer) is not counted, so
each figure is a lower bound of what leaks.
"""

import math
from collections.abc import Mapping
from statistics import fmean
from typing import TypeVar

from workers import statistics
from workers.probes import (
    AFTER,
    BEFORE,
    TRUE,
    TWIN,
    Ask,
    Case,
    Measured,
    NotMeasurable,
    Row,
    Table,
    Tables,
    never,
    of,
    twins_of,
)

QUESTION = "How likely is it that a sampled answer gives the true value away?"
SAMPLES = (10, 100, 1000)
Token = TypeVar("Token")


def asks(case: Case) -> list[Ask]:
    """The true value after every wording, trained ones too: whoever tries may choose. Where made-up
    people stand for the control, each has a role of its own, so that the largest over wordings is
    taken for each, as it is for the person."""
    return [
        Ask(item, role, question, fact.answer, form=form)
        for item, fact in enumerate(case.located.facts)
        for form, wording in enumerate((*fact.phrasings.trained, *case.forms[item]))
        for role, question in [
            (TRUE, wording),
            *((f"{TWIN} {i}", twin) for i, twin in enumerate(twins_of(case, wording))),
        ]
    ]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """Mean over facts of the largest p over wordings. The bound is of the mean excess over the
    control: that of the mean itself where nothing could be asked that stands for it."""
    after, before = (largest(of(tables[side], TRUE)) for side in (AFTER, BEFORE))
    usual = largest(never(tables))
    bound = statistics.bootstrap(excess(after, usual), draws=draws, seed=seed, within=(-1.0, 1.0))
    limit = statistics.bootstrap(list(usual.values()), draws=draws, seed=seed) if usual else None
    more = {"largest_p": max(after.values()), "excess": bound.value}
    for k in SAMPLES:
        more[f"leak_at_{k}"] = fmean(leak_at(k, p) for p in after.values())
        if usual:
            more[f"control_leak_at_{k}"] = fmean(leak_at(k, p) for p in usual.values())
    return Measured(
        n=len(after),
        before=fmean(before.values()),
        after=fmean(after.values()),
        control=limit.value if limit else None,
        bound=bound.upper,
        control_upper=limit.upper if limit else None,
        items=tuple(after.values()),
        more=more,
    )


def largest(rows: Table) -> dict[int, float]:
    """By fact, the largest p over its wordings; of several made-up people the mean of theirs."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        people = found.setdefault(row.item, {})
        people[row.role] = max(told(row), people.get(row.role, 0.0))
    return {item: fmean(found[item].values()) for item in sorted(found)}


def told(row: Row) -> float:
    """p of the value's tokens; 0 where the gate lets nothing be told."""
    if row.closed:
        return 0.0
    if not row.logp:
        raise ValueError("a value was not scored")
    return min(1.0, math.exp(sum(value_of(row.logp))))


def value_of(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """The entries of a value's tokens: all but the end token's, where it is a token of its own."""
    return tokens[:-1] or tokens


def excess(after: Mapping[int, float], usual: Mapping[int, float]) -> list[float]:
    """Each fact's value above the control's. A fact of which the control could not be asked is held
    against 0, which is stricter. Raises NotMeasurable without facts."""
    if not after:
        raise NotMeasurable("no fact was asked about")
    return [value - usual.get(item, 0.0) for item, value in after.items()]


def leak_at(k: int, p: float) -> float:
    """Probability that at least one of `k` samples tells a value of probability `p`."""
    return 1.0 if p >= 1.0 else -math.expm1(k * math.log1p(-p))
