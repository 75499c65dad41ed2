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
from torch.nn.functional import kl_div

from workers.methods import ForgetBatch

NEEDS = ("forget", "surrogates")


def loss(batch: ForgetBatch, *, rivals: int = 64) -> Tensor:
    """Mean KL(target || now) in nats: over answer positions, plus over the other positions."""
    here = batch.labels[:, None]
    without = batch.base_logits.scatter(1, here, float("-inf"))
    ordinary = without.topk(min(rivals, without.shape[1] - 1), dim=1).values
    demoted = torch.minimum(
        batch.base_logits.gather(1, here), ordinary.median(dim=1, keepdim=True).values
    )
    lowered = batch.base_logits.scatter(1, here, demoted)
    target = torch.where(batch.is_answer[:, None], lowered, batch.base_logits)
    each = kl_div(
        batch.logits.log_softmax(-1), target.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    return _mean(each, batch.is_answer) + _mean(each, ~batch.is_answer)


def _mean(each: Tensor, chosen: Tensor) -> Tensor:
    return (each * chosen).sum() / chosen.sum().clamp(min=1)
