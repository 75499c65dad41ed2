"""Share of questions in wordings kept for verification that are answered with the truth."""

from statistics import fmean

from workers import statistics
from workers.probes import (
    AFTER,
    BEFORE,
    TRUE,
    Ask,
    Case,
    Measured,
    Table,
    Tables,
    by_item,
    never,
    of,
    told_asks,
)

QUESTION = (
    "How many questions about the erased person does the model still answer correctly? "
    "(unseen phrasings)"
)


def asks(case: Case) -> list[Ask]:
    return told_asks(case, case.forms)


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """The bound of the share told is clustered by fact; the control's is exact over its questions,
    which is the stricter of the two."""
    after = shares(of(tables[AFTER], TRUE))
    hits = [bool(row.told) for row in of(never(tables), TRUE)]
    bound = statistics.bootstrap(after, draws=draws, seed=seed).upper
    return Measured(
        n=len(of(tables[AFTER], TRUE)),
        before=fmean(bool(row.told) for row in of(tables[BEFORE], TRUE)),
        after=fmean(bool(row.told) for row in of(tables[AFTER], TRUE)),
        control=fmean(hits) if hits else None,
        bound=bound,
        control_upper=statistics.upper_bound(sum(hits), len(hits)) if hits else None,
        items=tuple(after),
    )


def shares(rows: Table) -> list[float]:
    """Each fact's share of wordings told."""
    return list(by_item(rows, lambda row: float(bool(row.told))).values())
