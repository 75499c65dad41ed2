"""Weights laid out for serving: the same answers, and the model that was loaded untouched."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.workers.test_guarded import KEY, served
from tests.workers.tiny import tiny_model
from workers.answers import begin
from workers.base_models import BaseModel, ModelError
from workers.gate import Decision
from workers.guarded import same_weights
from workers.packed import LEAST, PackedLinear, packed
from workers.serving import Served

WIDTH = 512
ROWS = ([3, 5, 7, 11], [2, 4], [9, 8, 7, 6, 5])


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_model(width=WIDTH)


def packed_of(base: BaseModel) -> dict[str, PackedLinear]:
    named = base.model.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, PackedLinear)}


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS, ROWS * 7])
def test_packed_weights_say_the_same(base: BaseModel, rows: list[list[int]]) -> None:
    whole = begin(base.model, rows, pick=lambda logits: logits).first
    found = begin(packed(base).model, rows, pick=lambda logits: logits).first
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)


def test_only_what_it_pays_for_is_packed_and_the_loaded_model_stays(base: BaseModel) -> None:
    before = dict(base.model.named_parameters())
    found = packed_of(packed(base))
    assert found
    assert set(found) == {
        name
        for name, layer in base.model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer.weight.numel() >= LEAST
    }
    assert not packed_of(base)
    after = dict(base.model.named_parameters())
    assert all(after[name] is weight for name, weight in before.items())
    halves = replace(base, model=copy.deepcopy(base.model).to(torch.bfloat16))
    assert not packed_of(packed(halves)), "bfloat16 has a layout of its own"


def test_no_memory_for_the_layout_is_an_error_of_the_model(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("could not create a memory object")

    monkeypatch.setattr("workers.packed.PackedLinear", fails)
    with pytest.raises(ModelError, match="give the gateway more memory"):
        packed(base)


def test_shells_around_packed_weights_share_them(base: BaseModel) -> None:
    first = packed(base)
    second = replace(first, model=same_weights(first.model))
    for name, layer in packed_of(second).items():
        assert layer.weight is packed_of(first)[name].weight


def test_adapters_act_on_packed_weights_as_on_loaded_ones(base: BaseModel, tmp_path: Path) -> None:
    guarded, _ = served(base, tmp_path, cases=2)
    guarded.close()
    decisions = [Decision(((0, 1.0),)), Decision(((0, 0.5), (1, 0.25))), Decision()]
    plain, other = (
        Served(each, guarded.release, adapters_root=tmp_path, key=KEY)
        for each in (base, packed(base))
    )
    expected = plain.begin(ROWS, decisions).first
    found = other.begin(ROWS, decisions).first
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    acted = (expected - plain.begin(ROWS, [Decision()] * 3).first).abs().amax(dim=1)
    assert (acted[:2] > 1e-3).all(), "the adapters do nothing"
