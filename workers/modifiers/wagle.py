"""Weight attribution decides what may move: the weights that matter to forgetting and not to the
rest.

WAGLE (arXiv 2410.17509): a weight's score is |(theta - g_r / h) g_f - mu (g_r / h) g_f|, with the
gradients g_f of the forget set's loss and g_r of the retained one's, and h the running mean of
g_r^2 in the place of the Hessian's diagonal; the highest `share` of them may move. Published for
full weights with retained data. Here the surrogates stand in for it, and what is trained is a LoRA
whose B starts at zero: the scores are those of the base model's own weights, summed for each output
feature, and a row of B may move if the feature that it writes to is chosen.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from workers.modifiers import Given, module_of


def masks(
    given: Given,
    *,
    share: float = 0.8,
    batches: int = 8,
    decay: float = 0.95,
    step: float = 1e-3,
    least: float = 1e-8,
) -> Mapping[str, Tensor]:
    """The rows of each B [out, r] that may move: the highest `share` of all modules' together."""
    names = [name for name in given.trained if ".lora_B." in name]
    weights = [given.model.get_submodule(module_of(name)).base_layer.weight for name in names]
    forget = [torch.zeros_like(weight) for weight in weights]
    keep = [torch.zeros_like(weight) for weight in weights]
    hessian = [torch.zeros_like(weight) for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for _ in range(batches):
            lost, kept = given.losses()
            for total, found in zip(
                forget, torch.autograd.grad(lost, weights, retain_graph=True), strict=True
            ):
                total += found / batches
            if kept is None:
                continue
            for i, found in enumerate(torch.autograd.grad(kept, weights)):
                keep[i] += found / batches
                hessian[i] = decay * hessian[i] + (1 - decay) * found.square()
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    scores = []
    for weight, f, r, h in zip(weights, forget, keep, hessian, strict=True):
        moved = r / h.clamp(min=least)
        scores.append((((weight.detach() - moved) - step * moved) * f).abs().sum(dim=1))
    every = torch.cat(scores)
    lowest = every.sort(descending=True).values[max(1, round(share * len(every))) - 1]
    return {
        name: (score >= lowest)[:, None].expand_as(given.trained[name])
        for name, score in zip(names, scores, strict=True)
    }
