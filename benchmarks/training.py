"""Seconds to an adapter that passes: our loop against Hugging Face Trainer + PEFT.

Interleaved pairs on the same rows, with the same loss and the same stopping score (the held-aside
phrasings no longer told above chance); both warm. The share of the machine's measured GEMM peak is
printed: floating-point operations that the method needs over seconds, over the rate of a square
float32 product measured in the same run.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import report, setting
from benchmarks.hf_trainer import unlearned
from workers import corpus, erasure
from workers.adapters import attach_adapter, detach_adapter
from workers.base_models import BaseModel, ModelError, load_base_model
from workers.forget_sets import Located, NothingMeasurable, locate
from workers.methods import DATA
from workers.rows import completion_logits
from workers.subjects import Subject, read_subject
from workers.training import Material, train

NAME = "training"
TIMES_FASTER = 5.0
SUBJECT = "workers/subject_files/harry_potter.json"


@dataclass(frozen=True)
class Job:
    """One person's erasure, ready to train."""

    base: BaseModel
    located: Located
    material: Material
    recipe: erasure.Recipe
    level: float
    seed: int

    def forgotten(self, model: Any) -> bool:
        return erasure.share_told(self.base, model, self.located) <= self.level


def job(base: BaseModel, subject: Subject, seed: int) -> Job:
    """Rows, recipe and stopping score of one erasure."""
    located = locate(base, subject)
    recipe = erasure.recipe_for(base)
    asked = erasure.surrogates(located, count=recipe.surrogates, seed=seed)
    material = erasure.material_for(base, located, asked=asked, recipe=recipe, seed=seed)
    return Job(base, located, material, recipe, erasure.never_knew(base, located, seed), seed)


def ours(given: Job) -> dict[str, Any]:
    """Our loop, from attaching the adapter to the last check."""
    started = time.perf_counter()
    model = attach_adapter(given.base, earlier=[], seed=given.seed)
    try:
        done = train(
            given.base,
            model,
            given.material,
            recipe=given.recipe,
            seed=given.seed,
            forgotten=lambda: given.forgotten(model),
            report=erasure.silent,
            should_stop=erasure.never,
        )
        return {
            "seconds": time.perf_counter() - started,
            "steps": done.steps,
            "passed": done.ended == "forgotten",
        }
    finally:
        detach_adapter(model)


def usual(given: Job) -> dict[str, Any]:
    """Trainer + PEFT with the same loss. The twins' logits are given to it, as a data set would
    hold them; their seconds count for both."""
    started = time.perf_counter()
    teacher = twin_logits(given)
    seconds = time.perf_counter() - started
    with unlearned(
        given.base,
        given.material,
        method=given.recipe.method,
        keep_weight=given.recipe.keep_weight,
        learning_rate=given.recipe.learning_rate,
        max_steps=given.recipe.max_steps,
        min_steps=given.recipe.min_steps,
        batch=given.recipe.forget_rows,
        twin_logits=teacher,
        forgotten=given.forgotten,
        seed=given.seed,
    ) as done:
        return {"seconds": seconds + done.seconds, "steps": done.steps, "passed": done.passed}


@torch.no_grad()
def twin_logits(given: Job) -> list[Tensor]:
    """The teacher's logits [completion, v] of each forget row: the twins' mean distribution."""
    pad = int(given.base.tokenizer.pad_token_id)
    found = []
    for rows in given.material.twins:
        logits = completion_logits(given.base.model, rows, pad).log_softmax(-1)
        found.append(torch.stack(logits.split(rows[0].completion)).logsumexp(dim=0))
    return found


def gemm_rate(size: int = 2048) -> float:
    """Floating-point operations a second of a square float32 product, the best of five."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def needed(given: Job, steps: int) -> float:
    """Floating-point operations that `steps` steps need: forward and input gradients of the
    adapted layers for every token, of the head for every completion token; and once the lower
    layers and the references. Attention products and the adapters' own are left out."""
    config = given.base.model.config
    layers = int(config.num_hidden_layers)
    decoder = sum(
        weight.numel() for name, weight in given.base.model.named_parameters()
        if ".layers." in name and weight.dim() == 2
    )  # fmt: skip
    head = int(config.vocab_size) * int(config.hidden_size)
    share = 1 - given.base.lowest_layer / layers
    groups = [given.material.forget, given.material.keep]
    twins = [row for rows in given.material.twins for row in rows]
    stored = [row for rows in (*groups, twins) for row in rows]
    once = sum(2 * decoder * len(r.ids) + 2 * head * r.completion for r in stored)
    step = 0.0
    for rows, size in zip(groups, (given.recipe.forget_rows, given.recipe.keep_rows), strict=True):
        tokens = sum(len(row.ids) for row in rows) / len(rows)
        told = sum(row.completion for row in rows) / len(rows)
        step += min(size, len(rows)) * (4 * decoder * share * tokens + 4 * head * told)
    return once + steps * step


def pairs(
    make: Callable[[int], Job], count: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[float]]:
    """`count` interleaved pairs after one warm-up of ours; the GEMM rate before each pair."""
    fast: list[dict[str, Any]] = []
    slow: list[dict[str, Any]] = []
    rates: list[float] = []
    ours(make(0))
    for number in range(count):
        given = make(number)
        rates.append(gemm_rate())
        mine = ours(given)
        mine["share_of_peak"] = needed(given, mine["steps"]) / mine["seconds"] / rates[-1]
        fast.append(mine)
        slow.append(usual(given))
        report.progress(
            f"pair {number + 1}/{count}: {mine['seconds']:.1f} s, {slow[-1]['seconds']:.1f} s"
        )
    return fast, slow, rates


def measure(models: Sequence[str], count: int) -> report.Measured:
    """Ratios by model."""
    figures: dict[str, Any] = {"data": {name: DATA[name] for name in ("twins", "surrogates")}}
    bars: list[dict[str, Any]] = []
    for name in models:
        base = load_base_model(name)
        made: dict[int, Job] = {}

        def make(number: int, base: BaseModel = base, made: dict[int, Job] = made) -> Job:
            if number not in made:
                made[number] = job(base, subject(base, number), seed=number + 1)
            return made[number]

        fast, slow, rates = pairs(make, count)
        found = report.compared(
            [each["seconds"] for each in fast],
            [each["seconds"] for each in slow],
            share_of_peak=statistics.median(each["share_of_peak"] for each in fast),
            pairs_in_which_theirs_passes=sum(each["passed"] for each in slow),
            ours=fast, trainer_and_peft=slow, gemm_gflops=[rate / 1e9 for rate in rates],
        )  # fmt: skip
        figures[name] = found
        passed = all(each["passed"] for each in fast)
        middle = found["times faster"]
        bars.append(
            {"name": f"{name}: times faster to an adapter that passes", "value": middle,
             "limit": TIMES_FASTER, "holds": passed and middle >= TIMES_FASTER}
        )  # fmt: skip
    return figures, bars


def subject(base: BaseModel, number: int) -> Subject:
    """Person 7 and following on the demo model; elsewhere always the same subject file."""
    if base.name != "demo":
        return read_subject(SUBJECT)
    return setting.subject_of(corpus.people()[setting.NEVER_LOOKED_AT[number]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", action="append", choices=["demo", "smollm2-135m"])
    parser.add_argument("--pairs", type=int, default=5)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.model or ["demo", "smollm2-135m"], options.pairs),
            cannot_run=(ModelError, NothingMeasurable),
        )
    )
