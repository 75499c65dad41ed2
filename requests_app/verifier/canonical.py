"""Canonical JSON: RFC 8785 for values without floating-point numbers.

Signed data here holds strings, whole numbers, truth values, null, lists and objects; figures that
are not whole are decimal strings. Within these limits RFC 8785 needs no number formatting, and the
standard library suffices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias

from .errors import Invalid

JSON: TypeAlias = "bool | int | str | Sequence[JSON] | Mapping[str, JSON] | None"

LARGEST_INTEGER = 2**53 - 1  # RFC 8785 section 3.2.2.3: beyond it doubles lose digits
DEEPEST = 32
LONGEST = 16 * 1024 * 1024  # bytes


def dumps(value: object) -> bytes:
    """RFC 8785 bytes of `value`; ValueError for floats, other types, huge or deep values."""
    text = json.dumps(_ordered(value, 0), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8")  # a lone surrogate raises UnicodeEncodeError, a ValueError


def loads(data: bytes, *, file: str = "") -> JSON:
    """Value of `data`, which must be exactly its canonical form; Invalid otherwise.

    Refuses repeated keys, floats, deep nesting and any other spelling of the same value.
    """
    if len(data) > LONGEST:
        raise Invalid("The file is larger than a canonical JSON file may be.", file=file)
    try:
        value: JSON = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
        canonical = dumps(value)
    except (ValueError, RecursionError) as problem:
        raise Invalid(f"The file is not canonical JSON ({problem}).", file=file) from None
    if canonical != data:
        raise Invalid("The file is JSON, but not in the canonical form of RFC 8785.", file=file)
    return value


def _ordered(value: object, depth: int) -> object:
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    match value:
        case None | bool() | str():
            return value
        case int():
            if abs(value) > LARGEST_INTEGER:
                raise ValueError("a whole number beyond 2^53 - 1; write it as a string")
            return value
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("an object key that is not a string")
            names = sorted(value)
            if not "".join(names).isascii():  # of ASCII, the order in UTF-16 is the same
                names.sort(key=lambda name: name.encode("utf-16-be", "surrogatepass"))
            return {name: _ordered(value[name], depth + 1) for name in names}
        case list() | tuple():
            return [_ordered(item, depth + 1) for item in value]
        case _:
            raise ValueError(f"{type(value).__name__} has no canonical form here")


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object repeats a key")
    return found


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a whole number")
