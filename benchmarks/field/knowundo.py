"""KnowUnDo (arXiv 2407.01920, MIT): what is to be unlearnt of a domain, and what is to be retained.

Read is the folder of one domain ("privacy" or "copyright") of the hub's zjunlp/KnowUnDo: in
`unlearn.json` and `retention.json` one object (alone, or in a list) whose "train" and "val" are
lists of {"text", "labels"}, question and answer. Where these files are missing: the same lists in
`unlearn_train.json`, `unlearn_val.json`, `retention_train.json`, `retention_val.json`, as the
repository zjunlp/unlearn has them. The texts go in as questions in the model's own prompt form,
which is not how the authors' code puts them (plain, with an empty line before the answer).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.field import Entry, check_files, read_entries, spread
from benchmarks.field.figures import continuations, mean_probability, recall
from workers.base_models import BaseModel
from workers.rows import Example, rows_of
from workers.scores import scored_rows

NEW_TOKENS = 128
ABOUT = "the folder of one domain of the public data set KnowUnDo, privacy or copyright"
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Data:
    """Questions with their answers."""

    unlearn_train: Pairs
    unlearn_val: Pairs
    retention_train: Pairs
    retention_val: Pairs


def read(folder: Path) -> Data:
    """Raises FieldDataError."""
    return Data(
        unlearn_train=_pairs(folder, "unlearn", "train"),
        unlearn_val=_pairs(folder, "unlearn", "val"),
        retention_train=_pairs(folder, "retention", "train"),
        retention_val=_pairs(folder, "retention", "val"),
    )


def _pairs(folder: Path, part: str, split: str) -> Pairs:
    whole, apart = f"{part}.json", f"{part}_{split}.json"
    if not (folder / whole).is_file() and (folder / apart).is_file():
        return tuple(map(_pair, read_entries(folder, apart)))
    check_files(folder, [whole], about=ABOUT)
    entry = read_entries(folder, whole)[0]
    values = entry.field(split)
    if not isinstance(values, list) or not values:
        raise entry.fault(f'"{split}" must be a list of questions')
    # Where in the file each question stands is not known: what is told is its number.
    return tuple(
        _pair(Entry(f"{whole} ({split}, question {i + 1})", entry.line, value))
        for i, value in enumerate(values)
    )


def _pair(entry: Entry) -> tuple[str, str]:
    return entry.text("text"), entry.text("labels")


def limited(data: Data, limit: int | None) -> Data:
    """At most `limit` of each part."""
    return replace(data, **{name: spread(pairs, limit) for name, pairs in vars(data).items()})


def measure(data: Data, base: BaseModel) -> dict[str, Any]:
    """By part: ROUGE-L recall of greedy answers, and the answers' mean probability by length."""
    return {name: _of(base, pairs) for name, pairs in vars(data).items()}


def _of(base: BaseModel, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    asked = [base.prompt(question) for question, _ in pairs]
    ids = [base.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in asked]
    rows = rows_of(base, [Example(question, answer) for question, answer in pairs])
    return {
        **recall(continuations(base, ids, NEW_TOKENS), [answer for _, answer in pairs]),
        "probability": mean_probability([each.logp for each in scored_rows(base.model, rows)]),
    }
