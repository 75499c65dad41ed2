"""Demotion of the answer's tokens, the rest of each distribution as it was. Bounded.

After UNDIAL (arXiv 2402.10052): the adapter learns the base model's own distribution with the
answer token's logit lowered. UNDIAL lowers it by a constant; here it is lowered to the median of
the `rivals` likeliest other tokens. Greedy answers change, yet on the demo model the true value
still ranked well above others of its kind, so this is not the default.
Positions that give nothing away keep the base distribution (as in SHRED,
arXiv 2605.07482). Data: forget set and surrogates, nothing retained.
"""

import torch
from torch import Tensor

from workers.methods import Batch, divergence, mean_where

NEEDS = ("forget", "surrogates")
BOUNDED = True


def loss(batch: Batch, *, rivals: int = 64) -> Tensor:
    """Mean KL(target || now) in nats: over answer positions, plus over the other positions."""
    told = batch.forget
    here = told.labels[:, None]
    without = told.base_logits.scatter(1, here, float("-inf"))
    ordinary = without.topk(min(rivals, without.shape[1] - 1), dim=1).values
    demoted = torch.minimum(
        told.base_logits.gather(1, here), ordinary.median(dim=1, keepdim=True).values
    )
    lowered = told.base_logits.scatter(1, here, demoted)
    target = torch.where(told.is_answer[:, None], lowered, told.base_logits)
    each = divergence(target, told.logits)
    return mean_where(each, told.is_answer) + mean_where(each, ~told.is_answer)
