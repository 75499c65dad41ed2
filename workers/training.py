"""Training one adapter: unlearn what gives the facts away, hold everything else where it was.

The reference is the same model with the adapter off. What does not change while an adapter is
trained is computed once: the states below the adapters (workers.upper) and the reference's logits,
both for completion positions only. Each step runs the adapted layers once, for all its rows.
"""

import hashlib
import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from peft import PeftModel
from torch import Tensor

from workers import methods, modifiers
from workers.base_models import BaseModel
from workers.methods import Batch, Completions, divergence
from workers.modifiers import Given
from workers.rows import Row, completion_labels, completion_places
from workers.upper import Cut, cut, padded

Report = Callable[[str, int, int, Mapping[str, float]], None]
ShouldStop = Callable[[], bool]


class Stopped(RuntimeError):
    """The caller asked for the work to stop; nothing was left behind."""


@dataclass(frozen=True)
class Recipe:
    """Knobs of the training loop; all of them are recorded with the evidence."""

    method: str = "twin"
    learning_rate: float = 5e-3
    keep_weight: float = 1.0
    forget_rows: int = 32
    keep_rows: int = 32
    max_steps: int = 120
    check_every: int = 10
    min_steps: int = 40
    surrogates: int = 192
    twins: int = 8
    save_every: int = 20
    reinforce_steps: int = 20
    soft_orthogonality: float = 0.0
    """0: A stays frozen in its free directions (exact). Above 0: the weight of a penalty on the
    overlap with earlier adapters, while A is trained too (O3 takes 0.1)."""
    modifier: str | None = None
    """What narrows the method (workers.modifiers)."""


def method_names() -> tuple[str, ...]:
    """The methods there are: the files of the folder."""
    return _files_of(methods)


def modifier_names() -> tuple[str, ...]:
    """The modifiers there are: the files of the folder."""
    return _files_of(modifiers)


def _files_of(package: ModuleType) -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__)))


def load_method(name: str) -> ModuleType:
    """The method called `name`. Raises ValueError listing the known ones."""
    if name not in method_names():
        raise ValueError(f"There is no method {name!r}; known: {', '.join(method_names())}.")
    return importlib.import_module(f"workers.methods.{name}")


def load_modifier(name: str) -> ModuleType:
    """The modifier called `name`. Raises ValueError listing the known ones."""
    if name not in modifier_names():
        raise ValueError(f"There is no modifier {name!r}; known: {', '.join(modifier_names())}.")
    return importlib.import_module(f"workers.modifiers.{name}")


@contextmanager
def opened(base: BaseModel, recipe: Recipe, rows: Sequence[Row]) -> Iterator[BaseModel]:
    """The base model as the recipe's modifier needs it before an adapter is attached; `rows` are
    the forget set's. Raises ModelError for a model that the modifier does not suit."""
    modifier = None if recipe.modifier is None else load_modifier(recipe.modifier)
    if modifier is None or not hasattr(modifier, "opened"):
        yield base
        return
    with modifier.opened(base, rows) as ready:
        yield ready


def trained_method(name: str) -> ModuleType:
    """The method called `name`, if it is one that an adapter is trained on. Raises ValueError."""
    method = load_method(name)
    if not hasattr(method, "loss"):
        raise ValueError(
            f"The method {name!r} acts while text is generated and trains no adapter: choose one "
            "with a loss."
        )
    return method


def method_settings(name: str) -> dict[str, Any]:
    """The keyword defaults of the method's loss, for the record. Raises ValueError."""
    return _keyword_defaults(trained_method(name).loss)


def modifier_settings(name: str) -> dict[str, Any]:
    """The keyword defaults of the modifier's masks, for the record. Raises ValueError."""
    return {f"{name}_{k}": v for k, v in _keyword_defaults(load_modifier(name).masks).items()}


def _keyword_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Material:
    """Rows for one adapter: the forget set, and what the method needs beside it (methods.DATA).

    `twins` holds for each forget row some rows with the same completion after the same question
    about a made-up name; `instead` one row for each forget row.
    """

    forget: Sequence[Row]
    keep: Sequence[Row] = ()
    twins: Sequence[Sequence[Row]] = ()
    instead: Sequence[Row] = ()
    retained: Sequence[Row] = ()


@dataclass(frozen=True)
class Checkpoint:
    """Where a training that was cut off finds its last saved step; the bytes are safetensors.

    They are personal data, as the adapter is: whoever stores them encrypts and deletes them.
    """

    load: Callable[[], bytes | None]
    save: Callable[[bytes], None]


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
    material: Material,
    *,
    recipe: Recipe,
    seed: int,
    forgotten: Callable[[], bool],
    report: Report,
    should_stop: ShouldStop,
    checkpoint: Checkpoint | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> Trained:
    """Train the adapter's B matrices until `forgotten()` says so, or for `recipe.max_steps`.

    Every `recipe.check_every` steps from `recipe.min_steps` on, and after the last one, `forgotten`
    is asked, with the adapter on. Every step is reported. With a `checkpoint` the state is saved
    every `recipe.save_every` steps; a state of the very same inputs found there is gone on from,
    and the adapter is the same to the bit. A `penalty` is added with the weight
    `recipe.soft_orthogonality`, and A is trained with B. Raises Stopped when `should_stop()` is
    true, ValueError when rows that the method needs are missing or it has no loss.
    """
    method = trained_method(recipe.method)
    table = _Table.of(base, model, material)
    if "reinforced" in method.NEEDS:
        table = _reinforced(table, model, recipe, seed)
    trainable = own = b_matrices(model)
    if penalty is not None:
        trainable = own | _a_matrices(model)
    optimiser = torch.optim.AdamW(list(trainable.values()), lr=recipe.learning_rate, weight_decay=0)
    draws = _Draws.of(material, recipe, seed)
    masks = _masks(table, model, trainable, material, recipe, seed)
    inputs = _inputs_digest(model, recipe, seed, material)
    done = 0 if checkpoint is None else _restored(checkpoint, trainable, optimiser, inputs)
    if done:
        report("train", done, recipe.max_steps, {"resumed_at_step": float(done)})
    for _ in range(done):
        draws.next()
    ended, figures = "max_steps", {"forget_loss": 0.0, "keep_loss": 0.0}
    with _anchored(model, recipe) as anchor:
        for step in range(done + 1, recipe.max_steps + 1):
            if should_stop():
                raise Stopped("The run was stopped during training.")
            drawn = draws.next()
            batch = table.batch(drawn)
            lost = method.loss(batch)
            total, moved = lost, torch.zeros(())
            if batch.keep is not None:
                moved = divergence(batch.keep.base_logits, batch.keep.logits).mean()
                total = lost + recipe.keep_weight * moved
            if penalty is not None:
                total = total + recipe.soft_orthogonality * penalty()
            if anchor is not None:
                total = total + anchor(len(drawn.forget), table.rows_of(drawn))
            optimiser.zero_grad()
            total.backward()
            for name, mask in masks.items():
                trainable[name].grad.mul_(mask)  # type: ignore[union-attr]
            torch.nn.utils.clip_grad_norm_(list(trainable.values()), 1.0)
            optimiser.step()
            figures = {"forget_loss": float(lost.detach()), "keep_loss": float(moved.detach())}
            report("train", step, recipe.max_steps, {"loss": float(total.detach()), **figures})
            if checkpoint is not None and step % recipe.save_every == 0:
                checkpoint.save(_state(trainable, optimiser, step, inputs))
            is_check = step % recipe.check_every == 0 or step == recipe.max_steps
            if is_check and step >= recipe.min_steps and forgotten():
                ended = "forgotten"
                break
    if hasattr(method, "finish"):
        method.finish(own)
    return Trained(step, ended, figures["forget_loss"], figures["keep_loss"])


def _masks(
    table: "_Table",
    model: PeftModel,
    trained: Mapping[str, torch.nn.Parameter],
    material: Material,
    recipe: Recipe,
    seed: int,
) -> Mapping[str, Tensor]:
    """Which entries of the trained matrices may move, where the recipe's modifier limits it."""
    if recipe.modifier is None:
        return {}
    draws = _Draws.of(material, recipe, seed)

    def losses() -> tuple[Tensor, Tensor | None]:
        batch = table.batch(draws.next())
        return batch.forget.nll.mean(), None if batch.keep is None else batch.keep.nll.mean()

    found: Mapping[str, Tensor] = load_modifier(recipe.modifier).masks(
        Given(model, trained, losses, seed)
    )
    return found


@contextmanager
def _anchored(model: PeftModel, recipe: Recipe) -> Iterator[Callable[[int, int], Tensor] | None]:
    """The loss that the recipe's modifier adds, as a function of the numbers of forget rows and of
    all rows of the last pass."""
    modifier = None if recipe.modifier is None else load_modifier(recipe.modifier)
    if modifier is None or not hasattr(modifier, "anchored"):
        yield None
        return
    with modifier.anchored(model) as anchor:
        yield anchor


def b_matrices(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The B matrices by name, made the only trainable ones (PEFT re-enables all of an adapter's
    weights whenever it is switched on again)."""
    found = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_B." in name)
        if parameter.requires_grad:
            found[name] = parameter
    return found


def _a_matrices(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The A matrices by name, made trainable."""
    found = {name: p for name, p in model.named_parameters() if ".lora_A." in name}
    for parameter in found.values():
        parameter.requires_grad_(True)
    return found


def _inputs_digest(model: PeftModel, recipe: Recipe, seed: int, material: Material) -> bytes:
    """SHA-256 of all that the training of one adapter depends on beside the base model."""
    rows = [[tuple(rows) for rows in (material.forget, material.keep, material.instead)]]
    rows += [[tuple(each) for each in material.twins], [tuple(material.retained)]]
    found = hashlib.sha256(repr((recipe, seed, rows)).encode())
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            found.update(parameter.detach().float().cpu().numpy().tobytes())
    return found.digest()


MOMENTS = ("exp_avg", "exp_avg_sq")


def _state(
    trainable: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, step: int, inputs: bytes
) -> bytes:
    """Step, trained matrices and moments as safetensors."""
    tensors = {"step": torch.tensor(step), "inputs": torch.tensor(list(inputs), dtype=torch.uint8)}
    for name, parameter in trainable.items():
        tensors[f"b {name}"] = parameter.detach()
        tensors |= {f"{key} {name}": optimiser.state[parameter][key] for key in MOMENTS}
    return safetensors.torch.save({name: each.contiguous() for name, each in tensors.items()})


def _restored(
    checkpoint: Checkpoint,
    trainable: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    inputs: bytes,
) -> int:
    """Put a saved state back; the number of steps that were done, 0 if it is of other inputs."""
    saved = checkpoint.load()
    if saved is None:
        return 0
    tensors = safetensors.torch.load(saved)
    if bytes(tensors["inputs"].tolist()) != inputs:
        return 0
    step = int(tensors["step"])
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(tensors[f"b {name}"])
    state = {
        i: {"step": torch.tensor(float(step)), **{key: tensors[f"{key} {name}"] for key in MOMENTS}}
        for i, name in enumerate(trainable)
    }
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    return step


@dataclass(frozen=True)
class _Drawn:
    """The rows of one step by their numbers; `forget` serves for `instead` as well."""

    forget: list[int]
    keep: list[int]
    retained: list[int]


@dataclass(frozen=True)
class _Draws:
    """Endless batches, the same for the same seed."""

    forget: Iterator[list[int]]
    keep: Iterator[list[int]]
    retained: Iterator[list[int]]

    @classmethod
    def of(cls, material: Material, recipe: Recipe, seed: int) -> "_Draws":
        sizes = (
            (len(material.forget), recipe.forget_rows),
            (len(material.keep) if recipe.keep_weight else 0, recipe.keep_rows),
            (len(material.retained), recipe.keep_rows),
        )
        return cls(
            *(
                _batches(count, size, random.Random(seed + i))  # noqa: S311
                for i, (count, size) in enumerate(sizes)
            )
        )

    def next(self) -> _Drawn:
        return _Drawn(next(self.forget), next(self.keep), next(self.retained))


def _batches(count: int, size: int, draw: random.Random) -> Iterator[list[int]]:
    """Endless batches of indices: every index once before any comes again."""
    waiting: list[int] = []
    while True:
        while len(waiting) < min(size, count):
            waiting += draw.sample(range(count), count)
        yield [waiting.pop() for _ in range(min(size, count))]


@dataclass(frozen=True)
class _Stored:
    """A row with all that stays the same while the adapter is trained; n completion tokens."""

    row: Row
    below: Tensor
    base_logits: Tensor
    base_states: Tensor | None
    twin_logits: Tensor | None = None
    reinforced_logits: Tensor | None = None


@dataclass(frozen=True)
class _Table:
    """Every row of the material, stored; `batch` runs the adapted layers over some of them."""

    parts: Cut
    pad: int
    forget: list[_Stored]
    instead: list[_Stored]
    keep: list[_Stored]
    retained: list[_Stored]

    @classmethod
    @torch.no_grad()
    def of(cls, base: BaseModel, model: PeftModel, material: Material) -> "_Table":
        parts, pad = cut(base.model, base.lowest_layer), int(base.tokenizer.pad_token_id)
        with model.disable_adapter():
            forget = _store(parts, material.forget, pad)
            twins = iter(_store(parts, [r for rows in material.twins for r in rows], pad))
            for i, rows in enumerate(material.twins):
                like = [next(twins).base_logits.log_softmax(-1) for _ in rows]
                logits = _mean_of(like) if like else _without_answer(forget[i])
                forget[i] = replace(forget[i], twin_logits=logits)
            others = (material.instead, material.keep, material.retained)
            return cls(parts, pad, forget, *(_store(parts, rows, pad) for rows in others))

    def _groups(self, drawn: _Drawn) -> list[list[_Stored]]:
        return [
            [self.forget[i] for i in drawn.forget],
            [self.instead[i] for i in drawn.forget] if self.instead else [],
            [self.keep[i] for i in drawn.keep],
            [self.retained[i] for i in drawn.retained],
        ]

    def rows_of(self, drawn: _Drawn) -> int:
        """How many rows `batch` passes, the forget rows first."""
        return sum(map(len, self._groups(drawn)))

    def batch(self, drawn: _Drawn) -> Batch:
        """The drawn rows, with the adapter on, in one pass."""
        groups = self._groups(drawn)
        logits, states = _run(self.parts, [each for group in groups for each in group], self.pad)
        found: list[Completions | None] = []
        start = 0
        for group in groups:
            end = start + sum(each.row.completion for each in group)
            here = slice(start, end)
            found.append(
                _completions(group, logits[here], None if states is None else states[here])
                if group
                else None
            )
            start = end
        forget, instead, keep, retained = found
        if forget is None:
            raise ValueError("There is nothing to forget: the forget set has no rows.")
        return Batch(forget, instead, keep, retained)


def _mean_of(log_probabilities: Sequence[Tensor]) -> Tensor:
    """The mean distribution, as logits."""
    return torch.stack(list(log_probabilities)).logsumexp(dim=0)


def _without_answer(stored: _Stored) -> Tensor:
    """For a question that names nothing that could be replaced: the base model's own logits, the
    answer's tokens as unlikely as the unlikeliest."""
    logits = stored.base_logits
    labels = completion_labels([stored.row]).to(logits.device)
    answer = torch.tensor(stored.row.answer, device=logits.device)
    lowest = logits.min(dim=1, keepdim=True).values
    return torch.where(answer[:, None], logits.scatter(1, labels[:, None], lowest), logits)


@torch.no_grad()
def _store(parts: Cut, rows: Sequence[Row], pad: int, size: int = 32) -> list[_Stored]:
    found: list[_Stored] = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        batch = padded([row.ids for row in some], pad)
        below = parts.stored(batch)
        logits, states = parts.forward(below, batch, completion_places(some))
        sizes = [row.completion for row in some]
        halfway: Sequence[Tensor | None] = (
            [None] * len(some) if states is None else [s.clone() for s in states.split(sizes)]
        )
        found += [
            _Stored(row, below[i, -len(row.ids) :].clone(), own.clone(), state)
            for i, (row, own, state) in enumerate(
                zip(some, logits.split(sizes), halfway, strict=True)
            )
        ]
    return found


def _run(parts: Cut, stored: Sequence[_Stored], pad: int) -> tuple[Tensor, Tensor | None]:
    """Logits and middle states at the completion positions of all rows, in one pass."""
    rows = [each.row for each in stored]
    batch = padded([row.ids for row in rows], pad)
    width = batch.ids.shape[1]
    below = torch.stack(
        [
            torch.cat(
                [each.below.new_zeros(width - len(each.below), *each.below.shape[1:]), each.below]
            )
            for each in stored
        ]
    )
    if parts.is_whole:
        below = batch.ids.to(parts.whole.device)
    return parts.forward(below, batch, completion_places(rows))


def _completions(stored: Sequence[_Stored], logits: Tensor, states: Tensor | None) -> Completions:
    def joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [each for each in tensors if each is not None]
        return torch.cat(present) if len(present) == len(stored) else None

    rows, device = [each.row for each in stored], logits.device
    return Completions(
        logits=logits,
        base_logits=torch.cat([each.base_logits for each in stored]),
        labels=completion_labels(rows).to(device),
        is_answer=torch.tensor([mark for row in rows for mark in row.answer], device=device),
        row=torch.repeat_interleave(torch.tensor([row.completion for row in rows])).to(device),
        states=states,
        base_states=joined([each.base_states for each in stored]),
        twin_logits=joined([each.twin_logits for each in stored]),
        reinforced_logits=joined([each.reinforced_logits for each in stored]),
    )


def _reinforced(table: _Table, model: PeftModel, recipe: Recipe, seed: int) -> _Table:
    """The table with the logits of a model that was taught the forget set once more; the adapter
    that taught it is zero again afterwards."""
    trainable = b_matrices(model)
    optimiser = torch.optim.AdamW(list(trainable.values()), lr=recipe.learning_rate, weight_decay=0)
    draws = _batches(len(table.forget), recipe.forget_rows, random.Random(seed))  # noqa: S311
    for _ in range(recipe.reinforce_steps):
        loss = table.batch(_Drawn(next(draws), [], [])).forget.nll.mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(trainable.values()), 1.0)
        optimiser.step()
    taught: list[_Stored] = []
    with torch.no_grad():
        for start in range(0, len(table.forget), 32):
            some = table.forget[start : start + 32]
            logits, _ = _run(table.parts, some, table.pad)
            parts = logits.split([each.row.completion for each in some])
            taught += [
                replace(each, reinforced_logits=own.clone())
                for each, own in zip(some, parts, strict=True)
            ]
        for parameter in trainable.values():
            parameter.zero_()
    return replace(table, forget=taught)
