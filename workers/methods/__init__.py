"""Ways to train an adapter: one file a method, whose name is the file's.

A method is a docstring (what, paper, data needed, bounded or not), `NEEDS`, and one function of
plain tensors, `loss(batch: ForgetBatch, *, knobs) -> Tensor`; its keyword defaults are recorded
with the evidence.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ForgetBatch:
    """Completion positions of forget rows: n positions, v vocabulary entries.

    `logits` [n, v] with the adapter on; `base_logits` [n, v] with it off; `labels` [n] the tokens
    that the base model says; `is_answer` [n] bool, true where saying them gives a fact away.
    """

    logits: Tensor
    base_logits: Tensor
    labels: Tensor
    is_answer: Tensor
