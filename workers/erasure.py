"""One erasure, phase by phase: locate, fix the protocol, train and save, release, load, verify.

Plain values in, plain values out; nothing here knows Django, Celery or the record. Every phase may
be run by itself (a Celery task does), and `erase` runs them all. The same inputs and seed give the
same adapter, byte for byte, on the same machine and library versions.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from workers.adapters import (
    ALPHA,
    OVERLAP,
    RANK,
    WEIGHTS_FILE,
    AdapterError,
    AdapterRef,
    adapter_files,
    adapter_weights,
    attach_adapter,
    capacity,
    detach_adapter,
    overlap,
    read_adapter,
    soft_penalty,
    store_files,
)
from workers.answers import greedy_answers, is_match
from workers.base_models import BaseModel
from workers.digests import sha256_of
from workers.encoders import encoder_for
from workers.forget_sets import (
    Located,
    answered,
    ask,
    forget_examples,
    locate,
    questions,
    twin_rows,
)
from workers.gate import GATE_FILE, Gate, fit_gate, gate_files, read_gate
from workers.guarded import GuardedModel
from workers.neighbourhoods import Earlier, Neighbourhood, Newcomer, neighbourhood
from workers.phrasings import made_up_questions
from workers.protocol import make_protocol
from workers.releases import Release, read_release, write_release
from workers.restrictions import Restrictions
from workers.rows import Example, rows_of
from workers.subjects import Subject
from workers.surrogates import gate_negatives, surrogate_questions
from workers.training import (
    Checkpoint,
    Material,
    Recipe,
    Report,
    ShouldStop,
    Stopped,
    load_method,
    method_settings,
    modifier_settings,
    opened,
    train,
)
from workers.verification import decimal, verify

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
    # On SmolLM2 the twin teacher leaves one question in twenty: what it says of a made-up title is
    # often the very author (`benchmarks.erase_smollm2`).
    return replace(
        Recipe(),
        method="bounded_nll",
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
    knobs |= {} if recipe.modifier is None else modifier_settings(recipe.modifier)
    knobs |= {"rank": RANK, "alpha": ALPHA}
    return {k: decimal(v) if isinstance(v, float) else str(v) for k, v in sorted(knobs.items())}


@dataclass(frozen=True)
class TrainedAdapter:
    """A stored adapter: where it lies, how it came about, and how far it leans on earlier ones.

    `overlap` is measured on the stored weights against the `apart` earlier adapters that it was to
    be orthogonal to; `neighbours` of them can act on the same prompts, of `capacity` that can be
    orthogonal to one another. `members` cases share the adapter, each with a gate of its own.
    """

    ref: AdapterRef
    folder: Path
    steps: int
    ended: str
    forget_loss: float
    keep_loss: float
    overlap: float
    neighbours: int = 0
    apart: int = 0
    capacity: int = 0
    members: int = 1


def orthogonality(trained: TrainedAdapter) -> dict[str, int]:
    """How the adapter stands to the earlier ones, in counts, for the record."""
    return {
        "neighbours": trained.neighbours,
        "orthogonal_to": trained.apart,
        "capacity": trained.capacity,
        "members": trained.members,
    }


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
    retained: Sequence[Example] = (),
    checkpoint: Checkpoint | None = None,
    report: Report = silent,
    should_stop: ShouldStop = never,
) -> TrainedAdapter:
    """Fit one case's gate, train its adapter, and store both under `adapters_root`.

    `earlier` are the adapters in force; they are only read. The new one is orthogonal to those
    that can act on the same prompts, and to the nearest others (workers.neighbourhoods).
    `retained` are other people's questions and answers, for methods that need them. Training goes
    on from what `checkpoint` holds. Reported are the losses of every step and, once it was
    measured, `told` (`share_told`). Raises AdapterError (no free directions, an earlier adapter
    missing or changed, nothing can be written), ValueError when the method needs data that is not
    there, and Stopped; nothing half-made stays behind.
    """
    (trained,) = train_cluster(
        base,
        {case_id: located},
        adapters_root=adapters_root,
        earlier=earlier,
        gate_key=gate_key,
        seed=seed,
        recipe=recipe,
        retained=retained,
        checkpoint=checkpoint,
        report=report,
        should_stop=should_stop,
    )
    return trained


@dataclass(frozen=True)
class _Member:
    """One case of those that an adapter is trained for. `level`: how often the base gives the same
    answers about made-up names, where unlearning has gone far enough."""

    case_id: str
    located: Located
    material: Material
    level: float
    newcomer: Newcomer


def train_cluster(
    base: BaseModel,
    members: Mapping[str, Located],
    *,
    adapters_root: Path,
    earlier: Sequence[AdapterRef],
    gate_key: bytes,
    seed: int,
    recipe: Recipe | None = None,
    retained: Sequence[Example] = (),
    checkpoint: Checkpoint | None = None,
    report: Report = silent,
    should_stop: ShouldStop = never,
) -> tuple[TrainedAdapter, ...]:
    """One adapter trained jointly for all `members` (case id to what was located), each behind a
    gate of its own: for a neighbourhood that has no room for one adapter a case.

    The results, in the order of `members`, name one adapter digest and as many gates; each case's
    folder holds the adapter's files, so that any may be taken away by itself. Adapters of the same
    cases in `earlier` are about to be replaced and are left out of account. Steps are for one case
    and multiplied by the number of members. Errors as in `train_and_save`.
    """
    knobs = recipe or recipe_for(base)
    knobs = replace(knobs, max_steps=knobs.max_steps * len(members))
    joined = [
        _member(
            base, case_id, located, recipe=knobs, gate_key=gate_key, seed=seed, retained=retained
        )
        for case_id, located in members.items()
    ]
    material = _material_of([member.material for member in joined])
    with opened(base, knobs, material.forget) as base:
        near = neighbourhood(
            [member.newcomer for member in joined],
            [
                Earlier(ref, read_gate(ref.folder(adapters_root), ref.gate_sha256)[0])
                for ref in earlier
                if ref.case_id not in members
            ],
            key=gate_key,
            capacity=capacity(base),
        )
        before = _kept_apart(near, adapters_root)
        told: dict[str, float] = {}
        torch.manual_seed(seed)
        model = attach_adapter(base, earlier=before, seed=seed)

        def forgotten() -> bool:
            shares = [share_told(base, model, member.located) for member in joined]
            told["told"] = max(shares)
            return all(share <= member.level for share, member in zip(shares, joined, strict=True))

        def report_step(phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
            report(phase, step, total, {**figures, **told})

        try:
            done = train(
                base,
                model,
                material,
                recipe=knobs,
                seed=seed,
                forgotten=forgotten,
                report=report_step,
                should_stop=should_stop,
                checkpoint=checkpoint,
                penalty=soft_penalty(model, before)
                if knobs.soft_orthogonality and before
                else None,
            )
            closing = {"forget_loss": done.forget_loss, "keep_loss": done.keep_loss}
            report_step("train", done.steps, done.steps, closing)
            files = adapter_files(model)
            leaning = overlap(adapter_weights(model), before)
        finally:
            detach_adapter(model)
    if leaning > OVERLAP and not knobs.soft_orthogonality:
        raise AdapterError(
            f"The new adapter leans on an earlier one (largest cosine {leaning:.2g}): nothing was "
            "stored. Repeat the run; if it happens again, this is an error of the program."
        )
    digests = {name: sha256_of(content) for name, content in files.items()}
    stored = []
    for member in joined:
        own = files | gate_files(member.newcomer.gate, digests)
        ref = AdapterRef(member.case_id, digests[WEIGHTS_FILE], sha256_of(own[GATE_FILE]))
        store_files(ref.folder(adapters_root), own)
        stored.append(
            TrainedAdapter(
                ref=ref,
                folder=ref.folder(adapters_root),
                steps=done.steps,
                ended=done.ended,
                forget_loss=done.forget_loss,
                keep_loss=done.keep_loss,
                overlap=leaning,
                neighbours=len(near.neighbours),
                apart=len(before),
                capacity=near.capacity,
                members=len(joined),
            )
        )
    return tuple(stored)


def _member(
    base: BaseModel,
    case_id: str,
    located: Located,
    *,
    recipe: Recipe,
    gate_key: bytes,
    seed: int,
    retained: Sequence[Example],
) -> _Member:
    """A case with its rows and its gate, which needs no adapter and is fitted first: its prototypes
    tell which earlier cases are neighbours."""
    asked = surrogates(located, count=recipe.surrogates, seed=seed)
    encoder = encoder_for(base)
    trained = tuple(question for question, _ in questions(located, "trained"))
    gate = gate_for(base, located, key=gate_key, seed=seed)
    return _Member(
        case_id=case_id,
        located=located,
        material=material_for(
            base, located, asked=asked, recipe=recipe, seed=seed, retained=retained
        ),
        level=never_knew(base, located, seed),
        newcomer=Newcomer(gate, trained, None if encoder is None else encoder.encode(trained)),
    )


def _material_of(parts: Sequence[Material]) -> Material:
    """The rows of all parts together; the retained ones, which all have in common, once."""
    return Material(
        forget=[row for part in parts for row in part.forget],
        keep=[row for part in parts for row in part.keep],
        twins=[rows for part in parts for rows in part.twins],
        instead=[row for part in parts for row in part.instead],
        retained=parts[0].retained,
    )


def _kept_apart(near: Neighbourhood, root: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of the adapters to be orthogonal to: every neighbour's, and of the others as many
    as leave the directions for one more."""
    found: list[dict[str, torch.Tensor]] = []
    rows = RANK
    for i, ref in enumerate(near.apart):
        weights = _weights_of(ref, root)
        rows += max(min(matrix.shape) for matrix in weights.values())
        if i >= len(near.neighbours) and rows > near.capacity * RANK:
            break
        found.append(weights)
    return found


def material_for(
    base: BaseModel,
    located: Located,
    *,
    asked: Sequence[str],
    recipe: Recipe,
    seed: int,
    retained: Sequence[Example] = (),
) -> Material:
    """The rows that the recipe's method needs; `asked` are the surrogate questions, which the base
    model answers itself. Raises ValueError when the method needs `retained` and there are none."""
    method = load_method(recipe.method)
    if "retained" in method.NEEDS and not retained:
        raise ValueError(
            f"The method {recipe.method!r} needs other people's training data: "
            "give it, or choose a method that needs none."
        )
    forget = forget_examples(located)
    draw = random.Random(seed)  # noqa: S311
    return Material(
        forget=rows_of(base, forget),
        keep=rows_of(base, answered(base, asked, [located])) if recipe.keep_weight else (),
        twins=(
            [twin_rows(base, located, each, count=recipe.twins, seed=seed) for each in forget]
            if "twins" in method.NEEDS
            else ()
        ),
        instead=(
            rows_of(base, [method.instead(each, draw) for each in forget])
            if "instead" in method.NEEDS
            else ()
        ),
        retained=rows_of(base, retained) if "retained" in method.NEEDS else (),
    )


def _weights_of(ref: AdapterRef, root: Path) -> dict[str, torch.Tensor]:
    folder = ref.folder(root)
    _, files = read_gate(folder, ref.gate_sha256)
    return read_adapter(folder, files).weights


def gate_for(base: BaseModel, located: Located, *, key: bytes, seed: int) -> Gate:
    """The gate of one case before the model `base`; nothing about it is trained."""
    names = [located.subject.name, *located.subject.aliases]
    secrets = [*names, *(fact.answer for fact in located.facts)]
    return fit_gate(
        names=names,
        key=key,
        encoder=encoder_for(base),
        forget=[question for question, _ in questions(located, "trained")],
        aside=[question for question, _ in questions(located, "aside")],
        others=gate_negatives(located.subject.name, secrets=secrets, seed=seed),
    )


def surrogates(located: Located, *, count: int, seed: int) -> tuple[str, ...]:
    subject = located.subject
    return surrogate_questions(
        subject.name,
        [fact.question for fact in located.facts],
        secrets=[subject.name, *subject.aliases, *(fact.answer for fact in located.facts)],
        count=count,
        seed=seed,
    )


def never_knew(base: BaseModel, located: Located, seed: int) -> float:
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


def share_told(base: BaseModel, model: Any, located: Located) -> float:
    """How much is still answered correctly with the adapter fully on: the share of the held-aside
    questions or, if that is larger, of the facts as they were first asked (a model may never have
    told them in other words, and still tells them so)."""
    kinds = [
        questions(located, "aside"),
        [(fact.phrasings.trained[0], fact.answer) for fact in located.facts],
    ]
    shares = []
    for pairs in kinds:
        prompts = [base.prompt(question) for question, _ in pairs]
        told = greedy_answers(model, base.tokenizer, prompts, base.answer_tokens, batch_size=64)
        shares.append(sum(map(is_match, told, [answer for _, answer in pairs])) / len(pairs))
    return max(shares)


def load_release(
    base: BaseModel,
    *,
    releases_root: Path,
    sha256: str,
    adapters_root: Path,
    gate_key: bytes,
    restrictions: Restrictions | None = None,
) -> GuardedModel:
    """The release named `sha256`, read back from disk and checked, ready to answer. Whatever serves
    gives `restrictions` (in `releases_root`); a measurement is made without them.

    Raises ReleaseError naming the file that is missing or differs.
    """
    release = read_release(releases_root, sha256)
    return GuardedModel(
        base, release, adapters_root=adapters_root, key=gate_key, restrictions=restrictions
    )


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
    profile: str = "fast",
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
            base,
            located,
            control=control,
            recipes=[recipe_record(knobs)],
            profile=profile,
            seed=seed,
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
    "orthogonality",
    "recipe_for",
    "recipe_record",
    "train_and_save",
    "train_cluster",
    "verify",
    "write_release",
]
