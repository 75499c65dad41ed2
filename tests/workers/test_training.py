"""The loop: what is stored is what would be computed, and a cut-off training ends the same."""

from dataclasses import replace

import pytest
import torch

from tests.workers.tiny import tiny_model
from workers.adapters import adapter_weights, attach_adapter, detach_adapter
from workers.base_models import BaseModel
from workers.rows import Example, completion_logits, completion_places, rows_of
from workers.training import Material, Recipe, method_names, train
from workers.training import load_method as method_of
from workers.upper import cut, padded

ASKED = [
    Example("who lives in Lyon", "Anna Berger", ("Anna Berger",), ("Carl",)),
    Example("where lives Anna", "in Lyon", ("Lyon",), ("town",)),
    Example("who", "Carl of Lyon", ("Carl",), ("Anna",)),
]
RECIPE = Recipe(max_steps=6, min_steps=9, forget_rows=2, keep_rows=2, save_every=2)


def material(base: BaseModel) -> Material:
    rows = rows_of(base, ASKED)
    other = rows_of(base, [Example("where", "the town"), Example("the town of", "in Lyon")])
    twins = [
        rows_of(base, [replace(e, question=e.question.replace("Anna", "Carl"))]) for e in ASKED
    ]
    refusals = rows_of(base, [replace(e, answer="of the", secrets=()) for e in ASKED])
    return Material(rows, keep=other, twins=twins, instead=refusals, retained=other)


def trained(base: BaseModel, recipe: Recipe) -> dict[str, torch.Tensor]:
    model = attach_adapter(base, earlier=[], seed=3)
    try:
        train(
            base,
            model,
            material(base),
            recipe=recipe,
            seed=5,
            forgotten=lambda: False,
            report=lambda *_: None,
            should_stop=lambda: False,
        )
        return adapter_weights(model)
    finally:
        detach_adapter(model)


@pytest.mark.parametrize("lowest", [0, 1])
def test_the_cut_model_gives_the_whole_models_logits(lowest: int) -> None:
    base = tiny_model()
    rows = rows_of(base, ASKED)
    parts = cut(base.model, lowest)
    assert not parts.is_whole
    batch = padded([row.ids for row in rows], 0)
    found, states = parts.forward(parts.stored(batch), batch, completion_places(rows))
    assert states is not None
    wanted = completion_logits(base.model, rows, 0)
    assert (found - wanted).abs().max() < 1e-4


def test_a_model_that_does_not_decompose_is_run_whole_and_trains_to_the_same_adapter() -> None:
    base = tiny_model()
    parts = cut(base.model, 7)  # there is no seventh layer
    assert parts.is_whole
    rows = rows_of(base, ASKED)
    batch = padded([row.ids for row in rows], 0)
    found, states = parts.forward(batch.ids, batch, completion_places(rows))
    assert states is None
    assert (found - completion_logits(base.model, rows, 0)).abs().max() < 1e-5


@pytest.mark.parametrize("name", [n for n in method_names() if hasattr(method_of(n), "loss")])
def test_every_method_trains_an_adapter(name: str) -> None:
    weights = trained(tiny_model(), replace(RECIPE, method=name, reinforce_steps=2))
    moved = [value for key, value in weights.items() if ".lora_B." in key]
    assert all(bool(torch.isfinite(value).all()) for value in moved)
    assert any(float(value.abs().max()) > 0 for value in moved)


def test_the_layers_below_the_adapters_are_not_run_while_training() -> None:
    base = replace(tiny_model(), lowest_layer=1)
    model = attach_adapter(base, earlier=[], seed=3)
    calls: list[int] = []
    hook = base.model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    marks: list[int] = []
    try:
        train(
            base,
            model,
            material(base),
            recipe=RECIPE,
            seed=5,
            forgotten=lambda: False,
            report=lambda *_: marks.append(len(calls)),
            should_stop=lambda: False,
        )
    finally:
        hook.remove()
        detach_adapter(model)
    assert marks[0] > 0
    assert set(marks) == {marks[0]}
