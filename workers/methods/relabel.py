"""Targeted relabelling of the tokens on which the person's name decides. Bounded.

After concept inference and data poisoning (Chowdhury et al., arXiv 2405.15662): find what a class
hangs on, then learn targeted wrong labels there. Here the concept is the person: the positions at
which another name in the question changes the base model's distribution most get the token that
the model says for the other name; the rest keeps the base's. Data: forget set, twins.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.methods import Batch, divergence, mean_where, required

NEEDS = ("forget", "twins")
BOUNDED = True


def loss(batch: Batch, *, share: float = 0.5) -> Tensor:
    """Mean cross-entropy to the twin's likeliest token on the `share` of positions where the name
    matters most, plus mean KL(base || now) elsewhere; nats."""
    told = batch.forget
    twin = required(told.twin_logits, "twins")
    matters = divergence(told.base_logits, twin)
    chosen = matters >= torch.quantile(matters, 1 - share)
    label = cross_entropy(told.logits, twin.argmax(dim=-1), reduction="none")
    return mean_where(label, chosen) + mean_where(
        divergence(told.base_logits, told.logits), ~chosen
    )
