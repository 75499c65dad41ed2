"""One LoRA for many cases, to be merged into the weights.

Both matrices are trained and there is no gate, so the others must be held in place by themselves:
by the data that the controller still holds about them (`retained`). Questions keep their answers
by plain loss, running text by KL to the base: a plain loss would teach the model these very texts.
Where one kind is not held, KL on what the base itself says stands in: its answers about made-up
people, the text that it writes from nothing. `benchmarks.consolidation` measures both.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.adapters import detach_adapter, wrap
from workers.answers import BATCH, begin, sampling, token_rows
from workers.base_models import BaseModel
from workers.forget_sets import Located, answered, forget_examples, twin_rows
from workers.identifiers import normalised
from workers.methods import Batch, Completions, divergence
from workers.rows import Example, Row, completion_labels, completion_logits, rows_of, text_row
from workers.subjects import Fact
from workers.surrogates import surrogate_questions
from workers.training import Report, ShouldStop, Stopped, load_method, method_settings

NAME = "joint"
TEXT_TOKENS = 48


@dataclass(frozen=True)
class JointRecipe:
    """Knobs of the joint training; all of them are recorded."""

    method: str = "twin"
    rank: int = 32
    learning_rate: float = 2e-3
    forget_rows: int = 32
    keep_rows: int = 48
    text_rows: int = 16
    keep_weight: float = 10.0
    surrogates: int = 512
    texts: int = 512
    twins: int = 8
    passes: int = 6
    min_steps: int = 150
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

    `retained` are questions with their answers, and plain texts; what the base says stands in for
    a kind that is missing. `base` stays as it is. Raises Stopped.
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
    texts = [text_row(base, row, ends=True) for row in retained if isinstance(row, str)]
    held = _Held(
        questions=rows_of(base, given or _surrogates(base, located, recipe, seed)),
        true=bool(given),
        texts=texts or _written(base, located, recipe, seed),
    )
    model = wrap(base, config, NAME)
    try:
        _train(
            model,
            forget=forget,
            twins=twins,
            held=held,
            pad=int(base.tokenizer.pad_token_id),
            recipe=recipe,
            seed=seed,
            report=report,
            should_stop=should_stop,
        )
        return deltas_of(model, NAME)
    finally:
        detach_adapter(model)


@dataclass(frozen=True)
class _Held:
    """What stays: questions, with `true` answers or the base model's own, and texts."""

    questions: Sequence[Row]
    true: bool
    texts: Sequence[Row]


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


def _written(
    base: BaseModel, located: Sequence[Located], recipe: JointRecipe, seed: int
) -> list[Row]:
    """Up to `recipe.texts` texts that the base writes from nothing, each token drawn at temperature
    1; none that mentions one of the people or of their facts."""
    end, start = base.tokenizer.eos_token_id, base.tokenizer.bos_token_id
    first = end if start is None else start
    pick, drawn = sampling(seed), list[list[int]]()
    while len(drawn) < recipe.texts:
        started = begin(base.model, [[first]] * min(BATCH, recipe.texts - len(drawn)), pick=pick)
        drawn += token_rows(base.model, started, TEXT_TOKENS, stops=frozenset([end]))
    names = [name for each in located for name in (each.subject.name, *each.subject.aliases)]
    secrets = [*names, *(fact.answer for each in located for fact in each.facts)]
    hidden = [f" {normalised(secret)} " for secret in secrets]
    return [
        Row((first, *ids), completion=len(ids), answer=(False,) * len(ids))
        for ids in drawn
        if ids and not any(h in f" {normalised(base.tokenizer.decode(ids))} " for h in hidden)
    ]


def _train(
    model: PeftModel,
    *,
    forget: Sequence[Row],
    twins: Mapping[Row, Sequence[Row]],
    held: _Held,
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
    forget_waiting, questions_waiting, texts_waiting = list[Row](), list[Row](), list[Row]()
    for step in range(1, steps + 1):
        if should_stop():
            raise Stopped("The consolidation was stopped during training.")
        rows = _next(forget_waiting, forget, recipe.forget_rows, draw)
        asked = _next(questions_waiting, held.questions, recipe.keep_rows, draw)
        texts = _next(texts_waiting, held.texts, recipe.text_rows, draw)
        with torch.no_grad(), model.disable_adapter():
            before = completion_logits(model, rows, pad)
            like = completion_logits(model, [draw.choice(twins[row]) for row in rows], pad)
            asked_before = None if held.true else completion_logits(model, asked, pad)
            texts_before = completion_logits(model, texts, pad) if texts else None
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
        moved = _moved(completion_logits(model, asked, pad), asked, asked_before)
        if texts_before is not None:
            moved = moved + _moved(completion_logits(model, texts, pad), texts, texts_before)
        optimiser.zero_grad()
        (lost + recipe.keep_weight * moved).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        schedule.step()
        if step % 10 == 0 or step == steps:
            losses = {"forget_loss": float(lost.detach()), "keep_loss": float(moved.detach())}
            report("train", step, steps, losses)


def _moved(logits: Tensor, rows: Sequence[Row], before: Tensor | None) -> Tensor:
    """How far the rows' completions are from where they should stay, in nats: their mean loss
    without `before`; else mean KL(before || now) plus the mean change of the tokens' own loss.

    KL hardly sees tokens that the base took for improbable, of which perplexity is mostly made.
    """
    labels = completion_labels(rows).to(logits.device)
    now = cross_entropy(logits, labels, reduction="none")
    if before is None:
        return now.mean()
    was = cross_entropy(before, labels, reduction="none")
    return (divergence(before, logits) + (now - was).abs()).mean()


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
def deltas_of(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    """What an adapter adds to each weight, by the parameter's name."""
    return {
        f"{path}.weight": module.get_delta_weight(adapter).clone()
        for path, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }
