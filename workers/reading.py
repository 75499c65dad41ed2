"""Reading prompts in batches: no more of a prompt than nobody has read before.

A chat template opens every prompt with the same tokens, in which nothing of a question stands. They
are read once, when a release is loaded. The layers below the lowest adapted one compute the same
under every decision, so their keys and values of the opening serve all rows; from there upwards a
row on which adapters act reads the opening again under its own, from the state kept of it. Beyond
it a caller's rows begin where its own last ones left off (`workers.remembered`), and no caller can
find out by time what another one asked.

Rows of like length are read together, lest a long prompt pad many short ones.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from workers.answers import Started, begin, some_of, together
from workers.bank import AdapterBank, Strengths
from workers.base_models import BaseModel
from workers.digests import canonical_json
from workers.remembered import Layers, Remembered

LEAST = 8
"""Tokens of an opening from which on it is worth keeping."""
PADDING = 32
"""Tokens by which a row may be padded; about what one more pass over the weights costs."""
DIFFERENCE = 1e-3
"""By which logits read in parts may differ from those read at once; rounding is below 1e-4."""
LAST = torch.tensor([-1])
"""As `logits_to_keep`: beside the number 1 it leaves the states in one piece, which is faster."""


def as_they_are(logits: Tensor) -> Tensor:
    """For a start that is gone on with by hand: nothing is picked yet."""
    return logits


@dataclass(frozen=True)
class _Opening:
    """The template's first tokens as they were read: the keys and values [1, heads, P, d] of each
    layer, and the states [1, P, d] below the lowest adapted one. `lower` is the model up to there,
    `upper` the bank's from there."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]
    states: Tensor
    lower: Any
    upper: Any
    lowest: int

    def past(self, rows: int, *, layers: int | None = None) -> DynamicCache:
        """Keys and values of the first layers, or all, for so many rows."""
        return DynamicCache(
            [
                (keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
                for keys, values in self.layers[:layers]
            ]
        )


class Reader:
    """Reads prompts for one release."""

    def __init__(
        self, base: BaseModel, bank: AdapterBank, remembered: Remembered | None = None
    ) -> None:
        self.base, self.bank = base, bank
        self.remembered = remembered or Remembered(most_bytes=0)
        self._opening: _Opening | None = None
        found = _opening(base, bank)
        if found is not None and self._is_sound(found):
            self._opening = found

    def read(
        self,
        ids: Sequence[Sequence[int]],
        strengths: Sequence[Strengths],
        callers: Sequence[str] = (),
    ) -> Started:
        """Rows of tokens, each under its adapters and of its caller; `first` are the logits
        [n, vocabulary]."""
        kept = self._kept(ids, strengths, callers)
        new = [i for i in range(len(ids)) if i not in kept]
        parts, order = list[Started](), list(kept)
        for i, (size, layers) in kept.items():
            model = self.bank.model if self.bank.act([strengths[i]]) else self.base.model
            parts.append(_read_on(model, [ids[i]], DynamicCache(layers), size))
        for places in self._groups([ids[i] for i in new], [strengths[i] for i in new]):
            group = [new[place] for place in places]
            parts.append(self._read([ids[i] for i in group], [strengths[i] for i in group]))
            order += group
        whole = together(parts)
        if order == sorted(order):
            return whole
        return some_of(whole, [order.index(i) for i in range(len(order))])

    def _kept(
        self,
        ids: Sequence[Sequence[int]],
        strengths: Sequence[Strengths],
        callers: Sequence[str],
    ) -> dict[int, tuple[int, Layers]]:
        """By number, the rows whose beginning is kept of their caller, where that spares more than
        reading the row alone costs."""
        found = {}
        for i, caller in enumerate(callers):
            kept = self.remembered.longest(caller, self._under(strengths[i]), ids[i])
            if kept is not None and kept[0] >= self._worth(ids[i]):
                found[i] = kept
        return found

    def keep(
        self, caller: str, strengths: Strengths, ids: Sequence[int], started: Started, place: int
    ) -> None:
        """Keep of a row what was read under these strengths: of `ids`, in `place` of `started`."""
        columns = started.mask[place].nonzero()[:, 0]
        ids = ids[: len(columns)]
        if not caller or not self.remembered.most_bytes or len(ids) < self._worth(ids):
            return
        layers = [
            (
                layer.keys[place : place + 1, :, columns.to(layer.keys.device)],
                layer.values[place : place + 1, :, columns.to(layer.keys.device)],
            )
            for layer in started.past.layers
        ]
        self.remembered.keep(caller, self._under(strengths), ids, layers)

    def _worth(self, row: Sequence[int]) -> int:
        """From how many tokens on a row's beginning is worth keeping."""
        opens = self._opening is not None and self._opens(row)
        return PADDING + (len(self._opening.ids) if opens and self._opening else 0)

    def _under(self, strengths: Strengths) -> bytes:
        """A digest of what computes a row: the weights, and each adapter with its strength."""
        acting = {name: repr(strength) for name, strength in strengths.items()}
        told = {"base": self.base.sha256, "acting": acting}
        return hashlib.sha256(canonical_json(told)).digest()

    def _groups(
        self, ids: Sequence[Sequence[int]], strengths: Sequence[Strengths]
    ) -> list[list[int]]:
        """The rows that are read in one pass, by number."""
        kinds = [(self._opens(row), bool(own)) for row, own in zip(ids, strengths, strict=True)]
        if self._opening is None or not any(opens for opens, _ in kinds):
            kinds = [(False, True)] * len(ids)
        groups = list[list[int]]()
        for kind in sorted(set(kinds)):
            rows = [i for i in range(len(ids)) if kinds[i] == kind]
            rows.sort(key=lambda i: len(ids[i]), reverse=True)
            longest = -1
            for i in rows:
                if longest < 0 or longest - len(ids[i]) > PADDING:
                    groups.append([])
                    longest = len(ids[i])
                groups[-1].append(i)
        return [sorted(group) for group in groups]

    def _opens(self, row: Sequence[int]) -> bool:
        own = self._opening.ids if self._opening else []
        return bool(own) and len(row) > len(own) and list(row[: len(own)]) == own

    def _read(self, ids: Sequence[Sequence[int]], strengths: Sequence[Strengths]) -> Started:
        acting = self.bank.act(strengths)
        if self._opening is None or not all(map(self._opens, ids)):
            return begin(self.bank.model if acting else self.base.model, ids, pick=as_they_are)
        return _after(self._opening, self.base.model, ids, acting=acting)

    def _is_sound(self, opening: _Opening) -> bool:
        """Whether this model can be read in parts: some scale what enters their first layer."""
        probe = [[*opening.ids, *opening.ids], [*opening.ids, *opening.ids[:LEAST]]]
        for name in [None, *sorted(self.bank.ranks)[:1]]:
            acting = self.bank.act([{name: 1.0} if name else {}] * len(probe))
            model = self.bank.model if acting else self.base.model
            expected = begin(model, probe, pick=as_they_are).first
            found = _after(opening, self.base.model, probe, acting=acting).first
            if not (found - expected).abs().max() < DIFFERENCE:
                return False
        return True


@torch.no_grad()
def _after(opening: _Opening, model: Any, ids: Sequence[Sequence[int]], *, acting: bool) -> Started:
    """Read on after the opening; rows on which adapters act read it again from there upwards."""
    size = len(opening.ids)
    if not acting:
        return _read_on(model, ids, opening.past(len(ids)), size)
    given, mask, positions = _rest(ids, size, opening.states.device)
    low = opening.past(len(ids), layers=opening.lowest)
    states = opening.lower(**given, past_key_values=low).last_hidden_state
    out = opening.upper(
        inputs_embeds=torch.cat([opening.states.expand(len(ids), -1, -1), states], dim=1),
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        past_key_values=DynamicCache(),
        logits_to_keep=LAST,
    )
    out.past_key_values.layers[: len(low.layers)] = low.layers
    return _started(out, mask, positions)


@torch.no_grad()
def _read_on(model: Any, ids: Sequence[Sequence[int]], past: DynamicCache, size: int) -> Started:
    """Read on after the first `size` tokens, whose keys and values are `past`."""
    given, mask, positions = _rest(ids, size, next(model.parameters()).device)
    return _started(model(**given, past_key_values=past, logits_to_keep=LAST), mask, positions)


def _rest(
    ids: Sequence[Sequence[int]], size: int, device: torch.device
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The rows without their first `size` tokens, for the model, with mask and positions of all;
    between those and a row that is shorter than others lies padding."""
    rests = [row[size:] for row in ids]
    width = max(map(len, rests))
    tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in rests], device=device)
    mask = torch.tensor(
        [[1] * size + [0] * (width - len(row)) + [1] * len(row) for row in rests], device=device
    )
    positions = mask.cumsum(dim=1) - 1
    given = {
        "input_ids": tokens,
        "attention_mask": mask,
        "position_ids": positions[:, size:],
        "use_cache": True,
    }
    return given, mask, positions


def _started(out: Any, mask: Tensor, positions: Tensor) -> Started:
    return Started(
        pick=as_they_are,
        first=out.logits[:, -1],
        past=out.past_key_values,
        mask=mask,
        positions=positions[:, -1:],
        states=mask.new_zeros(len(mask), 0),
    )


@torch.no_grad()
def _opening(base: BaseModel, bank: AdapterBank) -> _Opening | None:
    """The opening of this model's prompts; None where it is short, or the model is not one of plain
    decoder layers in a row under the names that most have, which nothing else wraps."""
    inner = base.model.base_model
    layers: Any = getattr(inner, "layers", None)
    ids = _shared(base) if base.tokenizer.chat_template else []
    if len(ids) < LEAST or not bank.lowest or "forward" in vars(inner):
        return None
    if not isinstance(layers, torch.nn.ModuleList) or not hasattr(inner, "norm"):
        return None
    lower = _with(inner, layers=layers[: bank.lowest], norm=torch.nn.Identity())
    own = bank.model.base_model
    upper = _with(
        bank.model, **{bank.model.base_model_prefix: _with(own, layers=own.layers[bank.lowest :])}
    )
    tokens = torch.tensor([ids], device=next(inner.parameters()).device)
    past: Any = inner(input_ids=tokens, use_cache=True).past_key_values
    return _Opening(
        ids=ids,
        layers=[(layer.keys, layer.values) for layer in past.layers],
        states=lower(input_ids=tokens).last_hidden_state,
        lower=lower,
        upper=upper,
        lowest=bank.lowest,
    )


def _shared(base: BaseModel) -> list[int]:
    """The tokens with which every prompt of a single question, or a user's first turn, begins."""
    prompts = [base.prompt(text) for text in ("a", "Zo?", "7", "“é”")]
    rows = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    same = [len(set(column)) == 1 for column in zip(*rows, strict=False)]
    return list(rows[0][: same.index(False)]) if False in same else []


def _with(module: Any, **parts: torch.nn.Module) -> Any:
    """The module with other parts; all else is shared with it."""
    found = copy.copy(module)
    found._modules = {**module._modules, **parts}
    return found
