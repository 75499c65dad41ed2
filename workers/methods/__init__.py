"""Ways to unlearn: one file a method, whose name is the file's.

A method's docstring says what it does, after which paper, what data it needs and whether its loss
is bounded. Its `NEEDS` names that data (see `DATA`), `BOUNDED` says whether the loss has a lower
bound. Then one of:

- `loss(batch, *, knobs) -> Tensor`: what an adapter is trained on. The keyword defaults are
  recorded with the evidence. Optional beside it: `instead(example, draw) -> Example`, the row that
  is learnt in the place of each forget row; `finish(weights, *, knobs)`, what is done to the
  trained B matrices at the end.
- `acting(base, given, *, knobs) -> ContextManager[None]`: acts while text is generated, without
  an adapter.
- `sequence(base, *, seed, settings)`: a context manager that gives what erases requests one after
  the other and answers questions, in a way that an adapter a request cannot express.
- `retrain(base, names, *, report)`: the model made anew without the people of these names.
"""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

DATA = {
    "forget": "questions about the person, and what the model says to them",
    "surrogates": "questions about made-up people, answered by the model itself",
    "twins": "the forget questions with a made-up name in the place of the person's",
    "instead": "another answer for each forget question: a refusal, another value",
    "retained": "other people's own training data, which the controller must still hold",
    "states": "hidden states of the middle adapted layer",
    "shards": "the training set that the model was made of, registered with its recipe",
    "reinforced": "logits of the model after it was taught the forget set once more",
}


@dataclass(frozen=True)
class Completions:
    """The completion positions of some rows: n positions, v vocabulary entries, d features.

    `logits` [n, v] with the adapter on, `base_logits` [n, v] with it off; `labels` [n] the tokens
    of the completions; `is_answer` [n] bool, true where saying the token gives a fact away; `row`
    [n] the number of the row within the batch. `states`, `base_states` [n, d]: after the middle
    adapted layer; `twin_logits` [n, v]: the base model's for the same completion after the same
    question about a made-up name; `reinforced_logits` [n, v]. These are None unless the method
    needs them.
    """

    logits: Tensor
    base_logits: Tensor
    labels: Tensor
    is_answer: Tensor
    row: Tensor
    states: Tensor | None = None
    base_states: Tensor | None = None
    twin_logits: Tensor | None = None
    reinforced_logits: Tensor | None = None

    @property
    def nll(self) -> Tensor:
        """-log p of each token [n] in nats."""
        return cross_entropy(self.logits, self.labels, reduction="none")

    @property
    def base_nll(self) -> Tensor:
        """The same with the adapter off."""
        return cross_entropy(self.base_logits, self.labels, reduction="none")

    def by_row(self, values: Tensor) -> Tensor:
        """`values` [n] summed by row [rows]."""
        rows = int(self.row.max()) + 1
        return values.new_zeros(rows).index_add(0, self.row, values)

    def row_means(self, values: Tensor) -> Tensor:
        """`values` [n] averaged by row [rows]."""
        return self.by_row(values) / self.by_row(torch.ones_like(values))


@dataclass(frozen=True)
class Batch:
    """One step: forget rows; `instead` their replacements, row by row; `keep` surrogates;
    `retained` other people's rows. What the method does not need is None."""

    forget: Completions
    instead: Completions | None = None
    keep: Completions | None = None
    retained: Completions | None = None


def divergence(target_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(target || now) [n] of each position in nats; both [n, v]."""
    return kl_div(
        logits.log_softmax(-1), target_logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)


def mean_where(each: Tensor, chosen: Tensor) -> Tensor:
    """Mean of `each` [n] where `chosen` [n] is true; 0 if it nowhere is."""
    return (each * chosen).sum() / chosen.sum().clamp(min=1)


T = TypeVar("T")


def required(given: T | None, what: str) -> T:
    """`given`, or ValueError saying which of `DATA` the method was not given."""
    if given is None:
        raise ValueError(f"The method needs {what}: {DATA[what]}.")
    return given
