"""Trained anew without the person: the only way after which nothing of them can be left.

The training set that a model, or a component of it, was made of is registered in shards, and the
one that holds the person is trained again from the same seed without their rows (SISA, arXiv
1912.03817). Offered where the shards are registered; so far that is the demo model, whose corpus is
one shard. A row goes if it is the person's or mentions them. Data: the shards. There is no loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from workers import corpus, demo_training
from workers.base_models import BaseModel
from workers.identifiers import normalised

NEEDS = ("shards",)
BOUNDED = True


@dataclass(frozen=True)
class Retrained:
    """A model that never saw the people; `left_out` and `kept` count the facts of its shard."""

    base: BaseModel
    left_out: int
    kept: int


def retrain(
    base: BaseModel,
    names: Sequence[str],
    *,
    report: Callable[[int, int], None],
    recipe: demo_training.Recipe | None = None,
) -> Retrained:
    """`base` made anew without the people called `names` (aliases too), in memory.

    `report(step, steps)` is called on the way and may raise to stop. The tokenizer stays: it is
    made of a list of words, not of people. Raises ValueError for a model without registered shards,
    and where nobody of these names is in them.
    """
    if base.name != "demo":
        raise ValueError(
            f"The training shards of {base.name!r} are not registered, so nothing can be trained "
            "anew without the person: choose another method."
        )
    recipe = recipe or demo_training.Recipe()
    shard = corpus.people(recipe.seed, recipe.people, recipe.facts)
    without = [f" {normalised(name)} " for name in names]
    people = [replace(person, facts=_without(person, without)) for person in shard]
    before, after = (sum(len(person.facts) for person in each) for each in (shard, people))
    if before == after:
        raise ValueError("Nobody of this name is in the registered shards: check the spelling.")
    tokenizer = demo_training.build_tokenizer()
    model = demo_training.train(
        demo_training.build_model(recipe, len(tokenizer)),
        demo_training.examples(tokenizer, [p for p in people if p.facts], recipe),
        recipe,
        report=report,
    )
    return Retrained(
        replace(base, model=model.requires_grad_(False)), left_out=before - after, kept=after
    )


def _without(person: corpus.Person, names: Sequence[str]) -> tuple[corpus.PersonFact, ...]:
    """The person's facts that neither are nor mention somebody of these (normalised) names."""
    return tuple(
        fact
        for fact in person.facts
        if not any(
            name in f" {normalised(text)} "
            for name in names
            for text in (person.name, fact.answer, *fact.trained)
        )
    )
