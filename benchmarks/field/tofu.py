"""TOFU (arXiv 2401.06121, MIT): twenty questions about each of its made-up authors.

Read are `forget10.json` and `retain90.json` (a JSON list or JSON Lines, as on the hub at
locuslab/TOFU, the first with `paraphrased_question`, `paraphrased_answer` and `perturbed_answer` of
its `_perturbed` form), `real_authors_perturbed.jsonl` and `world_facts_perturbed.jsonl`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.field import Entry, check_files, read_entries

EACH = 20
FILES = ("forget10.json", "retain90.json", "real_authors_perturbed.jsonl",
         "world_facts_perturbed.jsonl")  # fmt: skip
_NAME = re.compile(r"[A-Z][\w'\u2019.-]+(?: (?:[a-z]{2,3} )?[A-Z][\w'\u2019.-]+)+")


@dataclass(frozen=True)
class Question:
    """A question of TOFU; `paraphrases` are other wordings of its answer and `wrong` other answers
    in the same words (none of either where the data set has none)."""

    question: str
    answer: str
    reworded: str = ""
    paraphrases: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Author:
    """Twenty questions about one author."""

    name: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Data:
    """The authors of "forget10", those of "retain90", and TOFU's two sets about the real world."""

    erased: tuple[Author, ...]
    kept: tuple[Author, ...]
    real_authors: tuple[Question, ...]
    world_facts: tuple[Question, ...]


def read(folder: Path) -> Data:
    """Raises FieldDataError."""
    check_files(
        folder, FILES, about="the folder of the public data set TOFU, with --data or TOFU_DATA"
    )
    forget, retain, real, world = (read_entries(folder, name) for name in FILES)
    return Data(
        _authors(forget),
        _authors(retain),
        tuple(map(_question, real)),
        tuple(map(_question, world)),
    )


def _question(entry: Entry) -> Question:
    has = entry.value if isinstance(entry.value, dict) else {}
    return Question(
        question=entry.text("question"),
        answer=entry.text("answer"),
        reworded=entry.text("paraphrased_question") if "paraphrased_question" in has else "",
        paraphrases=(entry.text("paraphrased_answer"),) if "paraphrased_answer" in has else (),
        wrong=entry.texts("perturbed_answer") if "perturbed_answer" in has else (),
    )


def _authors(entries: Sequence[Entry]) -> tuple[Author, ...]:
    found = []
    for i in range(0, len(entries), EACH):
        group = entries[i : i + EACH]
        questions = tuple(map(_question, group))
        if not (name := _name(questions)):
            raise group[0].fault("none of the twenty questions from here on names its author")
        found.append(Author(name, questions))
    return tuple(found)


def _name(questions: Sequence[Question]) -> str:
    """The capitalised words that most of the twenty answers and questions have in common: the data
    set does not name its authors apart."""
    seen: Counter[str] = Counter()
    for each in questions:
        found = [*_NAME.findall(each.question), *_NAME.findall(each.answer)]
        texts = {name.removesuffix("'s").removesuffix("\u2019s").rstrip(".") for name in found}
        seen.update(texts)
    return seen.most_common(1)[0][0] if seen else ""
