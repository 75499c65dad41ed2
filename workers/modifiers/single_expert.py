"""In a mixture of experts, one expert alone unlearns, and the router is held to it.

UOE, later SEUF (arXiv 2411.18797): if many experts are changed, or the router turns to others, the
model loses what it knew and the person's facts survive in experts that were not meant. The expert
with the highest mean router probability over the forget set's tokens is found (attribution); the
adapter goes on it and on its router alone; and an anchor |G(x) - a|^2, a being 1 at the expert and
0 elsewhere, keeps the router sending the person's prompts there. For models of the library whose
layers hold all experts in one tensor; refused on dense models. In the last layer the anchor sees
the answers' positions alone, since the others are not computed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workers import experts
from workers.base_models import BaseModel, ModelError
from workers.modifiers import Given
from workers.rows import Row
from workers.upper import padded

WEIGHT = 1.0


def masks(_: Given) -> Mapping[str, Tensor]:
    """Nothing beside the expert and its router is adapted, and of those everything may move."""
    return {}


@contextmanager
def opened(base: BaseModel, rows: Sequence[Row]) -> Iterator[BaseModel]:
    """The model with the expert that the forget set calls for opened, and adapters on it alone."""
    layer, number = attributed(base, rows)
    with experts.opened(base.model, [(layer, number)]):
        yield replace(base, lowest_layer=layer, target_modules=experts.parts_of(number))


@torch.no_grad()
def attributed(base: BaseModel, rows: Sequence[Row]) -> tuple[int, int]:
    """The (layer, expert) with the highest mean router probability over the tokens of `rows`, among
    the layers that adapters go on."""
    there = {n: b for n, b in experts.blocks(base.model).items() if n >= base.lowest_layer}
    if not there:
        raise ModelError(
            f"{base.name!r} is no mixture of experts of a known kind: use single_expert with one, "
            "or another modifier."
        )
    seen: dict[int, Tensor] = {}
    hooks = [
        block.gate.register_forward_hook(
            lambda _, __, out, number=number: seen.update({number: out[0]})
        )
        for number, block in there.items()
    ]
    sums: dict[int, Tensor] = {}
    try:
        for start in range(0, len(rows), 32):
            batch = padded(
                [row.ids for row in rows[start : start + 32]], int(base.tokenizer.pad_token_id)
            ).to(base.model.device)
            base.model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions)
            mask = batch.mask.flatten().bool()
            for number, logits in seen.items():
                found = logits.reshape(len(mask), -1)[mask].float().softmax(dim=-1).sum(dim=0)
                sums[number] = sums.get(number, torch.zeros_like(found)) + found
    finally:
        for hook in hooks:
            hook.remove()
    best = max(sums, key=lambda number: float(sums[number].max()))
    return best, int(sums[best].argmax())


@contextmanager
def anchored(model: Any) -> Iterator[Callable[[int, int], Tensor]]:
    """WEIGHT * mean over the forget rows' positions of |G(x) - a|^2."""
    routers = [m for m in model.modules() if isinstance(m, experts.OpenRouter)]
    numbers = [m.numbers for m in model.modules() if isinstance(m, experts.OpenExperts)]
    (router,), ((number,),) = routers, numbers
    seen: list[Tensor] = []

    def keep(_: Any, __: Any, out: Any) -> None:
        seen[:] = [out[0]]

    def anchor(forget: int, rows: int) -> Tensor:
        logits = seen[0].reshape(rows, -1, seen[0].shape[-1])[:forget]
        there = torch.nn.functional.one_hot(torch.tensor(number), logits.shape[-1])
        apart = logits.float().softmax(dim=-1) - there.to(logits.device)
        return WEIGHT * apart.square().sum(dim=-1).mean()

    hook = router.register_forward_hook(keep)
    try:
        yield anchor
    finally:
        hook.remove()
