"""Sample probes: a few questions with what each model said to them, for reviewers of evidence.

Texts about the person, where rows are figures alone: they are sealed with the rows of their probe
and kept nowhere else. Which are kept is drawn by the plan's seed, not chosen by what was answered.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from workers.probes import SIDES, TRUE, Case, load_probe
from workers.sides import Stack

OF = "recall_unseen"
MOST = 6


@dataclass(frozen=True)
class Sample:
    """A question in one wording (`item` and `form` as in the rows), its expected answer, and what
    each side `said`, by its name."""

    item: int
    form: int
    question: str = field(repr=False)
    answer: str = field(repr=False)
    said: Mapping[str, str] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def drawn(case: Case, stack: Stack) -> Sequence[Sample]:
    """One wording each of at most `MOST` facts, as the models of `stack` answered them just now."""
    by_fact: dict[int, list[Any]] = {}
    for ask in load_probe(OF).asks(case):
        if ask.role == TRUE and isinstance(ask.prompt, str):
            by_fact.setdefault(ask.item, []).append(ask)
    rng = random.Random(case.seed)  # noqa: S311
    facts = sorted(rng.sample(sorted(by_fact), min(MOST, len(by_fact))))
    return [
        Sample(
            ask.item,
            ask.form,
            ask.prompt,
            ask.truth,
            {
                side: stack.memory[side].said[ask.prompt].text.strip()
                for side in SIDES
                if side in stack.memory
            },
        )
        for ask in (rng.choice(by_fact[fact]) for fact in facts)
    ]
