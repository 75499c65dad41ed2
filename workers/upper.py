"""The layers that an adapter acts on, run on stored states of the layers below them.

Below the lowest adapted layer nothing changes while an adapter is trained, so a text's states are
computed there once, and a training step runs the upper layers alone, with logits only where a
completion token is predicted, and the last layer alone for those positions. The layers themselves
are the model's own (same objects, adapters included); only the list that the decoder walks through
is cut. Whether a model decomposes this way is not assumed but tried, on a text, when it is cut; one
that does not is run whole.
"""

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers.cache_utils import Cache, DynamicLayer

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Padded:
    """Rows padded on the left [n, width], so that completions share their last positions."""

    ids: Tensor
    mask: Tensor
    positions: Tensor

    def to(self, device: torch.device) -> "Padded":
        """The same batch on the model's device."""
        return Padded(self.ids.to(device), self.mask.to(device), self.positions.to(device))

    def columns(self, first: int, end: int) -> "Padded":
        """The same rows, from column `first` to before `end`."""
        return Padded(self.ids[:, first:end], self.mask[:, first:end], self.positions[:, first:end])


def padded(rows: Sequence[Sequence[int]], pad: int) -> Padded:
    """Token ids as one batch, with positions counted from each row's first token."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return Padded(ids, mask, (mask.cumsum(dim=1) - 1).clamp(min=0))


@dataclass(frozen=True)
class Cut:
    """A causal language model in parts: the layers `below` the adapters; those up to the `middle`
    and those `above` it, without the last; the `last` layer with the final norm; the head.

    `below` None: the model did not decompose and `whole` is run instead; there are no states then.
    """

    whole: Any
    below: Any | None
    middle: Any
    above: Any
    last: Any
    head: Any

    @property
    def is_whole(self) -> bool:
        return self.below is None

    @torch.no_grad()
    def stored(self, batch: Padded) -> Tensor:
        """What is kept of each text: states under the adapters [n, width, d], or the ids."""
        batch = batch.to(self.whole.device)
        if self.below is None:
            return batch.ids
        return _run(self.below, batch, input_ids=batch.ids)

    def forward(
        self, stored: Tensor, batch: Padded, places: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [m, v] and states after the middle adapted layer [m, d] (None for a model that
        is run whole), both at the m `places` (row, column) and in float32: losses in bfloat16 would
        be too coarse. Of the last layer only the columns from the first of the places to the last
        are computed, beside the keys and values of those before."""
        batch = batch.to(self.whole.device)
        first, end = int(places[1].min()), int(places[1].max()) + 1
        if self.below is None:
            logits = self.whole(
                input_ids=stored,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                logits_to_keep=stored.shape[1] - first,
                use_cache=False,
            ).logits
            return logits[places[0], places[1] - first].float(), None
        batch = batch.columns(0, end)
        halfway = _run_layers(self.middle, batch, stored[:, :end])
        states = _run_layers(self.above, batch, halfway)
        found = _run_from(self.last, batch, states, first)[places[0], places[1] - first]
        # With one adapted layer alone the states after it are the final ones.
        middle = halfway[places] if len(self.middle.layers) else found
        return self.head(found).float(), middle.float()


def _run(part: Any, batch: Padded, **given: Any) -> Tensor:
    return part(
        attention_mask=batch.mask, position_ids=batch.positions, **{"use_cache": False, **given}
    ).last_hidden_state


def _run_layers(part: Any, batch: Padded, states: Tensor) -> Tensor:
    """The states after the part's layers, which may be none."""
    return _run(part, batch, inputs_embeds=states) if len(part.layers) else states


def _run_from(part: Any, batch: Padded, states: Tensor, first: int) -> Tensor:
    """The states after the part's one layer [n, width - first, d] from column `first` on."""
    before = _Keys()
    if first:
        with contextlib.suppress(_Kept):
            _run(
                part, batch.columns(0, first), inputs_embeds=states[:, :first],
                past_key_values=before, use_cache=True,
            )  # fmt: skip
    before.is_asked = True
    return part(
        inputs_embeds=states[:, first:],
        attention_mask=batch.mask,
        position_ids=batch.positions[:, first:],
        past_key_values=before,
        use_cache=True,
    ).last_hidden_state


class _Kept(Exception):
    """The keys and values are there; the rest of the layer is not wanted."""


class _Keys(Cache):
    """Keys and values of one layer, whatever its number; gradients go through them."""

    def __init__(self) -> None:
        super().__init__(layers=[DynamicLayer()])
        self.is_asked = False

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        found = self.layers[0].update(key_states, value_states)
        if not self.is_asked:
            raise _Kept
        return found


def cut(model: Any, lowest: int) -> Cut:
    """`model` cut under decoder layer `lowest` (from 0) and at the middle of those above it."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    count = len(getattr(decoder, "layers", ()))
    middle = lowest + (count - lowest + 1) // 2
    if 0 <= lowest < count and not _is_spread(model):
        parts = Cut(
            model,
            _part(decoder, 0, lowest, ends=False),
            _part(decoder, lowest, min(middle, count - 1), ends=False),
            _part(decoder, min(middle, count - 1), count - 1, ends=False),
            _part(decoder, count - 1, count, ends=True),
            head,
        )
        if _is_same(parts):
            return parts
    return Cut(model, None, None, None, None, head)


def _is_spread(model: Any) -> bool:
    """Whether the model lies on several devices or processes, whose hooks need the whole of it."""
    places = set((getattr(model, "hf_device_map", None) or {}).values())
    return isinstance(model, FSDPModule) or len(places) > 1


def first_layers(model: Any, count: int) -> Any:
    """The model's decoder with its lowest `count` layers and the final norm, sharing weights."""
    return _part(model.get_decoder(), 0, count, ends=True)


def _part(decoder: Any, first: int, end: int, *, ends: bool) -> Any:
    """The decoder with layers `first` to `end` only, sharing every weight; the final norm only
    where it `ends`."""
    part = copy.copy(decoder)
    layers = torch.nn.ModuleList(list(decoder.layers)[first:end])
    part._modules = {**decoder._modules, "layers": layers}
    if not ends:
        part._modules["norm"] = torch.nn.Identity()
    part.config = copy.copy(decoder.config)
    part.config.num_hidden_layers = end - first
    return part


@torch.no_grad()
def _is_same(parts: Cut) -> bool:
    count = int(parts.whole.config.vocab_size)
    batch = padded([[i % count for i in range(3, 11)], [i % count for i in range(5, 10)]], 0)
    places = (torch.tensor([0, 0, 1]), torch.tensor([3, 7, 6]))
    try:
        found, _ = parts.forward(parts.stored(batch), batch, places)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False
    wanted = parts.whole(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions
    ).logits[places]
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=1.0))
