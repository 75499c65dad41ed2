"""Ascent on the forget set, descent on other people's data (GradDiff). Unbounded.

Liu et al. (arXiv 2203.12817), TOFU's baseline. Data: forget set and *retained* data.
"""

from torch import Tensor

from workers.methods import Batch, required

NEEDS = ("forget", "retained")
BOUNDED = False


def loss(batch: Batch, *, gamma: float = 1.0, alpha: float = 1.0) -> Tensor:
    """-gamma mean NLL of the forget rows + alpha mean NLL of the retained rows."""
    return alpha * required(batch.retained, "retained").nll.mean() - gamma * batch.forget.nll.mean()
