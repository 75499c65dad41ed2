"""The usual way to the same adapter: Hugging Face Trainer and PEFT, with open-unlearning's losses.

Adapters on all layers (PEFT's default), A and B both trained, logits at every position, the
reference's logits computed anew at every step, the stopping score measured after every epoch.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from workers.base_models import BaseModel
from workers.methods import Batch, Completions, divergence
from workers.rows import Row, completion_labels
from workers.training import Material, load_method

IGNORED = -100


@dataclass(frozen=True)
class Usual:
    """What came out: the model is in `model` until the block ends."""

    model: PeftModel
    steps: int
    seconds: float
    passed: bool


class _Rows(Dataset):
    """Forget rows by number; what goes with each (a surrogate, a replacement) has the same one."""

    def __init__(self, material: Material, twin_logits: Sequence[Tensor]):
        self.material, self.twin_logits = material, twin_logits

    def __len__(self) -> int:
        return len(self.material.forget)

    def __getitem__(self, i: int) -> dict[str, Any]:
        given = self.material

        def beside(rows: Sequence[Row]) -> Row | None:
            return rows[i % len(rows)] if rows else None

        return {
            "forget": given.forget[i],
            "instead": beside(given.instead),
            "keep": beside(given.keep),
            "retained": beside(given.retained),
            "twin_logits": self.twin_logits[i] if self.twin_logits else None,
        }


def _collated(pad: int) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind in ("forget", "instead", "keep", "retained"):
            rows = [item[kind] for item in items if item[kind] is not None]
            if rows:
                found[kind] = padded_right(rows, pad)
                found[f"{kind}_rows"] = rows
        if items[0]["twin_logits"] is not None:
            found["twin_logits"] = torch.cat([item["twin_logits"] for item in items])
        return found

    return collate


def padded_right(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    width = max(len(row.ids) for row in rows)
    blank = [width - len(row.ids) for row in rows]
    labels = [
        [IGNORED] * (len(r.ids) - r.completion) + list(r.ids[-r.completion :]) + [IGNORED] * n
        for r, n in zip(rows, blank, strict=True)
    ]
    return {
        "input_ids": torch.tensor([[*r.ids, *[pad] * n] for r, n in zip(rows, blank, strict=True)]),
        "attention_mask": torch.tensor(
            [[1] * len(r.ids) + [0] * n for r, n in zip(rows, blank, strict=True)]
        ),
        "labels": torch.tensor(labels),
    }


class Unlearning(Trainer):
    """The Trainer with a method's loss."""

    method: Any
    keep_weight: float

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        told = _passed(model, inputs, "forget", reference=True)
        if "twin_logits" in inputs:
            told = Completions(**{**vars(told), "twin_logits": inputs["twin_logits"]})
        batch = Batch(
            forget=told,
            instead=_passed(model, inputs, "instead", reference=True)
            if "instead" in inputs
            else None,
            keep=_passed(model, inputs, "keep", reference=True) if "keep" in inputs else None,
            retained=_passed(model, inputs, "retained", reference=False)
            if "retained" in inputs
            else None,
        )
        loss = self.method.loss(batch)
        if batch.keep is not None:
            loss = (
                loss
                + self.keep_weight * divergence(batch.keep.base_logits, batch.keep.logits).mean()
            )
        return (loss, {}) if return_outputs else loss


def _passed(model: Any, inputs: Mapping[str, Any], kind: str, *, reference: bool) -> Completions:
    rows, given = inputs[f"{kind}_rows"], inputs[kind]
    seen = given["labels"][:, 1:] != IGNORED

    def logits() -> Tensor:
        out = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
        return out[:, :-1][seen]

    now = logits()
    before = now.detach()
    if reference:
        frozen = [each for each in model.parameters() if not each.requires_grad]
        with torch.no_grad(), model.disable_adapter():
            before = logits()
        for parameter in frozen:  # PEFT makes all of an adapter's weights trainable again
            parameter.requires_grad_(False)
    return Completions(
        logits=now,
        base_logits=before,
        labels=completion_labels(rows),
        is_answer=torch.tensor([mark for row in rows for mark in row.answer]),
        row=torch.repeat_interleave(torch.tensor([row.completion for row in rows])),
    )


class _StopWhenForgotten(TrainerCallback):
    """The stopping score after every epoch, as open-unlearning evaluates."""

    def __init__(self, forgotten: Callable[[], bool], min_steps: int):
        self.forgotten, self.min_steps, self.passed = forgotten, min_steps, False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        given["model"].eval()
        self.passed = self.forgotten() and state.global_step >= self.min_steps
        given["model"].train()
        control.should_training_stop = self.passed
        return control


@contextmanager
def unlearned(
    base: BaseModel,
    material: Material,
    *,
    method: str,
    keep_weight: float,
    learning_rate: float,
    max_steps: int,
    min_steps: int,
    batch: int,
    twin_logits: Sequence[Tensor] = (),
    forgotten: Callable[[PeftModel], bool],
    seed: int,
    rank: int = 8,
) -> Iterator[Usual]:
    """Train by Trainer and PEFT until `forgotten(model)` after an epoch, or for `max_steps`."""
    started = time.perf_counter()
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(base.target_modules),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base.model, config)
    stop = _StopWhenForgotten(lambda: forgotten(model), min_steps)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Unlearning(
                model=model,
                args=TrainingArguments(
                    output_dir=folder,
                    per_device_train_batch_size=batch,
                    learning_rate=learning_rate,
                    lr_scheduler_type="constant",
                    max_steps=max_steps,
                    weight_decay=0.0,
                    max_grad_norm=1.0,
                    seed=seed,
                    report_to=[],
                    save_strategy="no",
                    logging_strategy="no",
                    disable_tqdm=True,
                    remove_unused_columns=False,
                    use_cpu=True,
                ),
                train_dataset=_Rows(material, twin_logits),
                data_collator=_collated(int(base.tokenizer.pad_token_id)),
                callbacks=[stop],
            )
            trainer.remove_callback(PrinterCallback)  # standard output is for the result
            trainer.method, trainer.keep_weight = load_method(method), keep_weight
            torch.set_grad_enabled(True)
            done = trainer.train()
        model.eval()
        yield Usual(model, int(done.global_step), time.perf_counter() - started, stop.passed)
    finally:
        model.unload()
        base.model.eval().requires_grad_(False)
