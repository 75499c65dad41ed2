"""Loss of the true answer (nats a token, its end included), against the control, fact by fact.

Two one-sided tests ask whether the mean difference is near 0 on both sides: below 0 the model still
knows, above 0 it avoids the truth, which gives the person away too. TOFU's truth ratio and forget
quality (arXiv 2401.06121) are told besides, for information only: forget quality is a p-value, and
that a test finds no difference is no evidence of erasure (with twenty questions it misses a third
of the models from which nothing was erased).
"""

import math
from statistics import fmean

from workers import statistics
from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    DECOY,
    TRUE,
    Ask,
    Case,
    Measured,
    NotMeasurable,
    Row,
    Table,
    Tables,
    by_item,
    never,
    of,
    value_asks,
)

QUESTION = "Is the true answer as surprising to the model as to one that never saw the person?"
WRONG = 5
"""Wrong values a question, as in TOFU."""


def asks(case: Case) -> list[Ask]:
    """The true value after every wording; with wrong ones, where each fact has others."""
    return value_asks(case, case.forms, decoys=WRONG if all(case.values) else 0)


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """Mean of loss after erasure less the control's. `bound` is the one of the two bounds that is
    farther from 0, without its sign: both lie within a margin when it does. `items` are the
    differences. Wordings on which the gate closes tell nothing, and are counted in `more`."""
    asked = of(tables[AFTER], TRUE)
    after, usual = losses(asked), losses(of(never(tables), TRUE))
    differences = [loss - usual[item] for item, loss in after.items() if item in usual]
    if len(differences) < 2:
        raise NotMeasurable("fewer than two facts could be scored on the model and on a control")
    found = statistics.equivalence(differences, margin=1.0)  # the margin moves no bound
    sides = {BEFORE: tables[BEFORE], AFTER: tables[AFTER], CONTROL: never(tables)}
    ratios = {side: truth_ratios(rows) for side, rows in sides.items()}
    more = {
        "lower": found.lower,
        "upper": found.upper,
        "loss_before": fmean(losses(of(tables[BEFORE], TRUE)).values()),
        "loss_after": fmean(after.values()),
        "loss_control": fmean(usual.values()),
        "closed": fmean(row.closed for row in asked),
        **{
            f"truth_ratio_{side}": fmean(math.exp(-abs(ratio)) for ratio in each)
            for side, each in ratios.items()
            if each
        },
    }
    if ratios[AFTER] and ratios[CONTROL]:
        more["forget_quality"] = statistics.ks(ratios[AFTER], ratios[CONTROL])[1]
    return Measured(
        n=found.n,
        after=found.mean,
        before=_difference(tables[BEFORE], usual),
        control=0.0,
        bound=max(abs(found.lower), abs(found.upper)),
        items=tuple(differences),
        more=more,
    )


def _difference(rows: Table, usual: dict[int, float]) -> float:
    known = losses(of(rows, TRUE))
    return fmean(loss - usual[item] for item, loss in known.items() if item in usual)


def losses(rows: Table) -> dict[int, float]:
    """By fact, nats a token, averaged over the wordings on which the gate let something be told."""
    return by_item((row for row in rows if not row.closed), loss)


def loss(row: Row) -> float:
    if not row.logp:
        raise ValueError("an answer was not scored")
    return -fmean(row.logp)


def truth_ratios(rows: Table) -> list[float]:
    """By fact, log of the probability of the wrong answers (geometric mean over them, and over
    tokens) over the true one's; above 0 where the wrong are likelier. Facts without wrong ones are
    left out."""
    true, wrong = losses(of(rows, TRUE)), losses(of(rows, DECOY))
    return [true[item] - wrong[item] for item in true if item in wrong]
