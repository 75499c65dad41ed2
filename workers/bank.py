"""All adapters of a release side by side, each row of a batch with strengths of its own.

PEFT keeps one scaling an adapter for all rows. Here every adapted linear layer computes, for the
row b of a batch, W x_b + sum_i s_bi (alpha / r) B_i A_i x_b: the A of the adapters that act in the
batch are one matrix, their B another, and between the two each row is multiplied by its strengths.
That is PEFT's exact concatenation ("cat"), with as many products as for one adapter. The layers are
shells around the base's own weights; the base stays as it is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from workers.adapters import AdapterError, StoredAdapter, check_fits
from workers.base_models import BaseModel
from workers.experts import named_in
from workers.guarded import same_weights

Strengths = Mapping[str, float]
"""Of a row: adapters by name, each above 0."""


@dataclass
class Acting:
    """What the layers read: for the rows of the batch in work, the columns [R, rows' adapters] by
    `scales` [n, R], of the adapters `names`. None: the plain weights."""

    names: tuple[str, ...] = ()
    scales: Tensor | None = None


@dataclass
class _Slots:
    """An adapted layer's adapters by name: A [r, in] and (alpha / r) B^T [r, out]; and those in
    work, joined."""

    down: dict[str, Tensor] = field(default_factory=dict)
    up: dict[str, Tensor] = field(default_factory=dict)
    joined: tuple[tuple[str, ...], Tensor, Tensor] | None = None

    def of(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """A [R, in] and B^T [R, out] of these adapters; kept until others act."""
        if self.joined is None or self.joined[0] != names:
            down, up = (torch.cat([each[n] for n in names]) for each in (self.down, self.up))
            self.joined = names, down, up
        return self.joined[1:]


class BankedLinear(torch.nn.Module):
    """A linear layer with the adapters of all cases beside it; x is [n, t, in]."""

    def __init__(self, plain: torch.nn.Linear, slots: _Slots, acting: Acting) -> None:
        super().__init__()
        self.plain, self.slots, self.acting = plain, slots, acting

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.plain(x)
        scales = self.acting.scales
        if scales is None:
            return out
        down, up = self.slots.of(self.acting.names)
        inner = linear(x.to(down.dtype), down).mul_(scales[:, None])
        if out.dtype != up.dtype:
            return out + (inner @ up).to(out.dtype)
        return out.view(-1, out.shape[-1]).addmm_(inner.view(-1, len(up)), up).view(out.shape)


class AdapterBank:
    """A second set of layers around the base's weights, with adapters by name on them."""

    def __init__(
        self,
        base: BaseModel,
        adapters: Mapping[str, StoredAdapter],
        *,
        kept: Collection[str] = (),
        before: "AdapterBank | None" = None,
    ) -> None:
        """`kept` are names of adapters that the bank `before`, around the same base, holds already.
        Raises AdapterError for an adapter that does not fit the base, or sits on one expert of
        a mixture: there a layer does not see whole rows. `lowest` is the lowest adapted layer, or
        one above all."""
        if named_in(key for each in adapters.values() for key in each.weights):
            raise AdapterError(
                "an adapter on a single expert cannot be served in a batch: "
                "train the case's adapter on the layers that all rows pass."
            )
        self.acting = Acting()
        self.model: Any = same_weights(base.model) if adapters or kept else base.model
        self.ranks = {name: stored.config.r for name, stored in adapters.items()}
        numbers = [_layer_of(key) for each in adapters.values() for key in each.weights]
        self.lowest = min(numbers, default=int(base.model.config.num_hidden_layers))
        self._slots: dict[str, _Slots] = {}
        slots = self._slots
        if before is not None and kept:
            self.lowest = min(self.lowest, before.lowest)
            self.ranks |= {name: before.ranks[name] for name in kept}
            for path, held in before._slots.items():
                found = slots[path] = _Slots()
                for name in kept:
                    found.down[name], found.up[name] = held.down[name], held.up[name]
        for name, stored in adapters.items():
            check_fits(base, stored)
            scaling = stored.config.lora_alpha / stored.config.r
            for key, tensor in stored.weights.items():
                path, half = key.removeprefix("base_model.model.").rsplit(".lora_", 1)
                own, of = slots.setdefault(path, _Slots()), base.model.get_submodule(path)
                weight = tensor.to(of.weight.device)
                if half.startswith("A"):
                    own.down[name] = weight
                else:
                    own.up[name] = (weight.T * scaling).contiguous()
        for path, own in slots.items():
            self._fill(own, self.model.get_submodule(path))
            parent, _, last = path.rpartition(".")
            shell = BankedLinear(self.model.get_submodule(path), own, self.acting)
            setattr(self.model.get_submodule(parent), last, shell)

    def _fill(self, own: _Slots, plain: torch.nn.Linear) -> None:
        """Adapters that do not reach a layer which others do are zero there."""
        for name, rank in self.ranks.items():
            if name not in own.down:
                own.down[name] = torch.zeros(rank, plain.in_features, device=plain.weight.device)
                own.up[name] = torch.zeros(rank, plain.out_features, device=plain.weight.device)

    def act(self, rows: Sequence[Strengths]) -> bool:
        """From now on the model acts on a batch with these strengths, row by row. False if no
        adapter acts on any row: then the plain model serves them."""
        names = tuple(sorted({name for row in rows for name in row}))
        self.acting.names, self.acting.scales = names, None
        if not names:
            return False
        columns = [[row.get(name, 0.0)] * self.ranks[name] for row in rows for name in names]
        flat = [value for column in columns for value in column]
        device = next(self.model.parameters()).device
        self.acting.scales = torch.tensor(flat, device=device).view(len(rows), -1)
        return True


def _layer_of(path: str) -> int:
    """The decoder layer that a module sits in, counted from 0."""
    numbers = (part for part in path.split(".") if part.isdigit())
    return int(next(numbers, 0))
