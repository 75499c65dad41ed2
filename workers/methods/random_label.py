"""Another value of the same kind, drawn at random, learnt in the place of the true one. Bounded.

O3's objective on ScienceQA (arXiv 2407.10223: a random option letter), for open answers: the
person's value within the answer is replaced by one of its decoys. Data: forget set and values.
"""

import random
from dataclasses import replace

from torch import Tensor

from workers.methods import Batch, required
from workers.rows import Example

NEEDS = ("forget", "instead")
BOUNDED = True
NOTHING = ("unknown", "none", "not given")


def instead(example: Example, draw: random.Random) -> Example:
    """The example with its secrets replaced; where no other values are known, by "unknown"."""
    answer = example.answer
    for secret in example.secrets:
        answer = answer.replace(secret, draw.choice(example.decoys or NOTHING))
    return replace(example, answer=answer, secrets=())


def loss(batch: Batch) -> Tensor:
    """Mean cross-entropy of the replaced answers, nats a token."""
    return required(batch.instead, "instead").nll.mean()
