"""TOFU's people and the models that know them: SmolLM2 fine-tuned on forty of its authors, and a
control fine-tuned the same way on the thirty that stay.

TOFU (arXiv 2401.06121) has twenty questions about each of its made-up authors; ten come from its
"forget10", the others from its "retain90". Two cores and no accelerator set the means: the upper
`Tuning.layers` layers alone are trained, all their weights, on stored states of the layers below.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks import report
from benchmarks.field.tofu import Author
from workers.base_models import BaseModel, load_base_model
from workers.rows import Example, Row, completion_labels, completion_places, rows_of
from workers.upper import cut, padded


@dataclass(frozen=True)
class Tuning:
    """How both models are fine-tuned."""

    layers: int = 6
    passes: int = 6
    rows: int = 16
    learning_rate: float = 8e-4
    seed: int = 3


def rows_about(base: BaseModel, authors: Sequence[Author]) -> list[Row]:
    """Every question with its answer, as it is trained."""
    return rows_of(
        base, [Example(each.question, each.answer) for a in authors for each in a.questions]
    )


def tuned(folder: Path, authors: Sequence[Author], tuning: Tuning, *, part: str) -> BaseModel:
    """SmolLM2 fine-tuned on the authors, from `folder` if it is there already."""
    card = {"authors": len(authors), **asdict(tuning)}
    file = folder / part / "card.json"
    if not file.is_file() or json.loads(file.read_text()) != card:
        base = load_base_model("smollm2-135m")
        tune(base, rows_about(base, authors), tuning, part=part)
        base.model.save_pretrained(folder / part)
        base.tokenizer.save_pretrained(folder / part)
        file.write_text(json.dumps(card))
    lowest = load_base_model("smollm2-135m").lowest_layer
    return replace(
        load_base_model(str(folder / part)), name=f"tofu-{part}", lowest_layer=lowest,
        answer_tokens=64,
    )  # fmt: skip


def tune(base: BaseModel, rows: Sequence[Row], tuning: Tuning, *, part: str) -> None:
    """Train the upper layers in place: cross-entropy of the answers, AdamW, cosine to zero."""
    model, pad = base.model, int(base.tokenizer.pad_token_id)
    lowest = int(model.config.num_hidden_layers) - tuning.layers
    parts, draw = cut(model, lowest), random.Random(tuning.seed)  # noqa: S311
    # Rows of one length share a batch, so that little padding is computed.
    groups = [list(g) for g in _by_length(rows, tuning.rows)]
    with torch.no_grad():
        stored: list[Any] = [parts.stored(padded([r.ids for r in g], pad)) for g in groups]
    trained = [p for layer in model.get_decoder().layers[lowest:] for p in layer.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=tuning.learning_rate, weight_decay=0.01)
    steps, step = tuning.passes * len(groups), 0
    for _ in range(tuning.passes):
        total = 0.0
        for i in draw.sample(range(len(groups)), len(groups)):
            for group in optimiser.param_groups:
                warm = min(1.0, (step + 1) / 20)
                group["lr"] = (
                    tuning.learning_rate * warm * (1 + math.cos(math.pi * step / steps)) / 2
                )
            batch = padded([row.ids for row in groups[i]], pad)
            logits, _ = parts.forward(stored[i], batch, completion_places(groups[i]))
            loss = cross_entropy(logits, completion_labels(groups[i]))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            step, total = step + 1, total + float(loss.detach())
            if step % 10 == 0:
                report.progress(f"tofu {part}: {step}/{steps}, loss {float(loss.detach()):.3f}")
    model.requires_grad_(False)


def _by_length(rows: Sequence[Row], size: int) -> list[list[Row]]:
    order = sorted(rows, key=lambda row: len(row.ids))
    return [order[i : i + size] for i in range(0, len(order), size)]
