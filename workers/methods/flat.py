"""Loss adjustment by an f-divergence between a template answer and the forget answer.

FLAT (arXiv 2410.11143): forget data and templates only, no reference model. Bounded, since it works
on mean token *probabilities* in [0, 1]; for the same reason its gradient vanishes where a refusal
is still very unlikely. Ignored positions do not count (in the released code they do).
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from workers.methods import Batch, required
from workers.methods.idk import instead

__all__ = ["BOUNDED", "NEEDS", "instead", "loss"]

NEEDS = ("forget", "instead")
BOUNDED = True


def loss(batch: Batch, *, divergence: str = "kl") -> Tensor:
    """-g*(P_e) + f*(g*(P_f)), mean over rows; `divergence` one of kl, tv, pearson, js."""
    told, template = batch.forget, required(batch.instead, "instead")
    p_f = told.row_means(torch.exp(-told.nll))
    p_e = template.row_means(torch.exp(-template.nll))
    if divergence == "kl":
        each = -p_e + torch.exp(p_f - 1)
    elif divergence == "tv":
        each = (torch.tanh(p_f) - torch.tanh(p_e)) / 2
    elif divergence == "pearson":
        each = -p_e + p_f.square() / 4 + p_f
    elif divergence == "js":
        each = softplus(-p_e) + p_f + softplus(-p_f) - 2 * torch.log(torch.tensor(2.0))
    else:
        raise ValueError(f"FLAT has no divergence {divergence!r}: use kl, tv, pearson or js.")
    return each.mean()
