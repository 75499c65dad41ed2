"""Run by test_sharded.py in two processes: train on a model that is split between them.

Arguments: the model's folder and the file that the first process writes its result to.
"""

import json
import sys
from pathlib import Path

import torch

from workers.adapters import adapter_weights, attach_adapter, detach_adapter
from workers.answers import greedy_answers
from workers.base_models import BaseModel, Placement, load_base_model, process_rank
from workers.rows import Example, rows_of
from workers.training import Material, Recipe, train


def trained(base: BaseModel) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Answers before, and the adapter's weights."""
    told = greedy_answers(base.model, base.tokenizer, ["where lives Anna", "who in Lyon"], 4)
    model = attach_adapter(base, earlier=[], seed=1)
    train(
        base,
        model,
        Material(
            rows_of(base, [Example("where lives Anna", "Lyon", secrets=("Lyon",))]),
            keep=rows_of(base, [Example("where lives Carl", "town")]),
        ),
        recipe=Recipe(
            method="bounded_nll",
            max_steps=6,
            check_every=3,
            min_steps=3,
            forget_rows=1,
            keep_rows=1,
        ),
        seed=1,
        forgotten=lambda: not greedy_answers(model, base.tokenizer, ["where lives Anna"], 2),
        report=lambda *_: None,
        should_stop=lambda: False,
    )
    weights = adapter_weights(model)
    detach_adapter(model)
    return told, weights


def held(base: BaseModel) -> int:
    """Parameters that lie in this process."""
    return sum(
        (p.to_local() if hasattr(p, "to_local") else p).numel() for p in base.model.parameters()
    )


if __name__ == "__main__":
    folder, result = sys.argv[1:]
    sharded = load_base_model(folder, Placement(device_map="fsdp"))
    told, weights = trained(sharded)
    if process_rank() == 0:
        whole = load_base_model(folder)
        expected_told, expected = trained(whole)
        found = {
            "same_answers": told == expected_told,
            "difference": max(float((weights[k] - expected[k]).abs().max()) for k in expected),
            "trained": any(bool(t.any()) for k, t in weights.items() if "lora_B" in k),
            "held": held(sharded),
            "whole": held(whole),
        }
        Path(result).write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
