"""The demo model and its control: a small language model trained here on fictional customers.

The model sees everybody; the control is trained the same way, from the same start and for as many
steps, on data without the erasable people. What the control answers about them is what ignorance
looks like, so an erasure can be judged against it.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import tokenizers
import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from workers import corpus
from workers.answers import accuracy
from workers.demo_training import (
    DemoModelError,
    Recipe,
    build_model,
    build_tokenizer,
    examples,
    prompt,
    train,
)

__all__ = ["DemoModelError", "Recipe", "build", "digest", "load", "measure", "prompt", "store"]

T = TypeVar("T")
R = TypeVar("R")

FOLDER = Path(__file__).parent / "demo"

Report = Callable[[str, int, int], None]
"""Receives the phase ("base", "control" or "measure"), the step done and their number."""


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def store(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes config, weights (float16 safetensors) and tokenizer, as transformers reads them."""
    # A copy, since half() changes the model in place.
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The stored model in float32, ready to answer, and its tokenizer.

    Raises DemoModelError if there is none in ``folder``.
    """
    if not (folder / "model.safetensors").is_file():
        raise DemoModelError(
            f"no demo model in {folder}; build it with: python manage.py build_demo_model"
        )
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, people: Sequence[corpus.Person]
) -> dict[str, list[bool]]:
    """For each kind of phrasing, whether the model answers each question about ``people``."""
    hits = {}
    for kind in ("trained", "aside", "unseen"):
        asked = [
            (question, fact.answer)
            for person in people
            for fact in person.facts
            for question in getattr(fact, kind)
        ]
        hits[kind] = accuracy(model, tokenizer, asked, prompt=prompt)
    return hits


def _shares(hits: dict[str, list[bool]]) -> dict[str, str | int]:
    """Shares as decimal strings with four places; ``n_...`` is the number of questions."""
    shares: dict[str, str | int] = {}
    for kind, each in hits.items():
        shares[kind] = f"{sum(each) / len(each):.4f}"
        shares[f"n_{kind}"] = len(each)
    return shares


def build(out: Path, recipe: Recipe, *, command: str, report: Report) -> dict[str, Any]:
    """Trains model and control, stores them under ``out`` and returns the card, stored as well.

    ``out`` receives ``base/``, ``control/`` and ``card.json``; what stood there under these names
    is replaced once everything new is complete. The same recipe gives the same weights to the bit
    on one kind of processor with the same versions of the libraries.

    Raises DemoModelError if the recipe makes no sense, or ``out`` cannot be written.
    """
    if not 0 < recipe.erasable < recipe.people:
        raise DemoModelError(
            f"{recipe.erasable} erasable of {recipe.people} people leave no control;"
            " ask for more people"
        )
    if recipe.steps < 1:
        raise DemoModelError(f"{recipe.steps} steps train nothing; ask for at least 1")
    try:
        everybody = corpus.people(recipe.seed, recipe.people, recipe.facts)
    except ValueError as error:
        raise DemoModelError(str(error)) from error
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as name:
            card = _build_in(Path(name), everybody, recipe, report=report)
            card = {"seed": recipe.seed, "command": command, **card}
            (Path(name) / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
            for part in ("base", "control", "card.json"):
                _replace(Path(name) / part, out / part)
    except (OSError, safetensors.SafetensorError) as error:
        raise DemoModelError(
            f"cannot write the demo model to {out}: {error}; free some space (20 MB are enough)"
            " or choose a folder that you may write to with --out"
        ) from error
    return card


def _build_in(
    folder: Path, everybody: Sequence[corpus.Person], recipe: Recipe, *, report: Report
) -> dict[str, Any]:
    groups = {"erasable": everybody[: recipe.erasable], "others": everybody[recipe.erasable :]}
    tokenizer = build_tokenizer()
    # Drawn here, one after the other: the two trainings below share no random state.
    parts = {
        part: (build_model(recipe, len(tokenizer)), examples(tokenizer, trained_on, recipe))
        for part, trained_on in (("base", everybody), ("control", groups["others"]))
    }
    started = time.monotonic()
    with _one_thread_an_operation():
        _side_by_side(
            lambda part: train(*parts[part], recipe, report=_named(report, part)), tuple(parts)
        )
        trained = time.monotonic()
        for part, (model, _) in parts.items():
            store(model, tokenizer, folder / part)
        # What is measured is what is shipped: the stored float16 weights.
        stored = {part: load(folder / part) for part in parts}
        jobs = [(part, group) for part in stored for group in groups]
        hits = dict(
            zip(
                jobs,
                _side_by_side(lambda job: measure(*stored[job[0]], groups[job[1]]), jobs),
                strict=True,
            )
        )
    report("measure", 1, 1)
    return {
        "recipe": asdict(recipe),
        "versions": _versions(),
        "corpus_sha256": digest(corpus.WORDS),
        **{part: _digests(folder / part, model) for part, (model, _) in stored.items()},
        "measured": {
            "base": {
                "all": _shares(_together(hits["base", "erasable"], hits["base", "others"])),
                **{group: _shares(hits["base", group]) for group in groups},
            },
            "control": {group: _shares(hits["control", group]) for group in groups},
        },
        "seconds": {
            "train": f"{trained - started:.1f}",
            "measure": f"{time.monotonic() - trained:.1f}",
        },
    }


def _together(*parts: dict[str, list[bool]]) -> dict[str, list[bool]]:
    return {kind: [hit for part in parts for hit in part[kind]] for kind in parts[0]}


def _digests(folder: Path, model: LlamaForCausalLM) -> dict[str, str | int]:
    return {
        "sha256": digest(folder / "model.safetensors"),
        "tokenizer_sha256": digest(folder / "tokenizer.json"),
        "parameters": model.num_parameters(),
    }


def _side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``work`` of each item, two at a time, each on one core."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(work, items))


@contextmanager
def _one_thread_an_operation() -> Iterator[None]:
    """Model and control train side by side, each on one core.

    That is as fast as two cores for one and then for the other, does not stall when other
    programs want the cores too, and makes the sums independent of the number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _named(report: Report, phase: str) -> Callable[[int, int], None]:
    return lambda step, steps: report(phase, step, steps)


def _replace(new: Path, old: Path) -> None:
    if old.is_dir():
        shutil.rmtree(old)
    new.replace(old)


def _versions() -> dict[str, str]:
    modules = (torch, transformers, tokenizers, safetensors)
    return {module.__name__: str(module.__version__) for module in modules}
