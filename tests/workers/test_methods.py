import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from workers.methods import DATA, Batch, Completions
from workers.rows import Example
from workers.training import load_method, method_names, method_settings

ADAPTER_METHODS = tuple(name for name in method_names() if hasattr(load_method(name), "loss"))
# Methods that work on states, or that learn the forget set before they turn round.
ON_STATES = tuple(name for name in ADAPTER_METHODS if "states" in load_method(name).NEEDS)
BY_ANOTHER_ANSWER = ("idk", "random_label")


def completions(*, told: float, rows: int = 2) -> Completions:
    """Rows of two positions over six tokens; the base says token 1 everywhere and the first
    position of each row gives a fact away; `told` is the current logit of token 1 there."""
    base = torch.zeros(2 * rows, 6)
    base[:, 1] = 8.0
    twin = torch.zeros(2 * rows, 6)
    twin[::2, 2] = 8.0
    twin[1::2, 1] = 8.0
    logits = base.clone()
    logits[::2, 1] = told
    states = torch.eye(2 * rows, 8)
    moved = states.clone() + (8.0 - told) * torch.roll(torch.eye(2 * rows, 8), 1, dims=1)
    return Completions(
        logits=logits.requires_grad_(),
        base_logits=base,
        labels=torch.ones(2 * rows, dtype=torch.long),
        is_answer=torch.tensor([True, False] * rows),
        row=torch.arange(rows).repeat_interleave(2),
        states=moved.requires_grad_(),
        base_states=states,
        twin_logits=twin,
        reinforced_logits=base + 2.0 * torch.nn.functional.one_hot(torch.tensor(1), 6),
    )


def refusals(*, said: float) -> Completions:
    """The same rows answered by token 3, which the adapter gives the logit `said`."""
    there = completions(told=0.0)
    logits = torch.zeros(4, 6)
    logits[:, 3] = said
    return replace(
        there,
        logits=logits.requires_grad_(),
        base_logits=torch.zeros(4, 6),
        labels=torch.full((4,), 3),
        is_answer=torch.zeros(4, dtype=torch.bool),
    )


def batch(*, told: float) -> Batch:
    """`told` 8: nothing unlearnt; 0: the answer is no likelier than anything else, and what is
    learnt in its place (if anything) is."""
    return Batch(
        forget=completions(told=told),
        instead=refusals(said=8.0 - told),
        keep=completions(told=8.0),
        retained=completions(told=8.0),
    )


@pytest.mark.parametrize("name", method_names())
def test_a_method_says_what_it_is(name: str) -> None:
    method = load_method(name)
    assert method.NEEDS
    assert set(method.NEEDS) <= set(DATA)
    assert isinstance(method.BOUNDED, bool)
    assert sum(hasattr(method, way) for way in ("loss", "acting", "sequence", "retrain")) == 1
    assert "arXiv" in (method.__doc__ or "") or name in {"bounded_nll", "exact"}
    assert ("instead" in method.NEEDS) == hasattr(method, "instead")


@pytest.mark.parametrize("name", [n for n in ADAPTER_METHODS if n not in {"task_vector", "rmu"}])
def test_a_loss_falls_as_the_answer_is_unlearnt(name: str) -> None:
    knobs = {"skip_first": False} if name == "ce_u" else {}
    gone, known = (load_method(name).loss(batch(told=x), **knobs).detach() for x in (0.0, 8.0))
    assert float(gone) < float(known)


def test_rmu_falls_as_states_turn_to_its_direction() -> None:
    there = batch(told=8.0).forget
    direction = torch.rand(8, generator=torch.Generator().manual_seed(0))
    aimed = replace(there, states=(2.0 * direction / direction.norm()).expand(4, 8))
    rmu = load_method("rmu").loss
    keep = completions(told=8.0)
    assert float(rmu(Batch(forget=aimed, keep=keep)).detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(rmu(Batch(forget=there, keep=keep)).detach()) > 1.0
    assert float(rmu(Batch(forget=aimed, keep=there)).detach()) < float(
        rmu(Batch(forget=aimed, keep=completions(told=6.0))).detach()
    )


# The task vector learns the answer first; see test_the_task_vector_is_turned_round.
@pytest.mark.parametrize(
    "name", [n for n in ADAPTER_METHODS if n not in {*ON_STATES, "task_vector"}]
)
def test_descent_lowers_the_answer_or_raises_what_stands_in_its_place(name: str) -> None:
    known = batch(told=8.0)
    load_method(name).loss(known).backward()
    at = known.instead if name in BY_ANOTHER_ANSWER else known.forget
    assert at is not None
    grad = at.logits.grad
    assert grad is not None
    if name in BY_ANOTHER_ANSWER:
        assert bool((grad[:, 3] < 0).all())
    elif name == "ce_u":  # the first token of a longer answer is left out, as published
        assert bool((grad[1::2, 1] > 0).all())
    else:
        assert bool((grad[::2, 1] > 0).all())


@pytest.mark.parametrize("name", ON_STATES)
def test_a_method_on_states_moves_those_of_the_forget_rows(name: str) -> None:
    known = batch(told=7.0)
    load_method(name).loss(known).backward()
    assert known.forget.states is not None
    assert known.forget.states.grad is not None
    assert float(known.forget.states.grad.abs().sum()) > 0
    assert known.forget.logits.grad is None


@pytest.mark.parametrize(
    "name", [n for n in ADAPTER_METHODS if load_method(n).BOUNDED and n not in ON_STATES]
)
def test_a_bounded_loss_does_not_fall_without_end(name: str) -> None:
    far, farther = (load_method(name).loss(batch(told=x)).detach() for x in (-60.0, -6000.0))
    assert torch.isfinite(farther)
    # A bounded loss may still creep towards its bound; an unbounded one falls by thousands.
    assert float(far - farther) < 25.0


@pytest.mark.parametrize("name", ["gradient_ascent", "gradient_difference"])
def test_an_unbounded_loss_says_so_and_is(name: str) -> None:
    far, farther = (load_method(name).loss(batch(told=x)).detach() for x in (-60.0, -6000.0))
    assert float(far - farther) > 1000.0
    assert not load_method(name).BOUNDED


@pytest.mark.parametrize("name", ["bounded_nll", "demote", "twin"])
def test_a_method_for_production_leaves_other_positions_and_never_overshoots(name: str) -> None:
    known = batch(told=8.0)
    load_method(name).loss(known).backward()
    assert known.forget.logits.grad is not None
    assert known.forget.logits.grad[1::2].abs().max() < 1e-6
    far = batch(told=-60.0)
    load_method(name).loss(far).backward()
    assert far.forget.logits.grad is not None
    assert bool((far.forget.logits.grad[::2, 1] <= 1e-6).all())  # never pushed further down


def test_the_twin_teacher_is_reached_exactly_when_the_person_is_answered_for_as_nobody() -> None:
    given = batch(told=8.0)
    assert given.forget.twin_logits is not None
    same = replace(given.forget, logits=given.forget.twin_logits.clone())
    lost: Tensor = load_method("twin").loss(replace(given, forget=same))
    assert float(lost) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("divergence", ["kl", "tv", "pearson", "js"])
def test_flat_prefers_the_template_in_every_divergence(divergence: str) -> None:
    flat = load_method("flat")
    known, gone = (flat.loss(batch(told=x), divergence=divergence).detach() for x in (8.0, 0.0))
    assert float(gone) < float(known)


def test_flat_refuses_a_divergence_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="kl, tv, pearson or js"):
        load_method("flat").loss(batch(told=8.0), divergence="hellinger")


def test_the_task_vector_is_turned_round() -> None:
    weights = {"b": torch.tensor([[1.0, -2.0]])}
    load_method("task_vector").finish(weights, strength=0.5)
    assert weights["b"].tolist() == [[-0.5, 1.0]]


def test_random_labels_are_other_values_of_the_kind() -> None:
    known = Example("Where?", "in Lyon, France", ("Lyon",), ("Oslo", "Bonn"))
    draw = random.Random(0)  # noqa: S311
    said = {load_method("random_label").instead(known, draw).answer for _ in range(20)}
    assert said == {"in Oslo, France", "in Bonn, France"}


def test_data_that_a_method_needs_and_does_not_get_is_named() -> None:
    with pytest.raises(ValueError, match="retained: other people"):
        load_method("gradient_difference").loss(replace(batch(told=8.0), retained=None))


@pytest.mark.parametrize("name", [n for n in ADAPTER_METHODS if method_settings(n)])
def test_settings_are_the_loss_keywords(name: str) -> None:
    assert all(isinstance(v, int | float | str | bool) for v in method_settings(name).values())


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="bounded_nll"):
        load_method("magic")


def test_the_folder_is_the_registry() -> None:
    folder = Path(__file__).parents[2] / "workers" / "methods"
    assert {f.stem for f in folder.glob("*.py")} - {"__init__"} == set(method_names())
