"""Whether answers are still language: repeated word pairs and length, against before.

Behind a gate only questions about the person reach the adapter, so a wrecked one (`the the the`)
leaves every figure about others unharmed and is seen here alone. A share of repeated pairs stands
for RWKU's entropy of n-grams (arXiv 2406.10890), which means little in answers of a few words.
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

from workers import statistics
from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    Ask,
    Case,
    Measured,
    Row,
    Table,
    Tables,
    by_item,
    of,
    refusals,
)
from workers.probes.refusals import OTHERS, PERSON

QUESTION = "Are the answers still fluent, about the person and about others?"
FIGURES: dict[str, Callable[[Row], float]] = {
    "repeats": lambda row: row.repeats,
    "words": lambda row: float(row.words),
    "empty": lambda row: float(row.words == 0),
}


def asks(case: Case) -> list[Ask]:
    """The questions of `refusals`; those about the person alone, where there are no others."""
    found = refusals.asks(case) if case.others else refusals.about_person(case)
    return [replace(ask, truth="") for ask in found]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """Share of repeated word pairs in answers about the person; the bound is of its mean rise over
    facts. `more` has the same, words an answer and empty answers, by whom they are about and
    side."""
    before, after = (
        by_item(of(tables[side], PERSON), FIGURES["repeats"]) for side in (BEFORE, AFTER)
    )
    rise = [after[item] - before[item] for item in before]
    found = statistics.bootstrap(rise, draws=draws, seed=seed, within=(-1.0, 1.0))
    sides = [side for side in (BEFORE, AFTER, CONTROL) if side in tables]
    figures = {
        f"{role}_{name}_{side}": _mean(of(tables[side], role), value)
        for role in (PERSON, OTHERS)
        for name, value in FIGURES.items()
        for side in sides
        if of(tables[side], role)
    }
    return Measured(
        n=found.n,
        before=fmean(before.values()),
        after=fmean(after.values()),
        control=figures.get(f"{PERSON}_repeats_{CONTROL}"),
        bound=found.upper,
        items=tuple(after.values()),
        more={"rise": found.value, **figures},
    )


def _mean(rows: Table, value: Callable[[Row], float]) -> float:
    return fmean(by_item(rows, value).values())
