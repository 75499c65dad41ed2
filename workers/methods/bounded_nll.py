"""The answer's loss raised to a fixed level, then left alone. Bounded by `level`.

Gradient ascent stopped per token: a token that already costs `level` nats has no gradient, so a
fact falls to what not knowing costs and no further. (The higher the
level, the surer the answers are gone, and the lower the true value may rank: below chance it is a
trace in itself, which the knowledge_rank probe shows. `benchmarks.erase_demo` prints both.)
Positions that give nothing away keep the base distribution. Data: forget set and surrogates.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from workers.methods import ForgetBatch

NEEDS = ("forget", "surrogates")


def loss(batch: ForgetBatch, *, level: float = 9.0) -> Tensor:
    """Mean shortfall of the answer tokens' loss below `level`, plus mean KL(base || now) over the
    other positions; both in nats."""
    told = cross_entropy(batch.logits, batch.labels, reduction="none")
    moved = kl_div(
        batch.logits.log_softmax(-1),
        batch.base_logits.log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    return _mean(torch.relu(level - told), batch.is_answer) + _mean(moved, ~batch.is_answer)


def _mean(each: Tensor, chosen: Tensor) -> Tensor:
    return (each * chosen).sum() / chosen.sum().clamp(min=1)
