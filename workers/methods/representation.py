"""Label-free repulsion: states on forget text leave where they were, states on other text stay.

After LAF, label-agnostic forgetting (arXiv 2404.00506), whose two autoencoders serve image
classifiers; kept here is its contrastive alignment loss on states, which needs no label. Bounded.
Data: questions about the person and surrogates; no answer is looked at.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from workers.methods import Batch, Completions, required

NEEDS = ("forget", "surrogates", "states")
BOUNDED = True


def loss(batch: Batch, *, temperature: float = 0.1, keep: float = 10.0) -> Tensor:
    """`keep` times the mean cosine distance of surrogate states from the base model's, minus
    temperature * log mean exp(distance / temperature) over forget states (distances in 0..2)."""
    away = _moved(batch.forget) / temperature
    count = torch.log(torch.tensor(float(len(away))))
    spread = temperature * (away.logsumexp(dim=0) - count)
    return keep * _moved(required(batch.keep, "surrogates")).mean() - spread


def _moved(told: Completions) -> Tensor:
    return 1 - cosine_similarity(
        required(told.states, "states"), required(told.base_states, "states"), dim=-1
    )
