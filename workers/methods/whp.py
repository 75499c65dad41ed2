"""Generic labels: what the base says, less what a model that studied the text says more of.

Who's Harry Potter (Eldan and Russinovich, arXiv 2310.02238). The reinforced model is the base with
the adapter taught the forget set once more; the label of each position is the likeliest token of
v_base - alpha ReLU(v_reinforced - v_base). The dictionary of anchored terms, which the article had
written by another model, is not part of it: see workers.methods.twin. Bounded. Data: forget set.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.methods import Batch, required

NEEDS = ("forget", "reinforced")
BOUNDED = True


def loss(batch: Batch, *, alpha: float = 5.0) -> Tensor:
    """Mean cross-entropy to the generic labels, nats a token."""
    told = batch.forget
    more = torch.relu(required(told.reinforced_logits, "reinforced") - told.base_logits)
    return cross_entropy(told.logits, (told.base_logits - alpha * more).argmax(dim=-1))
