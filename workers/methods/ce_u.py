"""Cross-entropy to the model's own distribution without the true token (CE-U).

Yang et al. (arXiv 2503.01224). The first token of an answer is left out, as published, unless it
is the only one. Bounded. Data: forget set.
"""

import torch
from torch import Tensor

from workers.methods import Batch, mean_where

NEEDS = ("forget",)
BOUNDED = True


def loss(batch: Batch, *, skip_first: bool = True) -> Tensor:
    """Mean cross-entropy to softmax(logits with the label's set to minus infinity), detached."""
    told = batch.forget
    target = told.logits.detach().scatter(1, told.labels[:, None], float("-inf")).softmax(-1)
    each = -(target * told.logits.log_softmax(-1)).sum(-1)
    first = torch.ones_like(told.row, dtype=torch.bool)
    first[1:] = told.row[1:] != told.row[:-1]
    alone = told.by_row(torch.ones_like(each))[told.row] == 1
    return mean_where(each, ~first | alone if skip_first else torch.ones_like(first))
