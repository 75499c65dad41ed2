"""Consolidation: many adapters into new weights (level *merged*), or into one cluster adapter.

Plain values in, plain values out. `plan` locates what the base knows and fixes every protocol.

`consolidate` trains jointly, stores the new weights, reads them back and verifies each case on
them. A case that does not hold there stays individual: its adapter, byte for byte the same, with a
gate made for the new weights, verified on the release that would be served. If one does not hold
either way, nothing is released and nothing stays behind.

`cluster` trains one adapter for several cases, each behind a gate of its own: they stay gated, and
their neighbourhood has room again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from workers import corpus
from workers.adapters import CONFIG_FILE, WEIGHTS_FILE, AdapterRef, checked_bytes, store_files
from workers.base_models import BaseModel
from workers.digests import canonical_json, sha256_of
from workers.erasure import gate_for, never, recipe_for, recipe_record, silent, train_cluster
from workers.forget_sets import Located, NothingMeasurable, locate
from workers.gate import GATE_FILE, gate_files, read_gate
from workers.guarded import GuardedModel
from workers.identifiers import normalised
from workers.joint_training import JointRecipe, joint_deltas, joint_record
from workers.protocol import make_protocol
from workers.releases import Release, read_release, write_release
from workers.subjects import Fact, Subject
from workers.training import Recipe, Report, ShouldStop
from workers.verification import WITHIN, verify
from workers.weights import discard, load_weights, store_weights

REGISTERED, SURROGATES = "registered", "surrogates"
MAX_BYTES = 1_000_000_000
HELD_OUT = 10


class ConsolidationError(RuntimeError):
    """Nothing was consolidated; the message says why, naming cases by their ids alone."""


@dataclass(frozen=True)
class GatedCase:
    """A case in force: its adapter, and the person's data, which training and tests need."""

    ref: AdapterRef
    subject: Subject = field(repr=False)


@dataclass(frozen=True)
class Retrained:
    """Nothing is trained here: the weights of this SHA-256 were, without the persons' data."""

    weights: str


@dataclass(frozen=True)
class Plan:
    """What is fixed before training. `protocols` by case id; `retained` are the rows of training
    data that hold the others in place, () where the base's own answers must do."""

    cases: tuple[GatedCase, ...]
    located: Mapping[str, Located] = field(repr=False)
    protocols: Mapping[str, Mapping[str, Any]]
    retained: tuple[Fact | str, ...] = field(repr=False)
    dropped: int
    recipe: JointRecipe | Recipe | Retrained
    seed: int

    def record(self) -> dict[str, Any]:
        """The plan as it is logged: protocols, recipe, and which data was used; no texts."""
        rows = [
            [row.question, row.answer] if isinstance(row, Fact) else [row] for row in self.retained
        ]
        return {
            "protocols": dict(self.protocols),
            "recipe": _record_of(self.recipe),
            "seed": self.seed,
            "retained": {
                "kind": REGISTERED if rows else SURROGATES,
                "rows": len(rows),
                "dropped": self.dropped,
                "sha256": sha256_of(canonical_json(rows)) if rows else "",
            },
        }


def _record_of(recipe: JointRecipe | Recipe | Retrained) -> dict[str, str]:
    match recipe:
        case Retrained():
            return asdict(recipe)
        case Recipe():
            return recipe_record(recipe)
    return joint_record(recipe)


@dataclass(frozen=True)
class Consolidation:
    """A release on new weights, or with a cluster adapter on the old ones; `figures` by case id.
    `merged` cases are in the weights, `individual` ones behind an adapter. `made` are the new
    folders and files."""

    base: BaseModel
    release: Release
    merged: tuple[str, ...]
    individual: tuple[AdapterRef, ...]
    figures: Mapping[str, Mapping[str, Any]]
    made: tuple[Path, ...]

    def abandon(self) -> None:
        """Remove what was made: it is not going to be in force."""
        for each in self.made:
            discard(each)


def read_retained(path: Path) -> tuple[Fact | str, ...]:
    """Training data that the controller still holds: {"question", "answer"} or {"text"} a line.

    Raises ConsolidationError naming the line, never its content.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConsolidationError(f"{path} is larger than {MAX_BYTES} bytes: take a sample.")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConsolidationError(
            f"{path} cannot be read ({error.strerror}): give a file of JSON lines."
        ) from error
    except UnicodeDecodeError as error:
        raise ConsolidationError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    found = [_row(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ConsolidationError(f"{path} holds no rows: leave it away to use surrogates.")
    return tuple(found)


def _row(line: str, place: str) -> Fact | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    match row:
        case {"question": str(question), "answer": str(answer), **rest} if (
            not rest and question.strip() and answer.strip()
        ):
            return Fact(question, answer)
        case {"text": str(text), **rest} if not rest and text.strip():
            return text
    raise ConsolidationError(
        f'{place} must be {{"question": "...", "answer": "..."}} or {{"text": "..."}}.'
    ) from None


def registered_data(base: BaseModel) -> tuple[Fact | str, ...]:
    """The training data that the project itself holds: for the demo model its corpus, else none."""
    if base.name != "demo":
        return ()
    told = [
        Fact(question, fact.answer)
        for person in corpus.people()
        for fact in person.facts
        for question in fact.trained
    ]
    told += [Fact(question, answer) for question, answer in corpus.general_questions()]
    return (*told, *corpus.general_sentences(len(told) // 2, seed=corpus.SEED))


def without_mentions(rows: Sequence[Fact | str], names: Sequence[str]) -> tuple[Fact | str, ...]:
    """The rows in which none of `names` stands: nobody may be taught again who is to be erased."""
    hidden = [f" {normalised(name)} " for name in names]

    def mentions(row: Fact | str) -> bool:
        text = row if isinstance(row, str) else f"{row.question} {row.answer}"
        return any(each in f" {normalised(text)} " for each in hidden)

    return tuple(row for row in rows if not mentions(row))


def plan(
    base: BaseModel,
    cases: Sequence[GatedCase],
    *,
    retained: Sequence[Fact | str],
    control: BaseModel | None,
    recipe: JointRecipe | Retrained | None = None,
    level: str = "merged",
    seed: int,
    report: Report = silent,
    should_stop: ShouldStop = never,
) -> Plan:
    """Locate what `base` knows of every case, and fix a protocol for each.

    For the levels "merged" and "exact", `cases` must be all cases in force on `base`: whoever were
    left out would not be verified, and rows about them would teach them anew. For "gated", which
    is one cluster adapter, they may be any of them, and each is trained by the usual recipe. On
    models without a corpus of their own every tenth retained question is held out and asked about
    "others". Raises ConsolidationError and Stopped.
    """
    if not cases:
        raise ConsolidationError("No case is in force: there is nothing to consolidate.")
    knobs = recipe_for(base) if level == "gated" else recipe or JointRecipe()
    names = [name for case in cases for name in (case.subject.name, *case.subject.aliases)]
    rows = without_mentions(retained, names)
    told = [row for row in rows if isinstance(row, Fact)]
    held_out = () if base.name == "demo" else tuple(told[::HELD_OUT])
    located = {}
    for done, case in enumerate(cases):
        subject = case.subject
        if held_out and not subject.neighbours:
            subject = replace(subject, neighbours=held_out)
        try:
            located[case.ref.case_id] = locate(base, subject, should_stop=should_stop)
        except NothingMeasurable:
            raise ConsolidationError(
                f"The weights tell nothing of case {case.ref.case_id} that could be measured: "
                "check the facts that are given for it."
            ) from None
        report("locate", done + 1, len(cases), {})
    protocols = {
        case_id: make_protocol(
            base, each, control=control, recipes=[_record_of(knobs)], level=level, seed=seed
        )
        for case_id, each in located.items()
    }
    return Plan(
        cases=tuple(cases),
        located=located,
        protocols=protocols,
        retained=tuple(row for row in rows if row not in set(held_out)),
        dropped=len(retained) - len(rows),
        recipe=knobs,
        seed=seed,
    )


def consolidate(
    base: BaseModel,
    fixed: Plan,
    *,
    root: Path,
    adapters_root: Path,
    gate_key: bytes,
    control: BaseModel | None,
    parent: str | None = None,
    report: Report = silent,
    should_stop: ShouldStop = never,
) -> Consolidation:
    """Train, store, verify by `fixed`, and write the release under `root`.

    `base` are the weights in service, whose quarantine is the caller's. Raises ConsolidationError
    when no case or not every case holds, Stopped, and the errors of the stores; nothing new is then
    left under `root` or `adapters_root`.
    """
    if isinstance(fixed.recipe, Recipe | Retrained):
        raise ValueError("this plan is not for consolidated weights")
    deltas = joint_deltas(
        base,
        list(fixed.located.values()),
        retained=fixed.retained,
        recipe=fixed.recipe,
        seed=fixed.seed,
        report=report,
        should_stop=should_stop,
    )
    folder = store_weights(base, deltas, root)
    made = [folder]
    try:
        after = load_weights(root, folder.name)
        before = GuardedModel.without_adapters(base)

        def measure(served: GuardedModel) -> dict[str, dict[str, Any]]:
            return measured(served, fixed, control, before, report, should_stop)

        everyone = [case.ref.case_id for case in fixed.cases]
        bare = replace(GuardedModel.without_adapters(after).release, merged=tuple(everyone))
        figures = measure(served_by(after, bare, adapters_root, gate_key))
        merged = [case_id for case_id in everyone if figures[case_id]["verdict"] == WITHIN]
        staying = [case for case in fixed.cases if case.ref.case_id not in merged]
        if not merged:
            raise ConsolidationError(
                f"None of the {len(everyone)} cases holds in the new weights ({why(figures)}): "
                "they stay gated. " + _hint(fixed)
            )
        individual = []
        for case in staying:
            ref, new = _regate(case, after, fixed, adapters_root=adapters_root, key=gate_key)
            individual.append(ref)
            made += [ref.folder(adapters_root)] if new else []
        release = write_release(root, base=after, adapters=individual, parent=parent, merged=merged)
        made.append(root / f"{release.sha256}.json")
        if individual:
            # Every case again: what is released is weights, adapters and gates together.
            stored = read_release(root, release.sha256)
            with served_by(after, stored, adapters_root, gate_key) as served:
                figures = measure(served)
        short = [case_id for case_id in everyone if figures[case_id]["verdict"] != WITHIN]
        if short:
            raise ConsolidationError(
                f"{len(short)} of {len(everyone)} cases hold neither in the new weights nor with "
                f"their adapter on them ({why(figures)}): {', '.join(short)}. Nothing was "
                "released. " + _hint(fixed)
            )
    except BaseException:  # whatever it was: nothing half-made stays behind
        for each in made:
            discard(each)
        raise
    return Consolidation(
        base=after,
        release=release,
        merged=tuple(merged),
        individual=tuple(individual),
        figures=figures,
        made=tuple(made),
    )


def cluster(
    base: BaseModel,
    fixed: Plan,
    *,
    in_force: Sequence[AdapterRef],
    merged: Sequence[str] = (),
    root: Path,
    adapters_root: Path,
    gate_key: bytes,
    control: BaseModel | None,
    parent: str | None = None,
    report: Report = silent,
    should_stop: ShouldStop = never,
) -> Consolidation:
    """One adapter for all cases of the plan in the place of theirs, verified on the release that
    would be served; the other adapters of `in_force` stay as they are.

    Raises ConsolidationError when not every case holds, Stopped, and the errors of the stores;
    nothing new is then left under `root` or `adapters_root`.
    """
    if len(fixed.cases) < 2:
        raise ConsolidationError("A cluster has at least two cases: name more of them.")
    if not isinstance(fixed.recipe, Recipe):
        raise ValueError("this plan is for new weights")
    trained = train_cluster(
        base,
        fixed.located,
        adapters_root=adapters_root,
        earlier=in_force,
        gate_key=gate_key,
        seed=fixed.seed,
        recipe=fixed.recipe,
        report=report,
        should_stop=should_stop,
    )
    made = [each.folder for each in trained if each.ref not in in_force]
    try:
        new = {each.ref.case_id: each.ref for each in trained}
        refs = [new.get(ref.case_id, ref) for ref in in_force]
        release = write_release(root, base=base, adapters=refs, parent=parent, merged=merged)
        made.append(root / f"{release.sha256}.json")
        with served_by(base, read_release(root, release.sha256), adapters_root, gate_key) as served:
            figures = measured(served, fixed, control, None, report, should_stop)
        if short := [case for case, found in figures.items() if found["verdict"] != WITHIN]:
            raise ConsolidationError(
                f"{len(short)} of {len(figures)} cases do not hold with the one adapter "
                f"({why(figures)}): {', '.join(short)}. They keep their own; put fewer cases, or "
                "others, together."
            )
    except BaseException:  # whatever it was: nothing half-made stays behind
        for each in made:
            discard(each)
        raise
    return Consolidation(
        base=base,
        release=release,
        merged=tuple(merged),
        individual=tuple(refs),
        figures=figures,
        made=tuple(made),
    )


def measured(
    served: GuardedModel,
    fixed: Plan,
    control: BaseModel | None,
    before: GuardedModel | None,
    report: Report,
    should_stop: ShouldStop,
) -> dict[str, dict[str, Any]]:
    """Figures and verdict of each of the plan's cases on what is served."""
    found = {}
    for done, (case_id, located) in enumerate(fixed.located.items(), 1):
        found[case_id] = verify(
            served,
            located,
            fixed.protocols[case_id],
            control=control,
            case_id=case_id,
            before=before,
            should_stop=should_stop,
        )
        report("verify", done, len(fixed.located), {})
    return found


def served_by(base: BaseModel, release: Release, root: Path, key: bytes) -> GuardedModel:
    return GuardedModel(base, release, adapters_root=root, key=key)


def why(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The reasons of the verdicts that fell short, each once; they hold no personal data."""
    short = (each for each in figures.values() if each["verdict"] != WITHIN)
    return "; ".join(dict.fromkeys(reason for each in short for reason in each["reasons"]))


def _hint(fixed: Plan) -> str:
    if fixed.retained:
        return "Carry fewer cases at a time, or train longer."
    return "Give the training data that is still held (it was done without), or carry fewer cases."


def _regate(
    case: GatedCase, base: BaseModel, fixed: Plan, *, adapters_root: Path, key: bytes
) -> tuple[AdapterRef, bool]:
    """The case's adapter as it is, stored with a gate for the weights `base`; whether the folder is
    new."""
    located = fixed.located[case.ref.case_id]
    _, files = read_gate(case.ref.folder(adapters_root), case.ref.gate_sha256)
    kept = {
        name: checked_bytes(case.ref.folder(adapters_root) / name, files[name])
        for name in (CONFIG_FILE, WEIGHTS_FILE)
    }
    gate = gate_for(base, located, key=key, seed=fixed.seed)
    digests = {name: sha256_of(content) for name, content in kept.items()}
    stored = kept | gate_files(gate, digests)
    ref = replace(case.ref, gate_sha256=sha256_of(stored[GATE_FILE]))
    folder = ref.folder(adapters_root)
    new = not folder.exists()
    store_files(folder, stored)
    return ref, new
