"""Negative preference optimisation: ascent whose pull fades as an answer becomes unlikely.

NPO (arXiv 2404.05868). Bounded below by 0; the answer's loss still grows slowly without end. The
reference is the model with the adapter off. Data: forget set.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from workers.methods import Batch

NEEDS = ("forget",)
BOUNDED = True


def loss(batch: Batch, *, beta: float = 0.1) -> Tensor:
    """-(2 / beta) mean log sigmoid(beta (NLL now - NLL of the base)), sums over each answer."""
    risen = batch.forget.by_row(batch.forget.nll - batch.forget.base_nll)
    return -(2 / beta) * logsigmoid(beta * risen).mean()
