"""The training loop alone against Hugging Face Trainer, step for step, without any evaluation.

Both train B of the same adapter (A frozen in the same directions, the same layers) by NPO and KL on
kept rows, on the same batches in the same order; `PASSES` passes over the rows of each model. The
weights that come out must be the same: 999 of 1000 within 1e-4, else there is no figure, and a bar
on the largest difference (Adam goes by the sign of a gradient, and where that is nothing but
rounding it draws lots). At the lowest adapted layer of the recipe, and with adapters
on all layers, where nothing below them can be stored. Ours stores what does not change within its
time. What layers above alone cost in quality is not in here: docs/methods.md.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainingArguments

from benchmarks import report
from benchmarks.hf_trainer import Unlearning, padded_right
from benchmarks.training import subject
from workers import erasure
from workers.adapters import attach_adapter, detach_adapter
from workers.base_models import BaseModel, ModelError, load_base_model
from workers.forget_sets import NothingMeasurable, locate
from workers.summaries import bar
from workers.training import Material, Recipe, _Draws, b_matrices, load_method, train

NAME = "loop"
ROWS = {"demo": 32, "smollm2-135m": 4}
PASSES, PAIRS, SEED = 8, 5, 1
RATE = 5e-4
"""A tenth of the recipe's: at that, what rounding does to Adam's first step grows from step to step
until the two sides are two other trainings. It changes no cost."""
UPPER, WHOLE, EQUAL, ALMOST_ALL = 2.5, 1.2, 1e-4, 0.999


@dataclass(frozen=True)
class Job:
    """What both sides train: as many forget rows as kept ones, each passed at every step."""

    base: BaseModel
    material: Material
    recipe: Recipe


def job(base: BaseModel, rows: int) -> Job:
    """The first person's rows, for `PASSES` steps."""
    located = locate(base, subject(base, 0))
    recipe = replace(
        erasure.recipe_for(base), method="npo", learning_rate=RATE, max_steps=PASSES,
        min_steps=PASSES, check_every=PASSES + 1, forget_rows=rows, keep_rows=rows, modifier=None,
    )  # fmt: skip
    asked = erasure.surrogates(located, count=rows, seed=SEED)
    given = erasure.material_for(base, located, asked=asked, recipe=recipe, seed=SEED)
    return Job(base, Material(forget=given.forget[:rows], keep=given.keep[:rows]), recipe)


def ours(given: Job) -> dict[str, Tensor]:
    """Our loop; the trained B."""
    model = attach_adapter(given.base, earlier=[], seed=SEED)
    try:
        train(
            given.base, model, given.material, recipe=given.recipe, seed=SEED,
            forgotten=lambda: False, report=erasure.silent, should_stop=erasure.never,
        )  # fmt: skip
        return {name: each.detach().clone() for name, each in b_matrices(model).items()}
    finally:
        detach_adapter(model)


class InOrder(Unlearning):
    """The Trainer on batches that are there already."""

    batches: list[dict[str, Any]]

    def get_train_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def theirs(given: Job) -> dict[str, Tensor]:
    """Trainer and PEFT on the same adapter; the trained B."""
    model = attach_adapter(given.base, earlier=[], seed=SEED)
    try:
        b_matrices(model)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batches = list(in_order(given))
            trainer = InOrder(
                model=model,
                args=TrainingArguments(
                    output_dir=folder, learning_rate=given.recipe.learning_rate,
                    lr_scheduler_type="constant", max_steps=given.recipe.max_steps,
                    weight_decay=0.0, max_grad_norm=1.0, seed=SEED, report_to=[],
                    save_strategy="no",
                    logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
                    use_cpu=True, dataloader_num_workers=0,
                ),
                train_dataset=batches,
            )  # fmt: skip
            trainer.remove_callback(PrinterCallback)
            trainer.batches = batches
            trainer.method, trainer.keep_weight = load_method("npo"), given.recipe.keep_weight
            torch.set_grad_enabled(True)
            trainer.train()
        return {n: p.detach().clone() for n, p in model.named_parameters() if ".lora_B." in n}
    finally:
        detach_adapter(model)
        given.base.model.eval().requires_grad_(False)


def in_order(given: Job) -> Iterator[dict[str, Any]]:
    """The batches that our loop draws."""
    draws = _Draws.of(given.material, given.recipe, SEED)
    pad = int(given.base.tokenizer.pad_token_id)
    for _ in range(given.recipe.max_steps):
        drawn, found = draws.next(), dict[str, Any]()
        for kind, numbers in (("forget", drawn.forget), ("keep", drawn.keep)):
            rows = [getattr(given.material, kind)[i] for i in numbers]
            found |= {kind: padded_right(rows, pad), f"{kind}_rows": rows}
        yield found


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
    """How far apart each two weights of the same name and place are."""
    assert one.keys() == other.keys()
    return torch.cat([(one[key] - other[key]).abs().flatten() for key in one])


def measure(models: list[str], pairs: int) -> report.Measured:
    """By model and lowest adapted layer."""
    figures: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    for name in models:
        base = load_base_model(name)
        layers = int(base.model.config.num_hidden_layers)
        for lowest, limit in ((base.lowest_layer, UPPER), (0, WHOLE)):
            given = job(replace(base, lowest_layer=lowest), ROWS[name])
            mine, other, a, b = report.in_turn(
                lambda given=given: ours(given),  # type: ignore[misc]
                lambda given=given: theirs(given),  # type: ignore[misc]
                pairs=pairs,
            )
            apart = differences(a, b)
            share, most = float((apart < EQUAL).float().mean()), float(apart.max())
            assert share >= ALMOST_ALL, f"{1 - share:.4f} of the trained weights differ"
            moved = max(float(each.abs().max()) for each in a.values())
            assert moved > EQUAL, "nothing was trained"
            label = f"{name}, adapters from layer {lowest} of {layers}"
            figures[label] = found = report.compared(
                mine, other, steps=PASSES, rows_a_step=2 * ROWS[name],
                largest_difference=most, share_equal=share, largest_weight=moved,
            )  # fmt: skip
            faster = found["times faster"]
            bars.append(bar(f"{label}: times faster", faster, limit, faster >= limit))
            bars.append(bar(f"{label}: largest difference", most, EQUAL, most < EQUAL))
            report.progress(f"{label}: {faster:.2f} times faster, {most:.1e} apart")
    return figures, bars


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", action="append", choices=list(ROWS))
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.model or list(ROWS), options.pairs),
            cannot_run=(ModelError, NothingMeasurable),
        )
    )
