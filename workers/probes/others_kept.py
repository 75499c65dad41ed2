"""Of what the model answered correctly about others, how much it still does."""

from statistics import fmean

from workers import statistics
from workers.probes import AFTER, BEFORE, TRUE, Ask, Case, Measured, NotMeasurable, Tables

QUESTION = "Does the model still answer what it should go on answering about others?"
SIDES = (BEFORE, AFTER)


def asks(case: Case) -> list[Ask]:
    if not case.others:
        raise NotMeasurable("there are no questions about others")
    return [Ask(i, TRUE, fact.question, truth=fact.answer) for i, fact in enumerate(case.others)]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """`after` is the accuracy as a share of the one before; the bound is of the share of questions
    answered before that still are (Clopper-Pearson, lower). Raises ValueError when none was."""
    before = [bool(row.told) for row in tables[BEFORE]]
    after = [bool(row.told) for row in tables[AFTER]]
    kept = [now for then, now in zip(before, after, strict=True) if then]
    if not kept:
        raise NotMeasurable("no question about others was answered before")
    return Measured(
        n=len(after),
        before=1.0,
        after=fmean(after) / fmean(before),
        bound=statistics.share(sum(kept), len(kept)).lower,
        items=tuple(map(float, after)),
        more={
            "accuracy_before": fmean(before),
            "accuracy_after": fmean(after),
            "still_answered": fmean(kept),
        },
    )
