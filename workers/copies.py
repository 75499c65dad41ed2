"""What an attacker may do to a copy of the weights: round them, or train them a little further.

Rounding brings back what a small change of the weights had covered (arXiv 2410.16454: from 21% of
the knowledge to 83% at 4 bits); training on related or even unrelated text does too (arXiv
2406.13356, 2410.08827). Both change the model that they are given.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.adapters import adapted_linears, layers_of
from workers.base_models import BaseModel
from workers.rows import Row, completion_labels, completion_logits

GROUP = 32
TAUGHT_WHOLE = 20_000_000
"""Models of up to so many parameters are trained whole, larger ones where adapters sit."""
STEPS = 20
BATCH = 16
LEARNING_RATE = 5e-4


@torch.no_grad()
def round_weights(model: Any, *, bits: int, group: int | None = None) -> None:
    """Every matrix of the decoder but the embeddings, rounded to the nearest of 2^bits - 1 values
    that lie evenly about 0: with one scale an output channel, or one for each `group` of its
    inputs. Simulated: the numbers are the rounded ones, in the dtype that they had."""
    for module in model.get_decoder().modules():
        if isinstance(module, torch.nn.Embedding):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.dim() >= 2:
                parameter.copy_(nearest(parameter, bits=bits, group=group))


def nearest(matrix: Tensor, *, bits: int, group: int | None) -> Tensor:
    """The rounded matrix [..., inputs]; the last group of a row may be shorter."""
    levels, inputs = 2 ** (bits - 1) - 1, matrix.shape[-1]
    size = group or inputs
    padded = torch.nn.functional.pad(matrix.float(), (0, -inputs % size))
    groups = padded.unflatten(-1, (-1, size))
    scale = groups.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / levels
    return ((groups / scale).round() * scale).flatten(-2)[..., :inputs].to(matrix.dtype)


def teach(base: BaseModel, model: Any, rows: Sequence[Row], *, seed: int) -> None:
    """`STEPS` steps of AdamW on the rows' completions, in batches drawn by `seed`; the same for
    every model that is compared. `base` names the parts of a large model that are trained.

    Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("there is nothing to teach")
    trained = _trained(base, model)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    draw, left = random.Random(seed), list[Row]()  # noqa: S311
    for _ in range(STEPS):
        if len(left) < min(BATCH, len(rows)):
            left = draw.sample(list(rows), len(rows))
        batch, left = left[:BATCH], left[BATCH:]
        logits = completion_logits(model, batch, int(base.tokenizer.pad_token_id))
        labels = completion_labels(batch).to(logits.device)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
    for parameter in trained:
        parameter.requires_grad_(False)
        parameter.grad = None


def _trained(base: BaseModel, model: Any) -> list[Tensor]:
    parameters: list[Tensor] = list(model.parameters())
    if sum(each.numel() for each in parameters) <= TAUGHT_WHOLE:
        return parameters
    linears = adapted_linears(model, modules=base.target_modules, layers=layers_of(base))
    return [linear.weight for linear in linears.values()]
