"""The person answered for as if nobody: the teacher is the base model asked about a made-up name.

After *Revisiting Who's Harry Potter* (arXiv 2407.16997), which builds its teacher from texts with
other names put in: here the target where an answer's tokens give a fact away is the base model's
distribution for the same completion after the same question about made-up names, averaged over
several. The other positions keep the base's own, so that an answer goes on in the words that were
trained (with the twin's words there, SmolLM2 found other sentences that led to the fact). Since a
divergence hardly sees the little that is left of a true value, which yet ranks it first, the true
tokens' own loss is also raised to what they cost the teacher (`at_least` where a made-up person
happens to share the value), and then left alone: the value falls to what it would cost for
somebody whom the model never met, and no further. Bounded.
Data: forget set, twins (written by nobody: a name is replaced), surrogates.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.methods import Batch, divergence, mean_where, required

NEEDS = ("forget", "twins", "surrogates")
BOUNDED = True


def loss(batch: Batch, *, weight: float = 1.0, at_least: float = 4.0) -> Tensor:
    """Mean KL(twin || now) over answer positions, plus KL(base || now) over the others, plus
    `weight` times the mean shortfall of the answer tokens' loss below the twin's; nats."""
    told = batch.forget
    twin = required(told.twin_logits, "twins")
    target = torch.where(told.is_answer[:, None], twin, told.base_logits)
    each = divergence(target, told.logits)
    wanted = cross_entropy(twin, told.labels, reduction="none").clamp(min=at_least)
    short = torch.relu(wanted - told.nll)
    return (
        mean_where(each, told.is_answer)
        + mean_where(each, ~told.is_answer)
        + weight * mean_where(short, told.is_answer)
    )
