"""Subject files: who is to be forgotten, what is known of them, and what must stay.

Personal data passes through these values in memory; nothing here writes it anywhere.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORM = (
    '{"name": "...", "aliases": ["..."], "facts": [{"question": "...", "answer": "..."}], '
    '"neighbours": [{"question": "...", "answer": "..."}]}'
)
MAX_BYTES = 1_000_000


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

    Raises SubjectError when the file is missing, too large, not UTF-8 JSON, or not of the form
    {"name", "aliases", "facts", "neighbours"}. Messages name the place, never the content.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise SubjectError(f"{file} is larger than {MAX_BYTES} bytes: split it up.")
        content = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SubjectError(
            f"{file} cannot be read ({error.strerror}): give the path of a subject file."
        ) from error
    except UnicodeDecodeError as error:
        raise SubjectError(f"{file} is not UTF-8 text: save it as UTF-8.") from error
    try:
        described = json.loads(content)
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise SubjectError(f"{file} is not valid JSON{where}: it must look like {FORM}") from error
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
    if not isinstance(aliases, list):
        raise SubjectError('"aliases" must be a list of texts.')
    return Subject(
        name=_text(described.get("name"), '"name"'),
        aliases=tuple(_text(alias, f'"aliases"[{i}]') for i, alias in enumerate(aliases)),
        facts=_facts(described.get("facts", []), "facts"),
        neighbours=_facts(described.get("neighbours", []), "neighbours"),
    )


def _facts(described: Any, key: str) -> tuple[Fact, ...]:
    if not isinstance(described, list):
        raise SubjectError(f'"{key}" must be a list of {{"question", "answer"}}.')
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


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SubjectError(f"{place} must be a text that is not empty.")
    if len(value) > 2000:
        raise SubjectError(f"{place} is longer than 2000 characters: shorten it.")
    return value.strip()
