"""One erasure, phase by phase: locate, fix the protocol, train and save, release, load, verify.

Plain values in, plain values out; nothing here knows Django, Celery or the record. Every phase may
be run by itself (a Celery task does), and `erase` runs them all. The same inputs and seed give the
same adapter, byte for byte, on the same machine and library versions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from workers.adapters import (
    ALPHA,
    RANK,
    WEIGHTS_FILE,
    AdapterRef,
    adapter_files,
    adapter_weights,
    attach_adapter,
    detach_adapter,
    overlap,
    read_adapter,
    store_files,
)
from workers.answers import greedy_answers, is_match
from workers.base_models import BaseModel
from workers.digests import sha256_of
from workers.encoders import encoder_for
from workers.forget_sets import Located, ask, forget_examples, locate, questions
from workers.gate import GATE_FILE, fit_gate, gate_files, read_gate
from workers.guarded import GuardedModel
from workers.phrasings import made_up_questions
from workers.releases import Release, read_release, write_release
from workers.subjects import Subject
from workers.surrogates import surrogate_questions
from workers.training import (
    Checkpoint,
    Example,
    Recipe,
    Report,
    ShouldStop,
    Stopped,
    method_settings,
    rows_of,
    train,
)
from workers.verification import decimal, make_protocol, unseen_limit, verify

LARGE_VOCABULARY = 16_384


def silent(phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
    """A report that nobody reads."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


def recipe_for(base: BaseModel, *, attempt: int = 1) -> Recipe:
    """The training knobs for a model of this size. A second attempt trains half as long again, a
    third twice as long with twice the weight on what must stay. ValueError for any other."""
    first = _first_recipe(base)
    match attempt:
        case 1:
            return first
        case 2:
            share, weight = 1.5, 1.0
        case 3:
            share, weight = 2.0, 2.0
        case _:
            raise ValueError(f"There is no recipe for attempt {attempt}; there are 1, 2 and 3.")
    return replace(
        first,
        max_steps=int(first.max_steps * share),
        min_steps=int(first.min_steps * share),
        keep_weight=first.keep_weight * weight,
    )


def _first_recipe(base: BaseModel) -> Recipe:
    if len(base.tokenizer) < LARGE_VOCABULARY:
        return Recipe()
    return replace(
        Recipe(),
        learning_rate=2e-3,
        forget_rows=8,
        keep_rows=8,
        max_steps=48,
        check_every=8,
        min_steps=16,
        surrogates=48,
    )


def recipe_record(recipe: Recipe) -> dict[str, str]:
    """The recipe as decimal strings and texts, the method's own settings included."""
    knobs = {**asdict(recipe), **method_settings(recipe.method)}
    knobs |= {"rank": RANK, "alpha": ALPHA}
    return {k: decimal(v) if isinstance(v, float) else str(v) for k, v in sorted(knobs.items())}


@dataclass(frozen=True)
class TrainedAdapter:
    """A stored adapter: where it lies, how it came about, and how far it leans on earlier ones."""

    ref: AdapterRef
    folder: Path
    steps: int
    ended: str
    forget_loss: float
    keep_loss: float
    overlap: float


def train_and_save(
    base: BaseModel,
    located: Located,
    *,
    case_id: str,
    adapters_root: Path,
    earlier: Sequence[AdapterRef],
    gate_key: bytes,
    seed: int,
    recipe: Recipe | None = None,
    report: Report = silent,
    should_stop: ShouldStop = never,
    checkpoint: Checkpoint | None = None,
) -> TrainedAdapter:
    """Train one adapter for a case, fit its gate, and store both under `adapters_root`.

    `earlier` are the adapters that the new one must be orthogonal to; they are only read. Training
    goes on from what `checkpoint` holds. Reported are the losses of every step and, once it was
    measured, `told`: the share of held-aside questions that is still answered. Raises
    AdapterError (no free directions, an earlier adapter missing or changed, nothing can be
    written) and Stopped; nothing half-made stays behind.
    """
    knobs = recipe or recipe_for(base)
    before = [_weights_of(ref, adapters_root) for ref in earlier]
    asked = _surrogates(located, count=knobs.surrogates, seed=seed)
    forget = rows_of(base, forget_examples(located))
    keep = rows_of(base, [Example(q, a) for q, a in zip(asked, ask(base, asked), strict=True)])
    level = _never_knew(base, located, seed)
    told: dict[str, float] = {}
    torch.manual_seed(seed)
    model = attach_adapter(base, earlier=before, seed=seed)

    def forgotten() -> bool:
        told["told"] = _share_told(base, model, located)
        return told["told"] <= level

    def report_step(phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        report(phase, step, total, {**figures, **told})

    try:
        done = train(
            base,
            model,
            forget=forget,
            keep=keep,
            recipe=knobs,
            seed=seed,
            forgotten=forgotten,
            report=report_step,
            should_stop=should_stop,
            checkpoint=checkpoint,
        )
        closing = {"forget_loss": done.forget_loss, "keep_loss": done.keep_loss}
        report_step("train", done.steps, done.steps, closing)
        files = adapter_files(model)
        leaning = overlap(adapter_weights(model), before)
    finally:
        detach_adapter(model)
    digests = {name: sha256_of(content) for name, content in files.items()}
    gate = fit_gate(
        names=[located.subject.name, *located.subject.aliases],
        key=gate_key,
        encoder=encoder_for(base),
        forget=[question for question, _ in questions(located, "trained")],
        aside=[question for question, _ in questions(located, "aside")],
        others=asked,
    )
    files |= gate_files(gate, digests)
    ref = AdapterRef(case_id, digests[WEIGHTS_FILE], sha256_of(files[GATE_FILE]))
    store_files(ref.folder(adapters_root), files)
    return TrainedAdapter(
        ref=ref,
        folder=ref.folder(adapters_root),
        steps=done.steps,
        ended=done.ended,
        forget_loss=done.forget_loss,
        keep_loss=done.keep_loss,
        overlap=leaning,
    )


def _weights_of(ref: AdapterRef, root: Path) -> dict[str, torch.Tensor]:
    folder = ref.folder(root)
    _, files = read_gate(folder, ref.gate_sha256)
    return read_adapter(folder, files).weights


def _surrogates(located: Located, *, count: int, seed: int) -> tuple[str, ...]:
    subject = located.subject
    return surrogate_questions(
        subject.name,
        [fact.question for fact in located.facts],
        secrets=[subject.name, *subject.aliases, *(fact.answer for fact in located.facts)],
        count=count,
        seed=seed,
    )


def _never_knew(base: BaseModel, located: Located, seed: int) -> float:
    """How often the base gives the very answers when asked the held-aside questions about made-up
    names: where unlearning has gone far enough."""
    names = [located.subject.name, *located.subject.aliases]
    twins = [
        (twin, answer)
        for question, answer in questions(located, "aside")
        for twin in made_up_questions(question, names=names, count=1, seed=seed)
    ]
    if not twins:
        return 0.0
    told = ask(base, [question for question, _ in twins])
    return sum(map(is_match, told, [answer for _, answer in twins])) / len(twins)


def _share_told(base: BaseModel, model: Any, located: Located) -> float:
    """Share of the held-aside questions answered correctly with the adapter fully on."""
    pairs = questions(located, "aside")
    prompts = [base.prompt(question) for question, _ in pairs]
    told = greedy_answers(model, base.tokenizer, prompts, base.answer_tokens, batch_size=64)
    return sum(map(is_match, told, [answer for _, answer in pairs])) / len(pairs)


def load_release(
    base: BaseModel, *, releases_root: Path, sha256: str, adapters_root: Path, gate_key: bytes
) -> GuardedModel:
    """The release named `sha256`, read back from disk and checked, ready to answer.

    Raises ReleaseError naming the file that is missing or differs.
    """
    release = read_release(releases_root, sha256)
    return GuardedModel(base, release, adapters_root=adapters_root, key=gate_key)


@dataclass
class Stopwatch:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    def measure(self, phase: str, work: Callable[[], Any]) -> Any:
        """What `work` returns; the time that it took is added to `phase`."""
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Erasure:
    """All that one erasure brought about: adapter, release, protocol, figures, seconds."""

    trained: TrainedAdapter
    release: Release
    protocol: dict[str, Any]
    figures: dict[str, Any]
    seconds: dict[str, float]


def erase(
    base: BaseModel,
    subject: Subject,
    *,
    case_id: str,
    root: Path,
    gate_key: bytes,
    seed: int,
    control: BaseModel | None = None,
    earlier: Sequence[AdapterRef] = (),
    recipe: Recipe | None = None,
    report: Report = silent,
    should_stop: ShouldStop = never,
) -> Erasure:
    """Every phase in order, under `root`/adapters and `root`/releases. Errors as in the phases."""
    clock = Stopwatch()
    knobs = recipe or recipe_for(base)
    located: Located = clock.measure(
        "locate",
        lambda: locate(
            base,
            subject,
            report=lambda done, total: report("locate", done, total, {}),
            should_stop=should_stop,
        ),
    )
    protocol: dict[str, Any] = clock.measure(
        "locate",
        lambda: make_protocol(
            base, located, control=control, recipes=[recipe_record(knobs)], seed=seed
        ),
    )
    trained: TrainedAdapter = clock.measure(
        "train",
        lambda: train_and_save(
            base,
            located,
            case_id=case_id,
            adapters_root=root / "adapters",
            earlier=earlier,
            gate_key=gate_key,
            seed=seed,
            recipe=knobs,
            report=report,
            should_stop=should_stop,
        ),
    )
    release = write_release(root / "releases", base=base, adapters=[*earlier, trained.ref])

    def served() -> dict[str, Any]:
        with load_release(
            base,
            releases_root=root / "releases",
            sha256=release.sha256,
            adapters_root=root / "adapters",
            gate_key=gate_key,
        ) as guarded:
            return verify(
                guarded,
                located,
                protocol,
                control=control,
                case_id=case_id,
                report=lambda _, step, total: report("verify", step, total, {}),
                should_stop=should_stop,
            )

    figures: dict[str, Any] = clock.measure("verify", served)
    figures = {**figures, "discovery": located.record()}
    return Erasure(trained, release, protocol, figures, clock.seconds)


__all__ = [
    "AdapterRef",
    "Erasure",
    "Recipe",
    "Stopped",
    "TrainedAdapter",
    "erase",
    "load_release",
    "locate",
    "make_protocol",
    "recipe_for",
    "recipe_record",
    "train_and_save",
    "unseen_limit",
    "verify",
    "write_release",
]
