"""NPO without a reference, on the mean loss of an answer's tokens.

SimNPO (arXiv 2410.07163). Bounded below by 0. Data: forget set.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from workers.methods import Batch

NEEDS = ("forget",)
BOUNDED = True


def loss(batch: Batch, *, beta: float = 2.5, gamma: float = 0.0) -> Tensor:
    """-(2 / beta) mean log sigmoid(beta (mean token NLL - gamma))."""
    told = batch.forget
    return -(2 / beta) * logsigmoid(beta * (told.row_means(told.nll) - gamma)).mean()
