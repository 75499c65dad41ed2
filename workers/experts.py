"""Opening one expert of a mixture of experts, so that an ordinary adapter can go on it.

The library keeps a layer's experts as one tensor for all of them, where no adapter reaches a single
one. An opened expert stands beside the others as three linear layers around the very same weights
(`e7_gate`, `e7_up`, `e7_down` for the expert 7), the router's as one (`router_proj`); the layer
computes what it did before, to rounding. The names are all that a stored adapter says, and all that
is needed to open the same expert when it is served.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from workers.base_models import ModelError

ROUTER = "router_proj"
_PATH = re.compile(r"(?:^|\.)layers\.(\d+)\.mlp\.experts\.e(\d+)_(?:gate|up|down)(?:\.|$)")


def parts_of(number: int) -> tuple[str, ...]:
    """The names of the linear layers of the expert `number`, and of the router's."""
    return (f"e{number}_gate", f"e{number}_up", f"e{number}_down", ROUTER)


def named_in(keys: Iterable[str]) -> frozenset[tuple[int, int]]:
    """The (layer, expert) pairs whose parts the names of an adapter's tensors belong to."""
    found = (_PATH.search(key) for key in keys)
    return frozenset((int(each[1]), int(each[2])) for each in found if each)


def blocks(model: Any) -> dict[int, Any]:
    """The blocks of experts by decoder layer; none in a dense model."""
    found = {}
    for number, layer in enumerate(getattr(model.get_decoder(), "layers", ())):
        block = getattr(layer, "mlp", None)
        fused = getattr(block, "experts", None)
        has_both = getattr(block, "gate", None) is not None and hasattr(fused, "gate_up_proj")
        if has_both and hasattr(fused, "down_proj"):
            found[number] = block
    return found


class OpenExperts(torch.nn.Module):
    """The experts of a layer, some of them opened."""

    def __init__(self, fused: Any, numbers: Iterable[int]) -> None:
        super().__init__()
        self.fused, self.numbers = fused, tuple(sorted(numbers))
        half = fused.gate_up_proj.shape[1] // 2
        for number in self.numbers:
            gate, up, down, _ = parts_of(number)
            self.add_module(gate, _linear(fused.gate_up_proj[number, :half]))
            self.add_module(up, _linear(fused.gate_up_proj[number, half:]))
            self.add_module(down, _linear(fused.down_proj[number]))

    def forward(self, states: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """As the fused experts: `states` [n, d], `chosen` and `weights` [n, k]."""
        opened = torch.zeros_like(states)
        for number in self.numbers:
            gate, up, down = (getattr(self, name) for name in parts_of(number)[:3])
            here = chosen == number
            own = down(self.fused.act_fn(gate(states)) * up(states))
            opened = opened + (weights * here).sum(dim=-1, keepdim=True) * own
            weights = weights.masked_fill(here, 0.0)
        return self.fused(states, chosen, weights) + opened


class OpenRouter(torch.nn.Module):
    """A layer's router, its weight where an adapter can reach it."""

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.router = router
        self.router_proj = _linear(router.weight)

    def forward(self, states: Tensor) -> Any:
        """As the router itself."""
        unit = torch.eye(self.router.weight.shape[1], device=states.device, dtype=states.dtype)
        return functional_call(self.router, {"weight": self.router_proj(unit).T}, (states,))


def _linear(weight: Tensor) -> torch.nn.Linear:
    """A linear layer around `weight` [out, in] itself."""
    with torch.device("meta"):
        found = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    found.weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
    return found


def open_experts(model: Any, chosen: Iterable[tuple[int, int]]) -> None:
    """Open the (layer, expert) pairs of a model. Raises ModelError where there is no such one."""
    by_layer: dict[int, list[int]] = {}
    for layer, number in chosen:
        by_layer.setdefault(layer, []).append(number)
    there = blocks(model)
    for layer, numbers in by_layer.items():
        if layer not in there or max(numbers) >= len(there[layer].experts.down_proj):
            raise ModelError(
                f"The model has no expert {max(numbers)} in layer {layer}: the adapter was made "
                "for another one."
            )
    for layer, numbers in by_layer.items():
        block = there[layer]
        block.experts = OpenExperts(block.experts, numbers)
        block.gate = OpenRouter(block.gate)


@contextmanager
def opened(model: Any, chosen: Iterable[tuple[int, int]]) -> Iterator[None]:
    """The same within a block; afterwards the model is as it was."""
    chosen = frozenset(chosen)
    before: Mapping[int, tuple[Any, Any]] = {
        number: (block.experts, block.gate) for number, block in blocks(model).items()
    }
    there = blocks(model)
    open_experts(model, chosen)
    try:
        yield
    finally:
        for number, (experts, gate) in before.items():
            there[number].experts, there[number].gate = experts, gate
