"""O3 as released: its faults are kept, and nothing of it stays in the base model."""

import pytest
import torch

from tests.workers.tiny import tiny_model
from workers.base_models import BaseModel
from workers.methods.o3_reference import (
    Cumulative,
    Settings,
    bands,
    one_class_weights,
    sequence,
)
from workers.rows import Example, rows_of
from workers.scores import scored_rows

ANNA = [Example(f"where lives Anna Berger {word}", "in Lyon", ("Lyon",)) for word in "abcdefgh"]
CARL = [Example(f"who is Carl {word}", "of the town", ("town",)) for word in "abcdefgh"]
QUICK = Settings(learning_rate=1e-2, width=16)


def likelihoods(base: BaseModel, model: object, examples: list[Example]) -> list[float]:
    return [each.total for each in scored_rows(model, rows_of(base, examples))]


def adapter(o3: Cumulative) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in o3.model.named_parameters() if ".lora_" in n}


def test_every_request_trains_the_one_adapter_further_and_the_base_comes_back() -> None:
    base = tiny_model()
    before = likelihoods(base, base.model, [*ANNA, *CARL])
    with sequence(base, seed=1, settings=QUICK) as o3:
        assert o3.erase(ANNA, steps=10) == 10
        first = adapter(o3)
        assert o3.erase(CARL, steps=10) == 10
        second = adapter(o3)
        assert first.keys() == second.keys()
        assert all(not torch.equal(first[name], second[name]) for name in first)
        assert len(o3.detectors) == 2
        refused = [Example(each.question, "I don't know.") for each in CARL]
        taught = likelihoods(base, o3.model, refused)
    assert sum(taught) > sum(likelihoods(base, base.model, refused)) + 1.0
    assert likelihoods(base, base.model, [*ANNA, *CARL]) == before


def test_the_penalty_pushes_the_adapter_off_its_own_earlier_state() -> None:
    # The fault: what would be orthogonal to earlier requests begins as their very adapter.
    base = tiny_model()
    overlaps = []
    for penalty in (0.0, 10.0):
        with sequence(base, seed=1, settings=Settings(width=16, penalty=penalty)) as o3:
            o3.erase(ANNA, steps=5)
            o3.erase(CARL, steps=60)
            now = adapter(o3)
            assert all(len(rows) == 2 * o3.settings.rank for rows in o3.earlier.values())
            first = {n: rows[: o3.settings.rank] for n, rows in o3.earlier.items()}
            overlaps.append(sum(float((first[n] @ now[n].T).square().sum()) for n in first))
    assert overlaps[1] < 0.9 * overlaps[0]


def test_the_bands_have_the_released_dead_zone() -> None:
    strengths = torch.tensor([0.119, 0.25, 0.35, 0.5, 0.7, 0.9, 0.95])
    assert bands(strengths, of="scienceqa").tolist() == pytest.approx([0, 0, 0.35, 0, 0, 0, 1.2])
    assert bands(strengths).tolist() == pytest.approx([0, 0.625, 1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="tofu, scienceqa"):
        bands(strengths, of="muse")


def test_fewer_texts_than_dimensions_give_every_one_of_them_the_same_distance() -> None:
    base = tiny_model()
    with sequence(base, seed=1, settings=QUICK) as o3:
        o3.erase(ANNA, steps=1)
        (detector,) = o3.detectors
    apart = (detector.rows - detector.centres[:, None]).double()
    distance = torch.einsum("lnd,lde,lne->ln", apart, detector.precisions, apart)
    n = detector.rows.shape[1]
    # The covariance is singular, and nothing is told apart by it: (N - 1)^2 / N for all.
    assert torch.allclose(distance, torch.full_like(distance, (n - 1) ** 2 / n), rtol=1e-3)
    assert detector.strengths(detector.rows).min() > 0.119


def test_strengths_depend_on_the_padding() -> None:
    base = tiny_model()
    with sequence(base, seed=1, settings=QUICK) as o3:
        short = o3._features(["Anna"])
        o3.settings = Settings(width=64)
        assert not torch.allclose(short, o3._features(["Anna"]))


def test_answers_follow_the_strength_of_each_question(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_model()
    with sequence(base, seed=1, settings=QUICK) as o3:
        plain = o3._answers(["where lives Anna"], [0.0])
        o3.erase(ANNA, steps=40)
        monkeypatch.setattr(o3, "strengths", lambda questions: [0.0, 1.0])
        told = o3.answers(["where lives Anna", "where lives Anna"])
        assert told == [*plain, *o3.answers_forced(["where lives Anna"])]
        assert told[0] != told[1]


def test_the_hyperplane_is_the_one_of_the_dual() -> None:
    # By hand: with nu = 1 every text has the same weight, so the normal is the mean.
    x = torch.tensor([[1.0, 0.0], [3.0, 2.0], [2.0, 4.0]])
    assert one_class_weights(x, nu=1.0).tolist() == pytest.approx([2.0, 2.0], abs=1e-6)
    # With nu small it is the point of the hull that lies nearest to the origin.
    assert one_class_weights(x, nu=0.01).tolist() == pytest.approx([1.0, 0.0], abs=1e-2)
