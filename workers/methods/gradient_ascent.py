"""Gradient ascent on the answer's loss. Unbounded: it goes on after the answer is gone.

The oldest baseline (Jang et al., arXiv 2210.01504). Data: forget set.
"""

from torch import Tensor

from workers.methods import Batch

NEEDS = ("forget",)
BOUNDED = False


def loss(batch: Batch) -> Tensor:
    """Minus the mean cross-entropy of the completions, nats a token."""
    return -batch.forget.nll.mean()
