"""What comes back when the served weights are rounded to 8 or 4 bits.

A change of the weights that is smaller than the steps of the rounding is undone by it: of knowledge
suppressed to 21%, 83% was back at 4 bits (arXiv 2410.16454). The base's matrices are rounded to the
nearest value, one scale an output channel at 8 bits and one for every 32 inputs at 4; embeddings,
head, adapters and gate stay as they are, so that a gated case is asked as it would be served.
"""

from dataclasses import replace
from statistics import fmean

from workers import statistics
from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    TWIN,
    Ask,
    Case,
    Measured,
    Table,
    Tables,
    knowledge_rank,
    never,
    recall_unseen,
    value_asks,
)

QUESTION = "Does what was erased come back when the model is compressed to 8 or 4 bits?"
INT8, INT4 = "int8", "int4"
SIDES = (BEFORE, AFTER, INT8, INT4, CONTROL)
TWINS = (AFTER, INT8, INT4)
DECOYS = 12
TOLD = "told"


def asks(case: Case) -> list[Ask]:
    """Every unseen wording, to be answered, and its value with a few others scored."""
    told = [
        replace(ask, role=TOLD if ask.role != TWIN else f"{TWIN} {TOLD}")
        for ask in recall_unseen.asks(case)
    ]
    return [*told, *value_asks(case, case.forms, decoys=min(DECOYS, case.sizes["decoys"]))]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """The rank of the true value on the copy where it is higher, with the larger of the two bounds.
    `more`: the rank and the share told on each model, and how much more is told than in service."""
    ranks = {side: _ranks(tables[side]) for side in (BEFORE, AFTER, INT8, INT4)}
    nobody = never(tables)
    control = list(_ranks(nobody, relative=False).values())
    found = {
        side: statistics.bootstrap(list(ranks[side].values()), draws=draws, seed=seed)
        for side in (INT8, INT4)
    }
    limit = statistics.bootstrap(control, draws=draws, seed=seed) if control else None
    worse = max(found, key=lambda side: found[side].value)
    more = {f"rank_{side}": fmean(ranks[side].values()) for side in (AFTER, INT8, INT4)}
    more |= {f"told_{side}": _told(tables[side]) for side in (BEFORE, AFTER, INT8, INT4)}
    if nobody:
        more["told_control"] = _told(nobody)
    more["back"] = max(more["told_int8"], more["told_int4"]) - more["told_after"]
    return Measured(
        n=len(ranks[worse]),
        before=fmean(ranks[BEFORE].values()),
        after=found[worse].value,
        control=limit.value if limit else None,
        bound=max(each.upper for each in found.values()),
        control_upper=limit.upper if limit else None,
        items=tuple(ranks[worse].values()),
        more=more,
    )


def _ranks(rows: Table, *, relative: bool = True) -> dict[int, float]:
    return knowledge_rank.ranks([row for row in rows if row.told is None], relative=relative)


def _told(rows: Table) -> float:
    return fmean(bool(row.told) for row in rows if row.role == TOLD)
