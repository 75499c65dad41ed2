import pytest
import torch

from workers.methods import ForgetBatch
from workers.training import load_method, method_names, method_settings


def batch(*, told: float) -> ForgetBatch:
    """Four positions over six tokens; the base says token 1 at each, the first two give a fact
    away; `told` is the current logit of token 1 there."""
    base = torch.zeros(4, 6)
    base[:, 1] = 8.0
    logits = base.clone()
    logits[:2, 1] = told
    return ForgetBatch(
        logits=logits.requires_grad_(),
        base_logits=base,
        labels=torch.ones(4, dtype=torch.long),
        is_answer=torch.tensor([True, True, False, False]),
    )


@pytest.mark.parametrize("name", method_names())
def test_a_method_lowers_what_gives_a_fact_away_and_leaves_the_rest(name: str) -> None:
    known = batch(told=8.0)
    lost = load_method(name)(known)
    lost.backward()
    assert known.logits.grad is not None
    assert bool((known.logits.grad[:2, 1] > 0).all())  # descent lowers the answer's logit
    assert known.logits.grad[2:].abs().max() < 1e-6
    assert lost.detach() > load_method(name)(batch(told=0.0)).detach()


@pytest.mark.parametrize("name", method_names())
def test_a_method_is_bounded_and_does_not_drive_the_answer_out_of_sight(name: str) -> None:
    far = batch(told=-60.0)
    lost = load_method(name)(far)
    assert torch.isfinite(lost)
    lost.backward()
    assert far.logits.grad is not None
    assert bool((far.logits.grad[:2, 1] <= 1e-6).all())  # never pushed further down
    assert method_settings(name)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="bounded_nll"):
        load_method("magic")
