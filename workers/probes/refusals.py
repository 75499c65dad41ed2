"""How often answers are refusals, to the person's questions and to the others'.

An erasure that teaches the model to refuse spills over to those who resemble the person, which
accuracy alone does not tell from not knowing (RWKU, arXiv 2406.10890). To the person a refusal is
no fault, but where the model before erasure would have made something up it shows who is erased.
"""

from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean

from workers import statistics
from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    TRUE,
    Ask,
    Case,
    Measured,
    Row,
    Tables,
    by_item,
    of,
    others_kept,
    told_asks,
)

QUESTION = "Does the model refuse to answer about others more often than before?"
PERSON, OTHERS = "person", "others"


def asks(case: Case) -> list[Ask]:
    """The questions of `recall_unseen` and of `others_kept`."""
    return [*about_person(case), *(replace(ask, role=OTHERS) for ask in others_kept.asks(case))]


def about_person(case: Case) -> list[Ask]:
    asked = told_asks(case, case.forms)
    return [replace(ask, role=PERSON) for ask in asked if ask.role == TRUE]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """`after` is the share of refusals to others less the share before, with a bound over their
    questions; the shares themselves are in `more`, by side."""
    before, after = (by_item(of(tables[side], OTHERS), refused) for side in (BEFORE, AFTER))
    more_often = [after[item] - before[item] for item in before]
    found = statistics.bootstrap(more_often, draws=draws, seed=seed, within=(-1.0, 1.0))
    return Measured(
        n=found.n,
        before=0.0,
        after=found.value,
        bound=found.upper,
        items=tuple(more_often),
        more={
            f"{role}_{side}": share(of(tables[side], role))
            for side in (BEFORE, AFTER, CONTROL)
            if side in tables
            for role in (PERSON, OTHERS)
        },
    )


def refused(row: Row) -> float:
    return float(row.refused)


def share(rows: Iterable[Row]) -> float:
    """Share of refusals over facts or questions. Raises ValueError for none."""
    return fmean(by_item(rows, refused).values())
