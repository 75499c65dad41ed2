"""Several requests in one training pass: what it could gain at most over one after the other.

A pass shared by K people has all rows of their K steps, since each adapter must come out as if it
were trained alone. Here it is given everything that a real one would not have: all rows go through
one adapter (no grouping by person, one set of gradients, one step of the optimiser instead of K),
and nothing is saved, stopped or leased in between. What is left to gain is what larger products
gain over smaller ones and K calls over one. Asserted before anything is timed: the gradients of the
shared pass are the sum of the K people's own. The rows, losses and sizes of steps are the recipe's.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import report
from benchmarks.training import subject
from workers import erasure
from workers.adapters import attach_adapter, detach_adapter
from workers.base_models import ModelError, load_base_model
from workers.forget_sets import NothingMeasurable, locate
from workers.methods import Batch, Completions, divergence
from workers.summaries import bar
from workers.training import (
    Recipe,
    _completions,
    _Draws,
    _run,
    _Stored,
    _Table,
    b_matrices,
    trained_method,
)

NAME = "together"
PEOPLE = (4, 8)
PAIRS = {"demo": 9, "smollm2-135m": 3}
LIMIT, EQUAL = 1.5, 1e-4


@dataclass(frozen=True)
class Person:
    """One person's stored rows, and the rows that each step draws."""

    recipe: Recipe
    table: _Table
    draws: _Draws

    def step(self) -> tuple[list[_Stored], list[_Stored]]:
        """The forget rows and the kept rows of the next step."""
        drawn = self.draws.next()
        return [self.table.forget[i] for i in drawn.forget], [
            self.table.keep[i] for i in drawn.keep
        ]


Step = tuple[list[_Stored], list[_Stored]]


def loss(person: Person, steps: Sequence[Step]) -> Tensor:
    """The sum of the losses of these steps, of which each is its own people's mean, in one pass."""
    parts = [part for step in steps for part in step]
    logits, states = _run(
        person.table.parts, [each for part in parts for each in part], person.table.pad
    )
    method, weight = trained_method(person.recipe.method), person.recipe.keep_weight
    found: list[Completions] = []
    start = 0
    for part in parts:
        end = start + sum(each.row.completion for each in part)
        own = None if states is None else states[start:end]
        found.append(_completions(part, logits[start:end], own))
        start = end
    total = logits.new_zeros(())
    for forget, keep in zip(found[::2], found[1::2], strict=True):
        moved = divergence(keep.base_logits, keep.logits).mean()
        total = total + method.loss(Batch(forget, None, keep, None)) + weight * moved
    return total


class Sides:
    """K people of one model, trained one after the other and all at once."""

    def __init__(self, people: Sequence[Person], trained: Sequence[torch.nn.Parameter]) -> None:
        self.people, self.trained = people, trained
        # At rate 0 every step finds the same adapter, and costs the same.
        self.optimiser = torch.optim.AdamW(trained, lr=0.0, weight_decay=0)

    def drawn(self) -> list[Step]:
        """A step of each person."""
        return [person.step() for person in self.people]

    def alone(self, steps: Sequence[Step]) -> None:
        """One pass and one step of the optimiser a person."""
        for step in steps:
            self._pass([step])

    def at_once(self, steps: Sequence[Step]) -> None:
        """One pass and one step of the optimiser for all."""
        self._pass(steps)

    def _pass(self, steps: Sequence[Step]) -> None:
        self.optimiser.zero_grad()
        loss(self.people[0], steps).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()

    def apart(self, steps: Sequence[Step]) -> float:
        """The largest difference of the shared pass's gradients from the sum of the people's own,
        over the largest gradient."""

        def gradients(given: Sequence[Step]) -> Tensor:
            each = torch.autograd.grad(loss(self.people[0], given), self.trained)
            return torch.cat([grad.flatten() for grad in each])

        own = torch.stack([gradients([step]) for step in steps]).sum(dim=0)
        return float((gradients(steps) - own).abs().max() / own.abs().max())


def people_of(model: str, count: int) -> tuple[list[Person], Any]:
    """So many people of the model around one adapter that has just been attached."""
    base = load_base_model(model)
    recipe, materials = erasure.recipe_for(base), []
    for seed in range(count):
        located = locate(base, subject(base, seed))
        asked = erasure.surrogates(located, count=recipe.surrogates, seed=seed)
        materials.append(erasure.material_for(base, located, asked=asked, recipe=recipe, seed=seed))
        report.progress(f"{model}: {seed + 1} of {count} people")
    attached = attach_adapter(base, earlier=[], seed=1)
    people = [
        Person(recipe, _Table.of(base, attached, each), _Draws.of(each, recipe, seed))
        for seed, each in enumerate(materials)
    ]
    return people, attached


def seconds(sides: Sides, pairs: int) -> dict[str, Any]:
    """Interleaved pairs on the same drawn steps."""
    steps = sides.drawn()
    apart = sides.apart(steps)
    assert apart < EQUAL, f"the shared pass has other gradients: {apart}"

    def on_the_same(way: Callable[[Sequence[Step]], None]) -> Callable[[], None]:
        return lambda: way(steps)

    ours, theirs, _, _ = report.in_turn(
        on_the_same(sides.at_once), on_the_same(sides.alone), pairs=pairs
    )
    rows = sum(len(part) for step in steps for part in step) / len(steps)
    return report.compared(ours, theirs, rows_a_step=rows, gradients_apart=apart)


def measure(models: Sequence[str], pairs: int | None) -> report.Measured:
    """By model and number of people."""
    figures: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    for name in models:
        people, attached = people_of(name, max(PEOPLE))
        try:
            trained = list(b_matrices(attached).values())
            for count in PEOPLE:
                label = f"{name}, {count} people in one pass, at most"
                figures[label] = found = seconds(
                    Sides(people[:count], trained), pairs or PAIRS[name]
                )
                faster = found["times faster"]
                bars.append(bar(f"{label}: times faster", faster, LIMIT, faster >= LIMIT))
                report.progress(f"{label}: {faster:.2f} times faster")
        finally:
            detach_adapter(attached)
    return figures, bars


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", action="append", choices=list(PAIRS))
    parser.add_argument("--pairs", type=int)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.model or ["demo"], options.pairs),
            cannot_run=(ModelError, NothingMeasurable),
        )
    )
