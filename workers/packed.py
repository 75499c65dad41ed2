"""A model's large linear layers with their weights laid out as oneDNN's products read them.

On a processor, one more token for a few rows takes as long as the weights take to be read, and
PyTorch lays each weight out anew for each product. Here that is done once. Only the order of the
sums differs, which is rounding. The model that was loaded stays as it is; whoever lets go of it
holds each packed weight once, and a head tied to the embedding beside that.
"""

from dataclasses import replace

import torch
from torch import Tensor

from workers.base_models import BaseModel, ModelError
from workers.guarded import same_weights

ROWS = 8
"""Rows that the layout is chosen for; other numbers are computed as exactly."""
LEAST = 2**16
"""Entries of a weight from which on it is packed; for small ones calling oneDNN costs more than it
saves."""


class PackedLinear(torch.nn.Linear):
    """A linear layer whose weight [out, in] is opaque to all but its own product."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.bias = plain.bias
        packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach(), ROWS)
        self.register_buffer("weight", packed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return found


def packed(base: BaseModel) -> BaseModel:
    """The same weights, for serving alone: nothing can be trained or saved from them. Layers that
    are small, in another dtype than float32 or on another device stay as they are. Raises
    ModelError where there is no memory for them."""
    if not torch.backends.mkldnn.is_available():
        return base
    model = same_weights(base.model)
    try:
        for path, layer in list(model.named_modules()):
            if type(layer) is torch.nn.Linear and _pays(layer.weight):
                parent, _, last = path.rpartition(".")
                setattr(model.get_submodule(parent), last, PackedLinear(layer))
    except (RuntimeError, MemoryError) as error:
        raise ModelError(
            f"The weights of {base.name} cannot be laid out for serving "
            f"({type(error).__name__}): give the gateway more memory."
        ) from error
    return replace(base, model=model)


def _pays(weight: Tensor) -> bool:
    on_processor = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_processor and weight.numel() >= LEAST
