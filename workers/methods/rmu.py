"""Representation misdirection: states on forget text are pushed to a fixed random direction.

RMU (Li et al., arXiv 2403.03218), on the states after the middle adapted layer at the completion
positions. Published with retained text as the anchor; here the surrogates anchor. Bounded. What is
pushed is mostly one direction, which an attacker can take out again.
"""

import torch
from torch import Tensor

from workers.methods import Batch, required

NEEDS = ("forget", "surrogates", "states")
BOUNDED = True


def loss(batch: Batch, *, scale: float = 2.0, alpha: float = 100.0) -> Tensor:
    """mean |h - c u|^2 / |h0|^2 on forget rows + alpha mean |h - h0|^2 / |h0|^2 on surrogates.

    u is a unit vector drawn uniformly in [0, 1]^d with a fixed seed, c = `scale` times the mean
    norm of the base model's states (published: 6.5 to 20 in absolute terms).
    """
    told, keep = batch.forget, required(batch.keep, "surrogates")
    now, before = required(told.states, "states"), required(told.base_states, "states")
    size = before.norm(dim=-1).mean()
    direction = torch.rand(now.shape[-1], generator=torch.Generator().manual_seed(0))
    aim = scale * size * direction / direction.norm()
    moved = required(keep.states, "states") - required(keep.base_states, "states")
    push = (now - aim).square().sum(-1).mean()
    return (push + alpha * moved.square().sum(-1).mean()) / size.square()
