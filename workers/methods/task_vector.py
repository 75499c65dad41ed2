"""Negated task vector: the adapter learns the forget set still better, then its sign is turned.

Ilharco et al. (arXiv 2212.04089). There is no early stop, since nothing is unlearnt before the end.
The training loss is bounded below by 0, its effect after the turn is not. Data: forget set.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from workers.methods import Batch

NEEDS = ("forget",)
BOUNDED = False


def loss(batch: Batch) -> Tensor:
    """Mean cross-entropy of the completions, nats a token."""
    return batch.forget.nll.mean()


@torch.no_grad()
def finish(weights: Mapping[str, Tensor], *, strength: float = 1.0) -> None:
    """Turn the trained B matrices round, in place."""
    for matrix in weights.values():
        matrix.mul_(-strength)
