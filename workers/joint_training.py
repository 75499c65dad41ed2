"""One LoRA for many cases, to be merged into the weights.

Both matrices are trained and there is no gate, so the others must be held in place by themselves:
by KL to the base on the data that the controller still holds about them (`retained`), or, without
it, on what the base itself says about made-up people.
`benchmarks.consolidation` measures both.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from workers.adapters import detach_adapter, wrap
from workers.base_models import BaseModel
from workers.forget_sets import Located, answered, forget_examples, twin_rows
from workers.methods import Batch, Completions, divergence
from workers.rows import Example, Row, completion_labels, completion_logits, rows_of, text_row
from workers.subjects import Fact
from workers.surrogates import surrogate_questions
from workers.training import Report, ShouldStop, Stopped, load_method, method_settings

NAME = "joint"


@dataclass(frozen=True)
class JointRecipe:
    """Knobs of the joint training; all of them are recorded."""

    method: str = "twin"
    rank: int = 32
    learning_rate: float = 1e-3
    forget_rows: int = 16
    keep_rows: int = 64
    keep_weight: float = 3.0
    surrogates: int = 512
    twins: int = 8
    passes: int = 4
    min_steps: int = 200
    warm_up: float = 0.1


def joint_record(recipe: JointRecipe) -> dict[str, str]:
    """The recipe as texts, the method's own settings included."""
    knobs = {**asdict(recipe), **method_settings(recipe.method)}
    return {key: str(value) for key, value in sorted(knobs.items())}


def joint_deltas(
    base: BaseModel,
    located: Sequence[Located],
    *,
    retained: Sequence[Fact | str],
    recipe: JointRecipe,
    seed: int,
    report: Report,
    should_stop: ShouldStop,
) -> dict[str, Tensor]:
    """What the joint LoRA adds to each weight that it adapts, by the parameter's name.

    `retained` are questions with their answers, and plain texts. Surrogates stand in where it is
    empty. `base` stays as it is. Raises Stopped.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.rank,
        lora_dropout=0.0,
        target_modules=list(base.target_modules),
        # On all layers, whatever the setting for adapters: what is merged is to be gone everywhere.
        layers_to_transform=list(range(int(base.model.config.num_hidden_layers))),
        task_type="CAUSAL_LM",
    )
    told = [(each, example) for each in located for example in forget_examples(each)]
    forget = rows_of(base, [example for _, example in told])
    twins = {
        row: twin_rows(base, each, example, count=recipe.twins, seed=seed) or (row,)
        for row, (each, example) in zip(forget, told, strict=True)
    }
    given = [Example(row.question, row.answer) for row in retained if isinstance(row, Fact)]
    keep = rows_of(base, given if retained else _surrogates(base, located, recipe, seed))
    keep += [text_row(base, row, ends=True) for row in retained if isinstance(row, str)]
    model = wrap(base, config, NAME)
    try:
        _train(
            model,
            forget=forget,
            twins=twins,
            keep=keep,
            pad=int(base.tokenizer.pad_token_id),
            recipe=recipe,
            seed=seed,
            report=report,
            should_stop=should_stop,
        )
        return _deltas(model)
    finally:
        detach_adapter(model)


def _surrogates(
    base: BaseModel, located: Sequence[Located], recipe: JointRecipe, seed: int
) -> list[Example]:
    """Questions about nobody near any of the people, and what the base says to them."""
    hidden = [name for each in located for name in (each.subject.name, *each.subject.aliases)]
    asked = [
        question
        for place, each in enumerate(located)
        for question in surrogate_questions(
            each.subject.name,
            [fact.question for fact in each.facts],
            secrets=[*hidden, *(fact.answer for fact in each.facts)],
            count=-(-recipe.surrogates // len(located)),
            seed=seed + place,
        )
    ]
    return answered(base, asked, located)


def _train(
    model: PeftModel,
    *,
    forget: Sequence[Row],
    twins: Mapping[Row, Sequence[Row]],
    keep: Sequence[Row],
    pad: int,
    recipe: JointRecipe,
    seed: int,
    report: Report,
    should_stop: ShouldStop,
) -> None:
    """`recipe.passes` over the forget set, at least `min_steps`; the learning rate ends at zero.

    One of a row's `twins` stands for all of them in each step: the gradient of KL(twin || now) is
    linear in the twin's distribution, so it is right on average.
    """
    loss_of = load_method(recipe.method).loss
    steps = max(recipe.min_steps, -(-recipe.passes * len(forget) // recipe.forget_rows))
    trainable = _lora_weights(model)
    optimiser = torch.optim.AdamW(trainable, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=steps, pct_start=recipe.warm_up
    )
    draw = random.Random(seed)  # noqa: S311
    forget_waiting, keep_waiting = list[Row](), list[Row]()
    for step in range(1, steps + 1):
        if should_stop():
            raise Stopped("The consolidation was stopped during training.")
        rows = _next(forget_waiting, forget, recipe.forget_rows, draw)
        others = _next(keep_waiting, keep, recipe.keep_rows, draw)
        with torch.no_grad(), model.disable_adapter():
            before = completion_logits(model, rows, pad)
            like = completion_logits(model, [draw.choice(twins[row]) for row in rows], pad)
            others_before = completion_logits(model, others, pad)
        _lora_weights(model)  # switching the adapter off and on froze them
        told = Completions(
            logits=completion_logits(model, rows, pad),
            base_logits=before,
            labels=completion_labels(rows),
            is_answer=torch.tensor([mark for row in rows for mark in row.answer]),
            row=torch.repeat_interleave(torch.tensor([row.completion for row in rows])),
            twin_logits=like,
        )
        lost = loss_of(Batch(told))
        moved = divergence(others_before, completion_logits(model, others, pad)).mean()
        optimiser.zero_grad()
        (lost + recipe.keep_weight * moved).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        schedule.step()
        if step % 10 == 0 or step == steps:
            losses = {"forget_loss": float(lost.detach()), "keep_loss": float(moved.detach())}
            report("train", step, steps, losses)


def _lora_weights(model: PeftModel) -> list[torch.nn.Parameter]:
    found = [weight for name, weight in model.named_parameters() if ".lora_" in name]
    for weight in found:
        weight.requires_grad_(True)
    return found


def _next(waiting: list[Row], rows: Sequence[Row], size: int, draw: random.Random) -> list[Row]:
    """The next `size` rows: every row once, in random order, before any comes again."""
    size = min(size, len(rows))
    while len(waiting) < size:
        waiting += draw.sample(list(rows), len(rows))
    return [waiting.pop() for _ in range(size)]


@torch.no_grad()
def _deltas(model: PeftModel) -> dict[str, Tensor]:
    return {
        f"{path}.weight": module.get_delta_weight(NAME).clone()
        for path, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }
