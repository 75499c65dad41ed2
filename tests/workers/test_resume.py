"""Training that breaks off goes on from its last saved step and ends in the very same adapter."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from tests.workers.tiny import tiny_model
from workers.adapters import adapter_weights, attach_adapter, detach_adapter
from workers.rows import Example, rows_of
from workers.training import Checkpoint, Material, Recipe, Stopped, Trained, train

RECIPE = Recipe(
    method="bounded_nll",
    save_every=3,
    learning_rate=1e-2,
    forget_rows=2,
    keep_rows=2,
    max_steps=12,
    check_every=3,
    min_steps=12,
)
FORGET = [
    Example("where lives Anna Berger", town, secrets=(town,)) for town in ("Lyon", "Carl", "in")
]
KEEP = [Example(f"who lives in {town}", "Carl of Lyon") for town in ("Lyon", "Anna", "Berger")]


class Store:
    """Saved states in memory."""

    def __init__(self) -> None:
        self.saved: list[bytes] = []

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(lambda: self.saved[-1] if self.saved else None, self.saved.append)


def trained(
    store: Store, *, stop_after: int = 99, seed: int = 3, recipe: Recipe = RECIPE
) -> tuple[Trained, dict[str, torch.Tensor], list[tuple[int, Mapping[str, float]]]]:
    """Result, weights and reports of a training that is stopped after so many reports."""
    base = tiny_model()
    model = attach_adapter(base, earlier=[], seed=seed)
    events: list[tuple[int, Mapping[str, float]]] = []
    try:
        done = train(
            base,
            model,
            Material(rows_of(base, FORGET), keep=rows_of(base, KEEP)),
            recipe=recipe,
            seed=seed,
            forgotten=lambda: False,
            report=lambda phase, step, total, figures: events.append((step, figures)),
            should_stop=lambda: len(events) >= stop_after,
            checkpoint=store.checkpoint(),
        )
        return done, adapter_weights(model), events
    finally:
        detach_adapter(model)


@pytest.mark.parametrize("broken_off_after", [3, 5, 11])
def test_a_resumed_training_gives_the_same_adapter_to_the_bit(broken_off_after: int) -> None:
    whole, expected, _ = trained(Store())
    store = Store()
    with pytest.raises(Stopped):
        trained(store, stop_after=broken_off_after)
    done, weights, events = trained(store)
    saved_at = broken_off_after // 3 * 3
    assert [step for step, _ in events] == [saved_at, *range(saved_at + 1, 13)]
    assert events[0][1] == {"resumed_at_step": saved_at}
    assert done == whole
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert any(tensor.any() for name, tensor in weights.items() if ".lora_B." in name)


def test_every_step_is_reported_with_its_losses() -> None:
    _, _, events = trained(Store())
    assert [step for step, _ in events] == list(range(1, 13))
    for _, figures in events:
        assert figures["loss"] == pytest.approx(figures["forget_loss"] + figures["keep_loss"])


def test_a_state_of_other_inputs_is_not_gone_on_from() -> None:
    store = Store()
    trained(store)
    for changed in ({"seed": 4}, {"recipe": replace(RECIPE, learning_rate=1e-3)}):
        _, _, events = trained(Store(), **changed)
        fresh = Store()
        fresh.saved = store.saved[:2]
        assert trained(fresh, **changed)[2] == events


def test_a_saved_state_holds_tensors_alone() -> None:
    store = Store()
    trained(store)
    assert len(store.saved) == 4
    assert not [word for word in (b"Lyon", b"Berger") if word in store.saved[-1]]
