"""The trust file: which public keys the verifier accepts, for what, and for which log sizes.

One key a line, `<purpose> <vkey> [from=<size>] [to=<size>]`; purpose is `log` or `attest`; lines
that begin with `#` are comments. A key is good for log sizes after `from` up to `to`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import notes
from .errors import Invalid
from .notes import NoteKey

_LINE = re.compile(r"(log|attest) (\S+)(?: from=(0|[1-9]\d{0,17}))?(?: to=(0|[1-9]\d{0,17}))?")


@dataclass(frozen=True)
class TrustedKey:
    """A key with the log sizes it is good for: `after` < size <= `to` (None: still in use)."""

    purpose: str
    key: NoteKey
    after: int
    to: int | None


@dataclass(frozen=True)
class Trust:
    """The keys of a trust file; `pinned` is false for the informative one inside a bundle."""

    keys: tuple[TrustedKey, ...]
    pinned: bool

    def for_purpose(self, purpose: str) -> list[NoteKey]:
        return [item.key for item in self.keys if item.purpose == purpose]

    def check_size(self, key: NoteKey, purpose: str, size: int, *, file: str) -> str:
        """Warning when the key has been retired since, else empty; Invalid outside its sizes."""
        items = [item for item in self.keys if item.key == key and item.purpose == purpose]
        for item in items:
            if item.after < size and (item.to is None or size <= item.to):
                if item.to is None:
                    return ""
                return f"The {purpose} key {key.name} was retired at log size {item.to}."
        raise Invalid(
            f"The {purpose} key {key.name} is not trusted for a log of {size} entries.", file=file
        )


def parse_trust(data: bytes, *, pinned: bool, file: str) -> Trust:
    """Keys of a trust file; Invalid for a line that is none, or when either purpose is missing."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise Invalid("The trust file is not UTF-8 text.", file=file) from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise Invalid(f"Line {number} is not “log <vkey>” or “attest <vkey>”.", file=file)
        found.append(
            TrustedKey(
                purpose=match[1],
                key=notes.parse_vkey(match[2], file=file),
                after=int(match[3] or 0),
                to=int(match[4]) if match[4] else None,
            )
        )
    for purpose in ("log", "attest"):
        if not any(item.purpose == purpose for item in found):
            raise Invalid(f"The trust file has no {purpose} key.", file=file)
    return Trust(tuple(found), pinned)
