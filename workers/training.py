"""Training one adapter: demote what gives the facts away, hold everything else where it was.

The reference is the same model with the adapter off: its logits on every row are computed once,
before the first step, and kept (B starts at zero, so they are also the first step's own).
"""

import hashlib
import importlib
import inspect
import pkgutil
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import safetensors.torch
import torch
from peft import PeftModel
from torch import Tensor

from workers import methods
from workers.base_models import BaseModel
from workers.methods import ForgetBatch

Report = Callable[[str, int, int, Mapping[str, float]], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of training is kept between two workers: what was saved last (or None), and
    how to save. The bytes derive from personal data."""

    load: Callable[[], bytes | None]
    save: Callable[[bytes], None]


class Stopped(RuntimeError):
    """The caller asked for the work to stop; nothing was left behind."""


@dataclass(frozen=True)
class Example:
    """A question, what the model says to it, and the texts in there that must not be told."""

    question: str
    answer: str
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Token ids of prompt and completion; `answer` marks completion tokens that tell a secret.

    `completion` is the number of completion tokens; `answer` has that length.
    """

    ids: tuple[int, ...]
    completion: int
    answer: tuple[bool, ...]


@dataclass(frozen=True)
class Recipe:
    """Knobs of the training loop; all of them are recorded with the evidence."""

    method: str = "bounded_nll"
    learning_rate: float = 5e-3
    keep_weight: float = 1.0
    forget_rows: int = 32
    keep_rows: int = 32
    max_steps: int = 120
    check_every: int = 10
    min_steps: int = 90
    surrogates: int = 192


def method_names() -> tuple[str, ...]:
    """The methods there are: the files of the folder."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(methods.__path__)))


def load_method(name: str) -> Callable[..., Tensor]:
    """The loss of method `name`. Raises ValueError listing the known ones."""
    if name not in method_names():
        raise ValueError(f"There is no method {name!r}; known: {', '.join(method_names())}.")
    return cast(Callable[..., Tensor], importlib.import_module(f"workers.methods.{name}").loss)


def method_settings(name: str) -> dict[str, Any]:
    """The method's keyword defaults, for the record."""
    parameters = inspect.signature(load_method(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def rows_of(base: BaseModel, examples: Sequence[Example]) -> list[Row]:
    """The examples as token rows; a completion token is marked if it overlaps a secret."""
    return [_row(base, example) for example in examples]


def _row(base: BaseModel, example: Example) -> Row:
    prompt = base.prompt(example.question)
    text = prompt + base.completion(example.question, example.answer)
    encoded = base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    first = next(i for i, (_, end) in enumerate(offsets) if end > len(prompt))
    secret = _spans(text, start=len(prompt), secrets=example.secrets)
    return Row(
        ids=tuple(encoded["input_ids"]),
        completion=len(offsets) - first,
        answer=tuple(
            any(a < end and start < b for a, b in secret) for start, end in offsets[first:]
        ),
    )


def _spans(text: str, *, start: int, secrets: Sequence[str]) -> list[tuple[int, int]]:
    """Every place after `start` where a secret stands, letter case aside."""
    return [
        found.span()
        for secret in secrets
        for found in re.finditer(re.escape(secret), text, re.IGNORECASE)
        if found.start() >= start
    ]


@dataclass(frozen=True)
class Padded:
    """Rows padded on the left [n, width], so that completions share their last positions."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    keep: int


def padded(rows: Sequence[Row], pad: int) -> Padded:
    """A batch of rows; `keep` last positions give the logits of every completion token."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[pad] * (width - len(r.ids)) + list(r.ids) for r in rows])
    mask = torch.tensor([[0] * (width - len(r.ids)) + [1] * len(r.ids) for r in rows])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return Padded(ids, mask, positions, keep=max(row.completion for row in rows) + 1)


def completion_logits(model: Any, rows: Sequence[Row], pad: int) -> Tensor:
    """Logits [sum of completion lengths, vocabulary] that predict each row's completion tokens, in
    float32 on the device of the model's head."""
    batch = padded(rows, pad)
    logits = model(
        input_ids=batch.ids.to(model.device),
        attention_mask=batch.mask.to(model.device),
        position_ids=batch.positions.to(model.device),
        logits_to_keep=batch.keep,
        use_cache=False,
    ).logits
    kept = [
        logits[i, batch.keep - 1 - row.completion : batch.keep - 1] for i, row in enumerate(rows)
    ]
    return torch.cat(kept).float()  # losses in bfloat16 would be too coarse


def completion_labels(rows: Sequence[Row]) -> Tensor:
    """Token ids [sum of completion lengths] of the completions."""
    return torch.tensor([token for row in rows for token in row.ids[-row.completion :]])


@torch.no_grad()
def row_log_likelihoods(model: Any, rows: Sequence[Row], pad: int, size: int = 64) -> list[float]:
    """log p(completion | prompt) of each row in nats, summed over its tokens."""
    found: list[float] = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        logits = completion_logits(model, some, pad)
        labels = completion_labels(some).to(logits.device)
        tokens = -torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        found += [float(part.sum()) for part in tokens.split([row.completion for row in some])]
    return found


def log_likelihoods(base: BaseModel, model: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """log p(answer | question) in nats under `model`, teacher-forced, the answer's end included;
    `base` gives the tokenizer and the prompt form."""
    rows = rows_of(base, [Example(question, answer) for question, answer in pairs])
    return row_log_likelihoods(model, rows, int(base.tokenizer.pad_token_id))


@dataclass(frozen=True)
class Trained:
    """What the loop did: steps taken, why it ended, and the last measured losses."""

    steps: int
    ended: str
    forget_loss: float
    keep_loss: float


def train(
    base: BaseModel,
    model: PeftModel,
    *,
    forget: Sequence[Row],
    keep: Sequence[Row],
    recipe: Recipe,
    seed: int,
    forgotten: Callable[[], bool],
    report: Report,
    should_stop: ShouldStop,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train the adapter's B matrices until `forgotten()` says so, or for `recipe.max_steps`.

    `forget` and `keep` are rows of the forget set and of the surrogate set. Every
    `recipe.check_every` steps `forgotten` is asked, with the adapter on, and the state is saved to
    `checkpoint`; a state of the very same inputs found there is gone on from, and the result is the
    same to the bit. Every step is reported. Raises Stopped when `should_stop()` is true.
    """
    loss_of = load_method(recipe.method)
    pad = int(base.tokenizer.pad_token_id)
    with model.disable_adapter():
        reference = _Reference.of(model, [*forget, *keep], pad)
    trainable = _b_matrices(model)
    optimiser = torch.optim.AdamW(trainable, lr=recipe.learning_rate, weight_decay=0.0)
    forget_batches = _batches(len(forget), recipe.forget_rows, random.Random(seed))  # noqa: S311
    keep_batches = _batches(len(keep), recipe.keep_rows, random.Random(seed + 1))  # noqa: S311
    ended, lost, moved = "max_steps", torch.tensor(0.0), torch.tensor(0.0)
    inputs = _inputs_digest(model, recipe, seed, forget, keep)
    saved = checkpoint.load() if checkpoint else None
    done = _restore(saved, optimiser, trainable, inputs) if saved else 0
    if done:
        report("train", done, recipe.max_steps, {"resumed_at_step": float(done)})
    for _ in range(done):
        next(forget_batches), next(keep_batches)
    for step in range(done + 1, recipe.max_steps + 1):
        if should_stop():
            raise Stopped("The run was stopped during training.")
        some, others = next(forget_batches), next(keep_batches)
        rows = [forget[i] for i in some]
        logits = completion_logits(model, rows, pad)
        is_answer = torch.tensor([mark for row in rows for mark in row.answer])
        batch = ForgetBatch(
            logits=logits,
            base_logits=reference.rows(some),
            labels=completion_labels(rows).to(logits.device),
            is_answer=is_answer.to(logits.device),
        )
        lost = loss_of(batch)
        kept = [keep[i] for i in others]
        moved = divergence(
            reference.rows([len(forget) + i for i in others]), completion_logits(model, kept, pad)
        )
        optimiser.zero_grad()
        (lost + recipe.keep_weight * moved).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        report("train", step, recipe.max_steps, _losses(lost, moved, recipe))
        if step % recipe.check_every == 0 or step == recipe.max_steps:
            if checkpoint:
                checkpoint.save(_state(step, optimiser, trainable, inputs))
            if step >= recipe.min_steps and forgotten():
                ended = "forgotten"
                break
    return Trained(step, ended, float(lost.detach()), float(moved.detach()))


def _b_matrices(model: PeftModel) -> list[torch.nn.Parameter]:
    """The B matrices, made the only trainable ones (PEFT re-enables all of an adapter's weights
    whenever it is switched on again)."""
    found = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_B." in name)
        if parameter.requires_grad:
            found.append(parameter)
    return found


def _losses(lost: Tensor, moved: Tensor, recipe: Recipe) -> dict[str, float]:
    forget, keep = float(lost.detach()), float(moved.detach())
    return {
        "loss": forget + recipe.keep_weight * keep,
        "forget_loss": forget,
        "keep_loss": keep,
    }


def _inputs_digest(
    model: PeftModel, recipe: Recipe, seed: int, forget: Sequence[Row], keep: Sequence[Row]
) -> bytes:
    """SHA-256 of all that the training of one adapter depends on beside the base model."""
    found = hashlib.sha256(repr((recipe, seed, tuple(forget), tuple(keep))).encode())
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            found.update(parameter.detach().float().cpu().numpy().tobytes())
    return found.digest()


MOMENTS = ("exp_avg", "exp_avg_sq")


def _state(
    step: int,
    optimiser: torch.optim.AdamW,
    trainable: Sequence[torch.nn.Parameter],
    inputs: bytes,
) -> bytes:
    """Step, B matrices and moments as safetensors."""
    tensors = {"step": torch.tensor(step), "inputs": torch.tensor(list(inputs), dtype=torch.uint8)}
    for i, parameter in enumerate(trainable):
        tensors[f"b.{i}"] = parameter.detach()
        tensors |= {f"{name}.{i}": optimiser.state[parameter][name] for name in MOMENTS}
    return safetensors.torch.save({name: each.contiguous() for name, each in tensors.items()})


def _restore(
    saved: bytes,
    optimiser: torch.optim.AdamW,
    trainable: Sequence[torch.nn.Parameter],
    inputs: bytes,
) -> int:
    """Put a saved state back; the step it was saved at, or 0 if it is of other inputs."""
    tensors = safetensors.torch.load(saved)
    if bytes(tensors["inputs"].tolist()) != inputs:
        return 0
    step = int(tensors["step"])
    with torch.no_grad():
        for i, parameter in enumerate(trainable):
            parameter.copy_(tensors[f"b.{i}"])
    state = {
        i: {"step": torch.tensor(float(step)), **{n: tensors[f"{n}.{i}"] for n in MOMENTS}}
        for i in range(len(trainable))
    }
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return step


def divergence(base_logits: Tensor, logits: Tensor) -> Tensor:
    """Mean KL(base || now) over positions, in nats; both [n, vocabulary]."""
    return torch.nn.functional.kl_div(
        logits.log_softmax(-1), base_logits.log_softmax(-1), log_target=True, reduction="batchmean"
    )


def _batches(count: int, size: int, draw: random.Random) -> Iterator[list[int]]:
    """Endless batches of indices: every index once before any comes again."""
    waiting: list[int] = []
    while True:
        while len(waiting) < min(size, count):
            waiting += draw.sample(range(count), count)
        yield [waiting.pop() for _ in range(min(size, count))]


@dataclass(frozen=True)
class _Reference:
    """The adapter-off logits of every row, by row."""

    logits: tuple[Tensor, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, rows: Sequence[Row], pad: int, size: int = 32) -> "_Reference":
        found: list[Tensor] = []
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            logits = completion_logits(model, some, pad)
            found += [part.clone() for part in logits.split([row.completion for row in some])]
        return cls(tuple(found))

    def rows(self, indices: Sequence[int]) -> Tensor:
        return torch.cat([self.logits[i] for i in indices])
