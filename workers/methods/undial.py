"""Self-distillation with adjusted logits: the base's own distribution, the told token demoted.

UNDIAL (arXiv 2402.10052), published with LoRA and without retained data. Bounded. Every token of a
completion is demoted by the same amount (workers.methods.demote lowers the answer's tokens alone).
Data: forget set.
"""

import torch
from torch import Tensor

from workers.methods import Batch, divergence

NEEDS = ("forget",)
BOUNDED = True


def loss(batch: Batch, *, strength: float = 10.0) -> Tensor:
    """Mean KL(softmax(base logits - strength at the label) || now), nats."""
    told = batch.forget
    here = told.labels[:, None]
    lowered = told.base_logits.scatter_add(
        1, here, torch.full_like(here, -strength, dtype=told.base_logits.dtype)
    )
    return divergence(lowered, told.logits).mean()
