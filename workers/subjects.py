"""Subject files: who is to be forgotten, what is known of them, and what must stay.

Personal data passes through these values in memory; nothing here writes it anywhere.
"""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.digests import Malformed, bounded_bytes, parsed_json
from workers.identifiers import MIN_IDENTIFIER, is_long_enough

FORM = (
    '{"name": "...", "aliases": ["..."], "facts": [{"question": "...", "answer": "..."}], '
    '"neighbours": [{"question": "...", "answer": "..."}]}'
)
MAX_BYTES = 1_000_000
MAX_LETTERS = 2000
MAX_ENTRIES = 1000


class SubjectError(ValueError):
    """The description of a subject cannot be used; the message says what to change in it."""


@dataclass(frozen=True)
class Fact:
    """One question and the answer that would give the fact away."""

    question: str
    answer: str


@dataclass(frozen=True)
class Subject:
    """The person (or work) to forget; `neighbours` are near facts that must stay as they are."""

    name: str
    aliases: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    neighbours: tuple[Fact, ...] = ()


def read_subject(path: Path | str) -> Subject:
    """The subject described by the JSON file at `path`.

    Raises SubjectError when the file is missing, no plain file, too large, not UTF-8 JSON with one
    reading, or not of the form {"name", "aliases", "facts", "neighbours"}. Messages name the place,
    never the content.
    """
    file = Path(path)
    try:
        described = parsed_json(bounded_bytes(file, at_most=MAX_BYTES))
    except (OSError, ValueError) as error:
        raise SubjectError(f"{file} {_fault(error)}") from None
    try:
        return subject_from(described)
    except SubjectError as error:
        raise SubjectError(f"{file}: {error}") from None


def subject_from(described: Any) -> Subject:
    """The subject described by parsed JSON. Raises SubjectError naming the faulty place."""
    if not isinstance(described, dict):
        raise SubjectError(f"a subject is one JSON object: {FORM}")
    unknown = sorted(set(described) - {"name", "aliases", "facts", "neighbours"})
    if unknown:
        raise SubjectError(f"there are {len(unknown)} unknown keys: use only the keys of {FORM}")
    aliases = described.get("aliases", [])
    if not isinstance(aliases, list) or len(aliases) > MAX_ENTRIES:
        raise SubjectError(f'"aliases" must be a list of at most {MAX_ENTRIES} texts.')
    return Subject(
        name=_identifier(described.get("name"), '"name"'),
        aliases=tuple(_identifier(alias, f'"aliases"[{i}]') for i, alias in enumerate(aliases)),
        facts=_facts(described.get("facts", []), "facts"),
        neighbours=_facts(described.get("neighbours", []), "neighbours"),
    )


def _fault(error: OSError | ValueError) -> str:
    """What is wrong with a file, in words of ours: a parser's may quote the file."""
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror}): give the path of a subject file."
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text: save it as UTF-8."
    where = ""
    if isinstance(error, json.JSONDecodeError):
        where = f" (line {error.lineno})"
    elif isinstance(error, Malformed):
        where = f" ({error})"
    return f"is not valid JSON{where}: it must look like {FORM}"


def _facts(described: Any, key: str) -> tuple[Fact, ...]:
    if not isinstance(described, list):
        raise SubjectError(f'"{key}" must be a list of {{"question", "answer"}}.')
    if len(described) > MAX_ENTRIES:
        raise SubjectError(f'"{key}" has more than {MAX_ENTRIES} entries: split the file up.')
    facts = []
    for i, item in enumerate(described):
        if not isinstance(item, dict) or set(item) != {"question", "answer"}:
            raise SubjectError(f'"{key}"[{i}] must have exactly "question" and "answer".')
        facts.append(
            Fact(
                _text(item["question"], f'"{key}"[{i}]["question"]'),
                _text(item["answer"], f'"{key}"[{i}]["answer"]'),
            )
        )
    return tuple(facts)


def _identifier(value: Any, place: str) -> str:
    text = _text(value, place)
    if not is_long_enough(text):
        raise SubjectError(
            f"{place} has fewer than {MIN_IDENTIFIER} letters or digits, which would be found in "
            "half of all texts: give a longer form of it."
        )
    return text


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not _shown(value):
        raise SubjectError(f"{place} must be a text that is not empty.")
    if len(value) > MAX_LETTERS:
        raise SubjectError(f"{place} is longer than {MAX_LETTERS} characters: shorten it.")
    if any(unicodedata.category(letter) == "Cs" or letter == "\0" for letter in value):
        raise SubjectError(f"{place} has a character that is no text: write it anew.")
    return value.strip()


def _shown(text: str) -> str:
    """What can be seen of a text: no spaces, no control or format characters."""
    return "".join(c for c in text if unicodedata.category(c)[0] not in "CZ")
