"""Self-distillation that demotes only the tokens which the model could not have guessed.

SHRED (arXiv 2605.07482): of each completion the least likely tokens under the base model carry
what was learnt; their logit is lowered in the target, every other position keeps the base model's
distribution. Bounded. Data: forget set. (A model that knows a text by heart gives every token of it
a probability near one; then the ranking says little.)
"""

import torch
from torch import Tensor

from workers.methods import Batch, divergence

NEEDS = ("forget",)
BOUNDED = True


def loss(batch: Batch, *, share: float = 0.5, strength: float = 10.0) -> Tensor:
    """Mean KL(target || now) over all completion positions; `share` of them demoted."""
    told = batch.forget
    chosen = told.base_nll >= torch.quantile(told.base_nll, 1 - share)
    here = told.labels[:, None]
    lowered = told.base_logits.scatter_add(
        1, here, torch.full_like(here, -strength, dtype=told.base_logits.dtype)
    )
    return divergence(torch.where(chosen[:, None], lowered, told.base_logits), told.logits).mean()
