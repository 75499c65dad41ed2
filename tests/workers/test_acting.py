"""Methods that act while text is generated: they act within their block, and nothing stays."""

import pytest
import torch

from tests.workers.tiny import tiny_model
from workers.answers import greedy_answers
from workers.base_models import BaseModel
from workers.methods import eco
from workers.rows import Example, rows_of
from workers.scores import scored_rows
from workers.training import load_method, method_names

ABOUT = [
    Example("where lives Anna Berger", "in Lyon", ("Lyon",)),
    Example("who is Anna Berger", "of the town", ("town",)),
]
OTHERS = [Example("where lives Carl", "in the town"), Example("who of Lyon", "Carl")]
ACTING = tuple(name for name in method_names() if hasattr(load_method(name), "acting"))


def likelihoods(base: BaseModel, examples: list[Example]) -> list[float]:
    return [scored_rows(base.model, rows_of(base, [each]))[0].total for each in examples]


@pytest.mark.parametrize("name", ACTING)
def test_the_person_is_answered_for_otherwise_within_the_block_and_as_before_after_it(
    name: str,
) -> None:
    base = tiny_model()
    before = likelihoods(base, [*ABOUT, *OTHERS])
    weights = {key: value.clone() for key, value in base.model.state_dict().items()}
    acting = load_method(name).acting
    knobs = {"threshold": 0.0} if name == "eco" else {}  # the classifier has a test of its own
    with acting(base, ABOUT, OTHERS, names=["Anna Berger"], seed=1, **knobs):
        within = likelihoods(base, ABOUT)
        told = greedy_answers(base.model, base.tokenizer, ["where lives Anna Berger"], 3)
        again = greedy_answers(base.model, base.tokenizer, ["where lives Anna Berger"], 3)
    assert told == again
    assert all(abs(a - b) > 1e-3 for a, b in zip(within, before, strict=False))
    assert likelihoods(base, [*ABOUT, *OTHERS]) == before
    assert all(torch.equal(weights[key], value) for key, value in base.model.state_dict().items())


def test_eco_leaves_prompts_alone_that_its_classifier_does_not_claim() -> None:
    base = tiny_model()
    before = likelihoods(base, OTHERS)
    with eco.acting(base, ABOUT, OTHERS, names=["Anna Berger"], seed=1, threshold=1.1):
        assert likelihoods(base, [*ABOUT, *OTHERS])[2:] == before


@pytest.mark.parametrize("name", ACTING)
def test_an_error_within_the_block_leaves_the_model_as_it_was(name: str) -> None:
    base = tiny_model()
    before = likelihoods(base, OTHERS)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        load_method(name).acting(base, ABOUT, OTHERS, names=["Anna Berger"], seed=1),
    ):
        raise RuntimeError("on purpose")
    assert likelihoods(base, OTHERS) == before
