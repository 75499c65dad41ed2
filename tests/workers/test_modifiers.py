"""Modifiers: what may not move stays to the bit, what may does; an expert alone unlearns."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.workers.tiny import tiny_model
from workers import experts
from workers.adapters import (
    AdapterRef,
    adapter_files,
    adapter_weights,
    attach_adapter,
    check_fits,
    detach_adapter,
    read_adapter,
    store_files,
)
from workers.base_models import BaseModel, ModelError
from workers.digests import sha256_of
from workers.erasure import recipe_record
from workers.gate import GATE_FILE, fit_gate, gate_files
from workers.guarded import GuardedModel
from workers.modifiers import Given, single_expert
from workers.modifiers.single_expert import attributed
from workers.releases import write_release
from workers.rows import Example, Row, rows_of
from workers.scores import scored_rows
from workers.training import (
    Checkpoint,
    Material,
    Recipe,
    b_matrices,
    load_modifier,
    modifier_names,
    opened,
    train,
)

KEY = b"a key for tests, 32 bytes long!!"
NAME = "Anna Berger"
ABOUT = [Example(f"where lives Anna Berger {w}", "in Lyon", ("Lyon",)) for w in "abcdefgh"]
OTHERS = [Example(f"where lives Carl {w}", "in the town") for w in "abcdefgh"]
RECIPE = Recipe(
    method="bounded_nll", max_steps=6, min_steps=9, forget_rows=4, keep_rows=4, save_every=2
)


def material(base: BaseModel) -> Material:
    return Material(rows_of(base, ABOUT), rows_of(base, OTHERS))


def trained(
    base: BaseModel, recipe: Recipe, checkpoint: Checkpoint | None = None
) -> dict[str, torch.Tensor]:
    """The adapter's weights after training."""
    rows = material(base)
    with opened(base, recipe, rows.forget) as ready:
        model = attach_adapter(ready, earlier=[], seed=1)
        try:
            train(
                ready,
                model,
                rows,
                recipe=recipe,
                seed=1,
                forgotten=lambda: False,
                report=lambda *_: None,
                should_stop=lambda: False,
                checkpoint=checkpoint,
            )
            return adapter_weights(model)
        finally:
            detach_adapter(model)


def masks_of(name: str, base: BaseModel, seed: int = 1) -> dict[str, torch.Tensor]:
    model = attach_adapter(base, earlier=[], seed=1)
    about, others = rows_of(base, ABOUT), rows_of(base, OTHERS)
    draw = random.Random(3)  # noqa: S311

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        return nll(model, draw.sample(about, 4)), nll(model, draw.sample(others, 4))

    def nll(model: object, rows: Sequence[Row]) -> torch.Tensor:
        from workers.rows import completion_labels, completion_logits

        logits = completion_logits(model, rows, int(base.tokenizer.pad_token_id))
        return torch.nn.functional.cross_entropy(logits, completion_labels(rows))

    try:
        given = Given(model, b_matrices(model), losses, seed)
        return dict(load_modifier(name).masks(given))
    finally:
        detach_adapter(model)


def test_an_unknown_modifier_is_refused_with_the_known_ones() -> None:
    assert modifier_names() == ("half", "single_expert", "wagle")
    with pytest.raises(ValueError, match="half, single_expert, wagle"):
        load_modifier("quarter")


@pytest.mark.parametrize("name", ["half", "wagle"])
def test_what_may_not_move_stays_to_the_bit_and_the_rest_moves(name: str) -> None:
    base = tiny_model()
    recipe = replace(RECIPE, modifier=name)
    after = trained(base, recipe)
    moved = {key: value != 0 for key, value in after.items() if ".lora_B." in key}
    free = trained(base, RECIPE)
    assert all(bool((free[key] != 0).all()) for key in moved)
    share = sum(int(m.sum()) for m in moved.values()) / sum(m.numel() for m in moved.values())
    assert 0.3 < share < 0.9
    # Rows of B move whole or not at all: no entry crept.
    assert all(bool((m.all(dim=1) | ~m.any(dim=1)).all()) for m in moved.values())
    assert not any(p.requires_grad for p in base.model.parameters())


@pytest.mark.parametrize("name", ["half", "wagle"])
def test_a_training_cut_off_goes_on_to_the_same_bits(name: str) -> None:
    base, recipe = tiny_model(), replace(RECIPE, modifier=name)
    whole = trained(base, recipe)
    saved: list[bytes] = []
    trained(base, replace(recipe, max_steps=4), Checkpoint(lambda: None, saved.append))
    store: list[bytes] = []
    trained(base, recipe, Checkpoint(lambda: None, store.append))
    again = trained(base, recipe, Checkpoint(lambda: store[0], lambda _: None))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_half_freezes_half_of_each_layers_modules_and_another_half_for_another_seed() -> None:
    base = tiny_model()
    frozen = [{key.split(".lora_")[0] for key in masks_of("half", base, seed)} for seed in (1, 2)]
    assert frozen[0] != frozen[1]
    for each in frozen:
        # Of 2 x 7 modules 7: two of four in each attention, three of the six others.
        assert len(each) == 7
        assert [sum(f"layers.{i}.self_attn" in path for path in each) for i in (0, 1)] == [2, 2]


def test_wagle_keeps_the_highest_share_and_looks_at_what_is_to_be_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny_model()
    found = masks_of("wagle", base)
    rows = torch.cat([mask[:, 0] for mask in found.values()])
    assert float(rows.float().mean()) == pytest.approx(0.8, abs=0.01)
    monkeypatch.setattr("tests.workers.test_modifiers.ABOUT", OTHERS[::-1])
    other = torch.cat([mask[:, 0] for mask in masks_of("wagle", base).values()])
    assert not torch.equal(rows, other)


def test_what_the_modifier_was_set_to_is_recorded() -> None:
    assert recipe_record(Recipe())["modifier"] == "None"
    found = recipe_record(Recipe(modifier="wagle"))
    assert (found["modifier"], found["wagle_share"]) == ("wagle", "0.8")


def tiny_moe(seed: int = 0) -> BaseModel:
    """Two layers of four experts, two of which see each token."""
    base = tiny_model(seed=seed)
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=len(base.tokenizer),
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
    )
    model = Qwen3MoeForCausalLM(config).eval().requires_grad_(False)
    for layer in model.model.layers:  # routers are made of zeros: every expert alike
        torch.nn.init.normal_(layer.mlp.gate.weight, std=0.5)
    return replace(base, model=model)


def logits_of(base: BaseModel) -> torch.Tensor:
    ids = torch.tensor([list(range(3, 23))])
    with torch.no_grad():
        found: torch.Tensor = base.model(input_ids=ids).logits
    return found


def test_an_opened_expert_computes_what_it_did_and_closes_again() -> None:
    base = tiny_moe()
    before = logits_of(base)
    with experts.opened(base.model, [(0, 1), (1, 3), (1, 0)]):
        assert torch.allclose(logits_of(base), before, atol=1e-5)
        names = [name for name, _ in base.model.named_modules()]
        assert "model.layers.1.mlp.experts.e3_up" in names
    assert torch.equal(logits_of(base), before)
    assert not any("e3_up" in name for name, _ in base.model.named_modules())


@pytest.mark.parametrize("chosen", [(0, 4), (2, 0)])
def test_an_expert_that_is_not_there_is_refused(chosen: tuple[int, int]) -> None:
    base = tiny_moe()
    with pytest.raises(ModelError, match="no expert"), experts.opened(base.model, [chosen]):
        pass


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no mixture of experts"):
        trained(tiny_model(), replace(RECIPE, modifier="single_expert"))


def test_attribution_finds_the_expert_that_the_router_favours() -> None:
    base = tiny_moe()
    rows = rows_of(base, ABOUT)
    gate = base.model.model.layers[1].mlp.gate
    gate.weight.zero_()
    states = []
    hook = gate.register_forward_hook(lambda _, given, __: states.append(given[0]))
    attributed(base, rows)
    hook.remove()
    gate.weight[2] = torch.cat(states).reshape(-1, 64).mean(dim=0)
    assert attributed(base, rows) == (1, 2)


def test_one_expert_unlearns_and_the_anchor_keeps_the_router_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(RECIPE, modifier="single_expert", max_steps=30, learning_rate=1e-2)
    base = tiny_moe()
    before = logits_of(base)
    rows = rows_of(base, ABOUT)
    chosen = attributed(base, rows)
    told: dict[float, float] = {}
    routed: dict[float, float] = {}
    known = sum(each.total for each in scored_rows(base.model, rows)) / len(rows)
    for weight in (0.0, 1.0):
        monkeypatch.setattr(single_expert, "WEIGHT", weight)
        weights = trained(base, recipe)
        assert experts.named_in(weights) == {chosen}
        assert len(weights) == 8  # A and B of the expert's three parts and of the router
        told[weight], routed[weight] = acted(base, weights, rows, chosen)
    assert told[1.0] < known - 1.0
    assert routed[1.0] > routed[0.0] + 0.02
    assert torch.equal(logits_of(base), before)


def acted(
    base: BaseModel, weights: dict[str, torch.Tensor], rows: Sequence[Row], chosen: tuple[int, int]
) -> tuple[float, float]:
    """Mean log likelihood of the answers, and the router's mean probability of the expert, with
    the adapter on."""
    layer, number = chosen
    with experts.opened(base.model, [chosen]):
        ready = replace(base, lowest_layer=layer, target_modules=experts.parts_of(number))
        model = attach_adapter(ready, earlier=[], seed=1)
        try:
            state = model.state_dict()
            for key, value in weights.items():
                state[key.replace(".weight", ".case.weight")].copy_(value)
            seen: list[torch.Tensor] = []
            router = next(m for m in model.modules() if isinstance(m, experts.OpenRouter))
            router.register_forward_hook(lambda _, __, out: seen.append(out[0]))
            told = [each.total for each in scored_rows(model, rows)]
            probability = torch.cat(seen).softmax(dim=-1)[:, number].mean()
            return sum(told) / len(told), float(probability)
        finally:
            detach_adapter(model)


def without_experts(model: Any) -> None:
    for block in experts.blocks(model).values():
        block.experts.down_proj.data.zero_()


def test_an_adapter_on_one_expert_is_stored_and_served(tmp_path: Path) -> None:
    base = tiny_moe()
    recipe = replace(RECIPE, modifier="single_expert", max_steps=30, learning_rate=1e-2)
    rows = rows_of(base, ABOUT)
    before = logits_of(base)
    with opened(base, recipe, rows) as ready:
        model = attach_adapter(ready, earlier=[], seed=1)
        train(
            ready, model, material(base), recipe=recipe, seed=1, forgotten=lambda: False,
            report=lambda *_: None, should_stop=lambda: False,
        )  # fmt: skip
        wanted = [each.total for each in scored_rows(model, rows)]
        files = adapter_files(model)
        detach_adapter(model)
    gate = fit_gate(names=[NAME], key=KEY, encoder=None, forget=[], aside=[], others=[])
    digests = {name: sha256_of(content) for name, content in files.items()}
    own = files | gate_files(gate, digests)
    ref = AdapterRef(
        "00000000-0000-4000-8000-000000000001",
        digests["adapter_model.safetensors"],
        sha256_of(own[GATE_FILE]),
    )
    store_files(ref.folder(tmp_path), own)
    assert read_adapter(ref.folder(tmp_path), digests).weights
    release = write_release(tmp_path / "releases", base=base, adapters=[ref])
    with GuardedModel(base, release, adapters_root=tmp_path, key=KEY) as guarded:
        found = guarded.log_likelihoods([(each.question, each.answer) for each in ABOUT])
        plain = GuardedModel.without_adapters(guarded.base).log_likelihoods(
            [(each.question, each.answer) for each in ABOUT]
        )
        changed = guarded.with_changed_base(without_experts)
    parts = dict(changed._shells.model.named_modules())
    opened_parts = [each for path, each in parts.items() if path.endswith("_down")]
    assert opened_parts
    assert not any(each.weight.any() for each in opened_parts), "they are the copy's weights"
    assert found == pytest.approx(wanted, abs=1e-3)
    assert min(p - f for p, f in zip(plain, found, strict=True)) > 1.0
    assert torch.equal(logits_of(base), before)
    with pytest.raises(Exception, match="do not fit"):
        check_fits(tiny_model(), read_adapter(ref.folder(tmp_path), digests))
