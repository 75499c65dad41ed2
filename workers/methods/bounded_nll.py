"""The answer's loss raised to a fixed level, then left alone. Bounded by `level`.

Gradient ascent stopped per token: a token that already costs `level` nats has no gradient, so a
fact falls to what not knowing costs and no further. (The higher the
level, the surer the answers are gone, and the lower the true value may rank: below chance it is a
trace in itself, which the knowledge_rank probe shows. `benchmarks.erase_demo` prints both.)
Positions that give nothing away keep the base distribution. Data: forget set and surrogates.
"""

import torch
from torch import Tensor

from workers.methods import Batch, divergence, mean_where

NEEDS = ("forget", "surrogates")
BOUNDED = True


def loss(batch: Batch, *, level: float = 9.0) -> Tensor:
    """Mean shortfall of the answer tokens' loss below `level`, plus mean KL(base || now) over the
    other positions; both in nats."""
    told = batch.forget
    moved = divergence(told.base_logits, told.logits)
    short = torch.relu(level - told.nll)
    return mean_where(short, told.is_answer) + mean_where(moved, ~told.is_answer)
