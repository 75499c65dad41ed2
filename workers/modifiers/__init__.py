"""What narrows a method: which weights may move while it is unlearnt. One file a modifier.

A modifier's docstring says what it does, after which paper, and where it differs. It has

- `masks(given, *, knobs) -> Mapping[str, Tensor]`: for some trained matrices, by name, which of
  their entries may move (bool, of the same shape). The others stay as they are, to the bit; a
  matrix that is not named is free.

and, where it needs them,

- `opened(base, rows)`: a context manager that gives the base model as the adapter needs it, before
  one is attached; `rows` are the forget set's. Raises ModelError for a model that it does not suit.
- `anchored(model)`: a context manager that gives a function (forget rows, all rows) -> loss, which
  is asked after every pass and added to the method's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor


@dataclass(frozen=True)
class Given:
    """What a modifier may look at: the model with its fresh adapter, the matrices that would be
    trained, and `losses`, which gives the mean nats a token of the next forget rows and of the
    next surrogates (None if there are none), with their graph."""

    model: PeftModel
    trained: Mapping[str, torch.nn.Parameter]
    losses: Callable[[], tuple[Tensor, Tensor | None]]
    seed: int


def module_of(name: str) -> str:
    """The path of the module that the LoRA matrix `name` belongs to."""
    return name.split(".lora_")[0]
