"""Training anew: no row of the person, and every other one, reaches the training."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.workers.tiny import tiny_model
from workers import corpus, demo_training
from workers.base_models import load_base_model
from workers.methods import exact

SMALL = demo_training.Recipe(
    people=6, erasable=2, facts=4, steps=2, hidden=32, inner=64, layers=2, heads=2
)


def test_what_is_trained_on_holds_everybody_but_the_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Sequence[demo_training.Example]] = []
    train = demo_training.train

    def watched(model: Any, rows: Sequence[demo_training.Example], *rest: Any, **also: Any) -> Any:
        given.append(rows)
        return train(model, rows, *rest, **also)

    monkeypatch.setattr(demo_training, "train", watched)
    base, steps = load_base_model("demo"), list[int]()
    people = corpus.people(SMALL.seed, SMALL.people, SMALL.facts)
    gone, others = people[1], [*people[:1], *people[2:]]
    name = gone.name.upper()
    done = exact.retrain(base, [name], report=lambda step, _: steps.append(step), recipe=SMALL)
    (rows,) = given
    texts = " ".join(base.tokenizer.decode(row.ids) for row in rows)
    assert gone.name not in texts
    assert all(person.name in texts for person in others)
    assert done.left_out == len(gone.facts)
    assert done.kept == sum(len(person.facts) for person in others)
    assert steps[-1] == SMALL.steps
    assert done.base.model is not base.model
    assert not any(p.requires_grad for p in done.base.model.parameters())


def test_without_registered_shards_it_is_not_offered() -> None:
    with pytest.raises(ValueError, match="not registered"):
        exact.retrain(tiny_model(), ["Anna Berger"], report=lambda *_: None)


def test_a_name_that_is_in_no_shard_is_an_error_and_no_second_model() -> None:
    with pytest.raises(ValueError, match="check the spelling"):
        exact.retrain(
            load_base_model("demo"), ["Nobody Atall"], report=lambda *_: None, recipe=SMALL
        )
