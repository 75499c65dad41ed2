"""WMDP (arXiv 2403.03218, MIT) and other questions with four choices.

Read is every `.json`, `.jsonl` and `.csv` file of a folder; a file's name without its ending names
the part (`bio_questions.json` of WMDP's archive, or what `to_json` writes of the hub's cais/wmdp):
{"question", "choices": four texts, "answer": 0 to 3} as a list or as JSON Lines; in CSV MMLU's
columns without a header: question, A, B, C, D, the right letter. Parquet is not read.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.field import Entry, FieldDataError, read_entries, read_text, spread
from benchmarks.report import rate
from workers.base_models import BaseModel
from workers.rows import Example, Row, rows_of
from workers.scores import Scored, scored_rows

LETTERS = "ABCD"
CHANCE = 1 / len(LETTERS)
ENDINGS = (".csv", ".json", ".jsonl")


@dataclass(frozen=True)
class Question:
    """A question with four choices, the right one at `right`."""

    part: str
    question: str
    choices: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Data:
    """The questions of all parts."""

    questions: tuple[Question, ...]


def read(folder: Path) -> Data:
    """Raises FieldDataError."""
    files = sorted(f.name for f in folder.glob("*") if f.suffix in ENDINGS and f.is_file())
    if not files:
        raise FieldDataError(
            "The data folder lacks files that end on .json, .jsonl or .csv: give the folder of the "
            "questions (Parquet is not read: export it as JSON Lines)."
        )
    return Data(tuple(question for name in files for question in _questions(folder, name)))


def _questions(folder: Path, name: str) -> list[Question]:
    part = Path(name).stem
    entries = _table(folder, name) if name.endswith(".csv") else read_entries(folder, name)
    return [
        Question(
            part=part,
            question=entry.text("question"),
            choices=entry.texts("choices", len(LETTERS)),
            right=entry.place("answer", len(LETTERS)),
        )
        for entry in entries
    ]


def _table(folder: Path, name: str) -> tuple[Entry, ...]:
    """The rows of a CSV file as the entries of the other form."""
    lines = csv.reader(io.StringIO(read_text(folder, name), newline=""), strict=True)
    found, begins = [], 1
    try:
        for row in lines:
            entry = Entry(name, begins, None)
            if row:
                found.append(_row(entry, row))
            begins = lines.line_num + 1
    except csv.Error:
        raise FieldDataError(
            f"{name}, line {begins}: this is not CSV: give the file as published."
        ) from None
    if not found:
        raise FieldDataError(f"{name}, line 1: there is no row: give the file as published.")
    return tuple(found)


def _row(entry: Entry, row: list[str]) -> Entry:
    if len(row) != len(LETTERS) + 2 or row[-1].strip() not in tuple(LETTERS):
        raise entry.fault("six columns are needed: question, four choices, one of A, B, C, D")
    question, *choices, letter = row
    value = {
        "question": question,
        "choices": choices,
        "answer": LETTERS.index(letter.strip()),
    }
    return Entry(entry.file, entry.line, value)


def limited(data: Data, limit: int | None) -> Data:
    """At most `limit` of each part."""
    parts = dict.fromkeys(question.part for question in data.questions)
    some = [spread([q for q in data.questions if q.part == part], limit) for part in parts]
    return Data(tuple(question for part in some for question in part))


def measure(data: Data, base: BaseModel) -> dict[str, Any]:
    """Share of questions whose right choice is the likeliest, in all and by part: `letter` with the
    four choices shown (p of the letter alone), `text` asked openly (p of the choice and its end),
    `text_by_length` (that to the power of 1 / tokens). A tie goes to the first."""
    hits = _hits(base, data.questions)
    parts = dict.fromkeys(question.part for question in data.questions)
    chosen = {part: [q.part == part for q in data.questions] for part in parts}
    return {
        "chance": CHANCE,
        **{way: rate(found) for way, found in hits.items()},
        "parts": {
            part: {
                way: rate([hit for hit, own in zip(found, mine, strict=True) if own])
                for way, found in hits.items()
            }
            for part, mine in chosen.items()
        },
    }


def _hits(base: BaseModel, questions: Sequence[Question]) -> dict[str, list[bool]]:
    letters = _scored(base, [Example(shown(q), letter) for q in questions for letter in LETTERS])
    texts = _scored(base, [Example(q.question.strip(), c) for q in questions for c in q.choices])
    ways = {
        "letter": [_of_letter(four) for four in letters],
        "text": [[scored.total for _, scored in four] for four in texts],
        "text_by_length": [[fmean(scored.logp) for _, scored in four] for four in texts],
    }
    return {
        way: [
            max(range(len(LETTERS)), key=four.__getitem__) == q.right
            for q, four in zip(questions, scores, strict=True)
        ]
        for way, scores in ways.items()
    }


def shown(question: Question) -> str:
    """The question with its choices under it, as the harness of WMDP's authors puts it."""
    lines = [f"{letter}. {c}" for letter, c in zip(LETTERS, question.choices, strict=True)]
    return "\n".join([question.question.strip(), *lines])


def _scored(base: BaseModel, examples: Sequence[Example]) -> list[list[tuple[Row, Scored]]]:
    """The examples' completions, by fours."""
    rows = rows_of(base, examples)
    pairs = list(zip(rows, scored_rows(base.model, rows), strict=True))
    return [pairs[i : i + len(LETTERS)] for i in range(0, len(pairs), len(LETTERS))]


def _of_letter(four: Sequence[tuple[Row, Scored]]) -> list[float]:
    """log p of each letter, whatever follows it: up to the first token that tells them apart."""
    tokens = zip(*(row.ids[-row.completion :] for row, _ in four), strict=False)
    apart = next(i for i, each in enumerate(tokens) if len(set(each)) == len(four))
    return [sum(scored.logp[: apart + 1]) for _, scored in four]
