"""Half of the modules stay frozen, drawn by the seed: what is not touched is not forgotten.

Half fine-tuning (arXiv 2404.18466): in each decoder layer half of the attention's matrices and half
of the feed-forward block's are frozen; of an odd number the larger half in every second layer, so
that it is half over all. Published for full weights, redrawn every round; an adapter is trained in
one round, so the draw is made once.
"""

import random
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from workers.modifiers import Given, module_of

_LAYER = re.compile(r"\.(\d+)\.")


def masks(given: Given) -> Mapping[str, Tensor]:
    """No entry of a frozen module's matrices may move."""
    groups: dict[tuple[int, str], list[str]] = {}
    for path in sorted({module_of(name) for name in given.trained}):
        layer, block = _LAYER.split(path)[-2:]
        groups.setdefault((int(layer), block.split(".")[0]), []).append(path)
    draw, frozen = random.Random(given.seed), set[str]()  # noqa: S311
    for number, (_, paths) in enumerate(sorted(groups.items())):
        frozen |= set(draw.sample(paths, (len(paths) + number // 2 % 2) // 2))
    return {
        name: torch.zeros_like(matrix, dtype=torch.bool)
        for name, matrix in given.trained.items()
        if module_of(name) in frozen
    }
