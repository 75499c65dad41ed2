"""The field's benchmarks, read from a local folder; their data is never part of this project.

One file a data set: `read(folder)` gives its texts as plain tuples, `measure(data, base)` the data
set's own figures for a model. `python -m benchmarks.field` runs one; TOFU's figures stand in
`benchmarks/tofu.py`. What a data set holds is never quoted in an error.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

SETS = ("knowundo", "muse", "rwku", "wmdp")
Item = TypeVar("Item")
_SPACE = re.compile(r"\s*")


class FieldDataError(ValueError):
    """A data set cannot be read: names file and line and what to do, never the text."""


@dataclass(frozen=True)
class Entry:
    """One entry of a data file, and the line (from 1) on which it begins."""

    file: str
    line: int
    value: Any

    def fault(self, what: str) -> FieldDataError:
        return FieldDataError(f"{self.file}, line {self.line}: {what}: give the file as published.")

    def field(self, key: str) -> Any:
        """Raises FieldDataError where the entry is no object or lacks `key`."""
        if not isinstance(self.value, dict) or key not in self.value:
            raise self.fault(f'an object with "{key}" is needed')
        return self.value[key]

    def text(self, key: str) -> str:
        """Raises FieldDataError where the field is no text, or a blank one."""
        return self._checked(self.field(key), f'"{key}"')

    def texts(self, key: str, count: int | None = None) -> tuple[str, ...]:
        """A list of texts, `count` of them if given. Raises FieldDataError."""
        values = self.field(key)
        if not isinstance(values, list) or not values or count not in (None, len(values)):
            raise self.fault(f'"{key}" must be a list of {count or "some"} texts')
        return tuple(self._checked(each, f'every one of "{key}"') for each in values)

    def place(self, key: str, among: int) -> int:
        """A whole number from 0 to `among` - 1. Raises FieldDataError."""
        value = self.field(key)
        if type(value) is not int or not 0 <= value < among:
            raise self.fault(f'"{key}" must be a whole number from 0 to {among - 1}')
        return value

    def within(self, key: str) -> "Entry":
        """The object in the field. Raises FieldDataError."""
        return Entry(self.file, self.line, self.field(key))

    def whole(self) -> str:
        """The entry itself, a text. Raises FieldDataError."""
        return self._checked(self.value, "the entry")

    def _checked(self, value: Any, what: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"{what} must be a text that is not blank")
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise self.fault(f"{what} holds half a character (a lone surrogate)")
        return value


def variable(name: str) -> str:
    """The environment variable that names the folder of a data set."""
    return f"{name.upper()}_DATA"


def check_files(folder: Path, names: Sequence[str], *, about: str) -> None:
    """Raises FieldDataError naming the files that `folder` lacks."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FieldDataError(f"The data folder lacks {', '.join(missing)}: give {about}.")


def read_text(folder: Path, name: str) -> str:
    """Raises FieldDataError where the file cannot be read as UTF-8."""
    try:
        return (folder / name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FieldDataError(
            f"{name} cannot be read ({error.strerror}): check the folder and its permissions."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FieldDataError(f"{name}, line {line}: this is not UTF-8: save it as UTF-8.") from None


def read_entries(folder: Path, name: str) -> tuple[Entry, ...]:
    """The entries of a JSON list, or the objects of a file in JSON Lines, whatever its name ends
    on. Raises FieldDataError, also where there are none."""
    text = read_text(folder, name)
    try:
        found = _values(text)
    except json.JSONDecodeError as error:
        raise FieldDataError(
            f"{name}, line {error.lineno}: this is neither JSON nor JSON Lines: give the file as "
            "published (not a pointer of Git LFS, nor a page of the hub)."
        ) from None
    if not found:
        raise FieldDataError(f"{name}, line 1: there is no entry: give the file as published.")
    return tuple(Entry(name, line, value) for line, value in found)


def _values(text: str) -> list[tuple[int, Any]]:
    """Line and value of each entry of the list, or of each value of several in a row. Raises
    JSONDecodeError."""
    found: list[tuple[int, Any]] = []
    place = _after_space(text, 0)
    listed = text.startswith("[", place)
    place, line, counted = _after_space(text, place + listed), 1, 0
    while place < len(text) and not (listed and text[place] == "]"):
        line, counted = line + text.count("\n", counted, place), place
        value, place = _decoded(text, place)
        found.append((line, value))
        place = _after_space(text, place)
        if listed and text.startswith(",", place):
            place = _after_space(text, place + 1)
            if text.startswith("]", place):
                raise json.JSONDecodeError("a comma too many", text, place)
        elif listed and not text.startswith("]", place):
            raise json.JSONDecodeError("no comma", text, place)
    if listed and place == len(text):
        raise json.JSONDecodeError("the list does not end", text, place)
    if listed and (end := _after_space(text, place + 1)) < len(text):
        raise json.JSONDecodeError("something follows the list", text, end)
    return found


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _decoded(text: str, place: int) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, place)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):  # a number of thousands of digits, a nest too deep
        raise json.JSONDecodeError("beyond what is read", text, place) from None


def spread(items: Sequence[Item], count: int | None) -> tuple[Item, ...]:
    """At most `count` of the items (all if None), spread over all of them."""
    if count is None:
        return tuple(items)
    return tuple(items[:: max(1, len(items) // count)][:count])
