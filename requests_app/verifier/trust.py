"""The trust file: which public keys the verifier accepts, for what, and for which log sizes.

One key a line; lines that begin with `#` are comments:

    log|attest <vkey> [from=<size>] [to=<size>] [revoked=<size>@<time>]
    witness <vkey>

A key is good for log sizes after `from` up to `to`. A revoked key is good above the size named only
where that was cosigned by a pinned witness before the time named, and an attest key not even there,
since a cosignature covers no statement. A time stamp does not count: it is not checked here.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from . import notes
from .errors import Invalid
from .notes import Cosignature, NoteKey

TIME = "%Y-%m-%dT%H:%M:%SZ"

_SIZE = r"(0|[1-9][0-9]{0,17})"
_SIGNER = re.compile(
    rf"(log|attest) (\S+)(?: from={_SIZE})?(?: to={_SIZE})?"
    rf"(?: revoked={_SIZE}@([0-9-]{{10}}T[0-9:]{{8}}Z))?"
)
_WITNESS = re.compile(r"(witness) (\S+)")


@dataclass(frozen=True)
class TrustedKey:
    """A key with the log sizes it is good for: `after` < size <= `to` (None: still in use).

    `revoked`: the size it is still good for, and when it was revoked in seconds since 1970.
    """

    purpose: str
    key: NoteKey
    after: int = 0
    to: int | None = None
    revoked: tuple[int, int] | None = None


@dataclass(frozen=True)
class Trust:
    """The keys of a trust file; `pinned` is false for the informative one inside a bundle."""

    keys: tuple[TrustedKey, ...]
    pinned: bool

    def for_purpose(self, purpose: str) -> list[NoteKey]:
        return [item.key for item in self.keys if item.purpose == purpose]

    def check_size(
        self,
        signers: Collection[NoteKey],
        purpose: str,
        size: int,
        *,
        cosigned: Collection[Cosignature] = (),
        file: str,
    ) -> str:
        """Warning if the key was retired or revoked since, else empty.

        One of `signers` must be good for the size: Invalid otherwise. `cosigned` are the
        cosignatures of pinned witnesses on a checkpoint of that size.
        """
        warnings = []
        for item in self.keys:
            inside = item.after < size and (item.to is None or size <= item.to)
            if item.purpose == purpose and item.key in signers and inside:
                warning = _standing(item, size, cosigned)
                if warning == "":
                    return ""
                if warning is not None:
                    warnings.append(warning)
        if not warnings:
            names = " and ".join(sorted({key.name for key in signers}))
            raise Invalid(
                f"The {purpose} key {names} is not trusted for a log of {size} entries.", file=file
            )
        return warnings[0]


def _standing(item: TrustedKey, size: int, cosigned: Collection[Cosignature]) -> str | None:
    """Empty for a key in use, a warning for one that counts all the same, None if it does not."""
    about = f"The {item.purpose} key {item.key.name}"
    if item.revoked is None:
        return f"{about} was retired at log size {item.to}." if item.to is not None else ""
    good_for, at = item.revoked
    if size <= good_for:
        return f"{about} was revoked for log sizes above {good_for}; this one is not."
    before = [mark for mark in cosigned if mark.at < at]
    if item.purpose != "log" or not before:
        return None
    return (
        f"{about} was revoked for log sizes above {good_for}. This one counts because"
        f" {before[0].key.name} cosigned it before the revocation."
    )


def parse_trust(data: bytes, *, pinned: bool, file: str) -> Trust:
    """Keys of a trust file; Invalid for a line that is none, or without a log or attest key."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise Invalid("The trust file is not UTF-8 text.", file=file) from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            found.append(_parse_line(line.strip(), number, file))
    for purpose in ("log", "attest"):
        if not any(item.purpose == purpose for item in found):
            raise Invalid(f"The trust file has no {purpose} key.", file=file)
    return Trust(tuple(found), pinned)


def _parse_line(line: str, number: int, file: str) -> TrustedKey:
    if match := _WITNESS.fullmatch(line):
        key = notes.parse_vkey(match[2], kind=notes.COSIGNATURE, file=file)
        return TrustedKey(purpose="witness", key=key)
    match = _SIGNER.fullmatch(line)
    if match is None:
        raise Invalid(
            f"Line {number} is not “log <vkey>”, “attest <vkey>” or “witness <vkey>”.", file=file
        )
    return TrustedKey(
        purpose=match[1],
        key=notes.parse_vkey(match[2], file=file),
        after=int(match[3] or 0),
        to=int(match[4]) if match[4] else None,
        revoked=(int(match[5]), _seconds(match[6], number, file)) if match[5] else None,
    )


def _seconds(text: str, number: int, file: str) -> int:
    try:
        return int(datetime.strptime(text, TIME).replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise Invalid(f"Line {number} names a time that is none.", file=file) from None
