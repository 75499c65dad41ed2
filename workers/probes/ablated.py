"""The served artefact with every adapter unloaded, asked again: the limit of what may be claimed.

For a gated case the base must still know, and this says so: an adapter suppresses, one switch
brings the answers back. For new weights nothing may come back. (The weights of an adapter and of
its base together undo even exact unlearning, arXiv 2505.24379.)
"""

from dataclasses import replace
from statistics import fmean

from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    TRUE,
    Ask,
    Case,
    Measured,
    Tables,
    of,
    recall_unseen,
)

ABLATED = "ablated"
QUESTION = "What does the model tell when every adapter is taken off? (unseen phrasings)"
SIDES = (BEFORE, AFTER, ABLATED, CONTROL)


def asks(case: Case) -> list[Ask]:
    return recall_unseen.asks(case)


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """`after` is the share told without adapters, bounded as in `recall_unseen`; `served` the share
    told with them."""
    found = recall_unseen.measure({**tables, AFTER: tables[ABLATED]}, draws=draws, seed=seed)
    served = fmean(bool(row.told) for row in of(tables[AFTER], TRUE))
    return replace(found, more={"served": served})
