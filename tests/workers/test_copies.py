"""What is done to copies of the weights, and that the originals stay as they were."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.workers.test_guarded import merged, served
from tests.workers.tiny import tiny_model
from workers.copies import STEPS, nearest, round_weights, teach
from workers.guarded import GuardedModel
from workers.rows import rows_after
from workers.scores import scored_rows
from workers.sides import Stack, opened

QUESTION = "where lives Anna Berger"
CASE = "00000000-0000-4000-8000-000000000000"


def snapshot(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_four_bits_are_seven_steps_either_way_in_each_group() -> None:
    row = torch.tensor([[7.0, 2.4, -3.6, 0.4, 70.0, 24.0, -36.0, 4.0, 0.7]])
    found = nearest(row, bits=4, group=4)
    expected = torch.tensor([[7.0, 2.0, -4.0, 0.0, 70.0, 20.0, -40.0, 0.0, 0.7]])
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(nearest(torch.zeros(2, 3), bits=8, group=None), torch.zeros(2, 3))
    half = nearest(row.half(), bits=8, group=None)
    assert half.dtype == torch.float16
    assert (half.float() - row).abs().max() <= 70.0 / 127 / 2 + 0.05


def test_embeddings_head_and_norms_are_not_rounded() -> None:
    base = tiny_model()
    before = snapshot(base.model)
    round_weights(base.model, bits=4, group=32)
    changed = {n for n, each in base.model.state_dict().items() if not torch.equal(each, before[n])}
    assert changed
    assert all(".layers." in name and "proj" in name for name in changed)
    assert sum(name.endswith("q_proj.weight") for name in changed) == 2


def logits_of(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([[7, 20, 31, 9]])).logits


def test_a_rounded_stack_has_the_adapters_of_the_served_one_and_leaves_it_alone(
    tmp_path: Path,
) -> None:
    base = tiny_model()
    before = snapshot(base.model)
    guarded, weights = served(base, tmp_path, cases=1)
    with guarded:
        told = guarded.scored([(QUESTION, "Lyon")])
        stack = Stack(guarded, GuardedModel.without_adapters(base), None, CASE, 1)
        by_hand = tiny_model()
        round_weights(by_hand.model, bits=4, group=32)
        merged(by_hand, weights, (1.0,))
        with opened("int4", stack) as rounded:
            assert rounded.strengths([QUESTION]) == [(1.0,)]
            (logits,) = rounded.looked_at([QUESTION], lambda _, model: [logits_of(model)])
            assert logits is not None
            assert torch.allclose(logits, logits_of(by_hand.model), atol=1e-4)
        with opened("int8", stack) as rounded:
            again = rounded.scored([(QUESTION, "Lyon")])
            assert again != told
            assert again[0] is not None
            assert told[0] is not None
            assert again[0].total == pytest.approx(told[0].total, abs=0.5)
        assert same(before, snapshot(base.model))
        assert guarded.scored([(QUESTION, "Lyon")]) == told


def test_a_case_laid_open_is_the_base_with_its_adapter_in_the_weights(tmp_path: Path) -> None:
    base = tiny_model()
    before = snapshot(base.model)
    guarded, weights = served(base, tmp_path, cases=2)
    by_hand = tiny_model()
    merged(by_hand, weights, (1.0, 0.0))
    with guarded:
        found = guarded.laid_open(CASE)
        assert torch.allclose(logits_of(found), logits_of(by_hand.model), atol=1e-4)
        bare = guarded.laid_open("00000000-0000-4000-8000-00000000000f")
        assert torch.equal(logits_of(bare), logits_of(base.model))
        with torch.no_grad():
            for parameter in (*found.parameters(), *bare.parameters()):
                parameter.add_(1.0)
        assert same(before, snapshot(base.model))
        assert guarded.strengths([QUESTION]) == [(1.0, 0.0)]


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_taught_becomes_likelier_the_same_way_each_time(
    whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr("workers.copies.TAUGHT_WHOLE", 0)
    rows = rows_after(tiny_model(), [(QUESTION, "Lyon")])
    found = []
    for _ in range(2):
        base = tiny_model()
        before = snapshot(base.model)
        (start,) = scored_rows(base.model, rows)
        teach(base, base.model, rows * 3, seed=1)
        (end,) = scored_rows(base.model, rows)
        assert end.total > start.total + 1.0
        found.append(end)
        after = base.model.state_dict()
        assert (
            torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
            != whole
        )
        assert not any(each.requires_grad for each in base.model.parameters())
    assert found[0] == found[1]
    assert STEPS <= 20
    with pytest.raises(ValueError, match="nothing to teach"):
        teach(base, base.model, [], seed=1)
