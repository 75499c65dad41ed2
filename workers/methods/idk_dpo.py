"""Direct preference optimisation of a refusal over the true answer (IdkDPO).

DPO (arXiv 2305.18290) with the refusal preferred, as in open-unlearning (arXiv 2506.12618). Bounded
below by 0. Data: forget set; the reference is the model with the adapter off.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from workers.methods import Batch, required
from workers.methods.idk import instead

__all__ = ["BOUNDED", "NEEDS", "instead", "loss"]

NEEDS = ("forget", "instead")
BOUNDED = True


def loss(batch: Batch, *, beta: float = 0.1) -> Tensor:
    """-(2 / beta) mean log sigmoid(beta (log-ratio of the refusal - log-ratio of the answer))."""
    told, refused = batch.forget, required(batch.instead, "instead")
    lost = told.by_row(told.base_nll - told.nll)
    won = refused.by_row(refused.base_nll - refused.nll)
    return -(2 / beta) * logsigmoid(beta * (won - lost)).mean()
