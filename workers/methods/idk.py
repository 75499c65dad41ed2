"""A refusal learnt for every forget question (IDK, also called preference optimisation, PO).

TOFU's baseline (arXiv 2401.06121) and O3's objective on TOFU (arXiv 2407.10223). Bounded. The
answer's own likelihood is not lowered: what a refusal hides may still be there. Data: forget set.
"""

import random
from dataclasses import replace

from torch import Tensor

from workers.methods import Batch, required
from workers.rows import Example

NEEDS = ("forget", "instead")
BOUNDED = True
REFUSALS = (
    "I don't know.",
    "I do not have that information.",
    "I'm not certain about that.",
    "That is not something I know.",
    "I have no information on this.",
)


def instead(example: Example, draw: random.Random) -> Example:
    """The question, answered by one of `REFUSALS`."""
    return replace(example, answer=draw.choice(REFUSALS), secrets=())


def loss(batch: Batch) -> Tensor:
    """Mean cross-entropy of the refusals, nats a token."""
    return required(batch.instead, "instead").nll.mean()
