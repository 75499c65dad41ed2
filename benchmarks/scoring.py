"""Scoring completions that share a prompt, against a loop as lm-eval's, on SmolLM2-135M.

The other side is written after lm-eval's `HFLM._loglikelihood_tokens`: requests by falling length,
batches padded on the right, each request its whole context, logits of all places, a softmax over
all of them, then the completion's part. In batches of one (lm-eval's default) and of sixteen. One
prompt of a hundred tokens with P completions of fifteen; P = 1 has nothing to share.
"""

import random
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import report
from workers.base_models import BaseModel, ModelError, load_base_model
from workers.rows import Row
from workers.scores import scored_rows
from workers.summaries import bar

NAME = "scoring"
PROMPT, COMPLETION = 100, 15
PROMPTS = {1: 16, 10: 4, 50: 1}
"""Prompts by completions of each."""
BATCHES = (1, 16)
BAR_AT, TIMES_FASTER, EQUAL, PAIRS = 10, 3.0, 1e-4, 5


def made_up(base: BaseModel, completions: int, prompts: int) -> list[Row]:
    """Rows of random tokens: what they say is of no matter here, what they cost is."""
    draw = random.Random(completions)  # noqa: S311
    size = int(base.model.config.vocab_size)
    rows = []
    for _ in range(prompts):
        prompt = [draw.randrange(1000, size) for _ in range(PROMPT)]
        for _ in range(completions):
            told = [draw.randrange(1000, size) for _ in range(COMPLETION)]
            rows.append(Row((*prompt, *told), COMPLETION, (False,) * COMPLETION))
    return rows


@torch.inference_mode()
def usual(base: BaseModel, rows: Sequence[Row], batch: int) -> list[float]:
    """The loop as lm-eval has it."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), rows[i].ids))
    found = [0.0] * len(rows)
    for first in range(0, len(order), batch):
        some = order[first : first + batch]
        width = max(len(rows[i].ids) for i in some) - 1
        ids = torch.tensor(
            [[*rows[i].ids[:-1], *[0] * (width + 1 - len(rows[i].ids))] for i in some]
        )
        every = torch.nn.functional.log_softmax(base.model(ids).logits, dim=-1)
        for place, i in enumerate(some):
            end, count = len(rows[i].ids) - 1, rows[i].completion
            told = torch.tensor(rows[i].ids[-count:])[:, None]
            found[i] = float(every[place, end - count : end].gather(1, told).sum())
    return found


def measure() -> report.Measured:
    """By completions a prompt and size of the other side's batches."""
    base = load_base_model("smollm2-135m")
    figures: dict[str, Any] = {}
    for completions, prompts in PROMPTS.items():
        rows = made_up(base, completions, prompts)
        for batch in BATCHES:
            mine, other, a, b = report.in_turn(
                lambda rows=rows: [each.total for each in scored_rows(base.model, rows)],  # type: ignore[misc]
                lambda rows=rows, batch=batch: usual(base, rows, batch),  # type: ignore[misc]
                pairs=PAIRS,
            )
            apart = max(abs(x - y) for x, y in zip(a, b, strict=True)) / COMPLETION
            assert apart < EQUAL, f"log-likelihoods differ by {apart} nats a token"
            label = f"{completions} completions a prompt, their batches of {batch}"
            figures[label] = report.compared(mine, other, largest_difference=apart)
            report.progress(f"{label}: {figures[label]['times faster']:.2f} times faster")
    return figures, bars(figures)


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Against the faster of the other side's batches."""
    faster = min(
        figures[f"{BAR_AT} completions a prompt, their batches of {batch}"]["times faster"]
        for batch in BATCHES
    )
    name = f"{BAR_AT} completions a prompt, times faster than either size of batch"
    return [bar(name, faster, TIMES_FASTER, faster >= TIMES_FASTER)]


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(ModelError,)))
