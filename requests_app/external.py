"""The log outside the database: its last signed checkpoint, and a copy of its entries.

The signer writes both after each signing: the checkpoint to RTBF_CHECKPOINT_FILE (a line
`log <verifier key>`, an empty line, the signed note), the entries beside it with the ending
`.entries`, a line each, exactly the bytes that were hashed. Neither holds personal data. A database
with fewer entries than were signed is an older backup: it has forgotten entries, and with them what
was destroyed since. Nothing is appended to it or served from it until `manage.py replay_erasures`
has brought them back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from requests_app import durable_files
from requests_app.verifier import notes
from requests_app.verifier.errors import Invalid
from requests_app.verifier.notes import TreeHead

READABLE = 0o644  # no personal data; the web process may run as another user


class ExternalError(Exception):
    """A file outside the database cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Signed:
    """The last signed checkpoint: its head, the note, and the key that signed it."""

    head: TreeHead
    note: str
    vkey: str


def last_checkpoint() -> Signed | None:
    """What the signer signed last, its signature checked; None before the first. ExternalError."""
    path = Path(settings.RTBF_CHECKPOINT_FILE)
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return _read(path, found.st_ino, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, *version: int) -> Signed:
    """`version` tells one state of the file from another, so that each is read once."""
    try:
        first, _, note = path.read_text(encoding="utf-8").partition("\n\n")
        key = notes.parse_vkey(first.removeprefix("log "))
        head, _ = notes.open_checkpoint(note.encode(), [key], file=path.name)
    except (OSError, ValueError, Invalid) as problem:
        raise ExternalError(
            f"{path} is damaged ({problem}). Restore it from a copy; or remove it, and the signer,"
            " which has a memory of its own, writes it anew when it starts."
        ) from None
    return Signed(head=head, note=note, vkey=key.vkey)


def why_behind(size_of_log: Callable[[], int]) -> str:
    """Why a database with a log of so many entries must not be used as the record, for staff; empty
    if it is not behind. The size is asked for after the checkpoint was read: what is signed in
    between must not look as if the database lacked it."""
    try:
        signed = last_checkpoint()
    except ExternalError as problem:
        return str(problem)
    if signed is None:
        return ""
    if signed.head.origin != settings.RTBF_LOG_ORIGIN:
        return (
            f"{settings.RTBF_CHECKPOINT_FILE} is of the log {signed.head.origin}, but"
            f" RTBF_LOG_ORIGIN is {settings.RTBF_LOG_ORIGIN}. Set one of them to what belongs."
        )
    if (size := size_of_log()) < signed.head.size:
        return (
            f"The log in this database has {size} entries, but {signed.head.size} were signed: an"
            " older backup was restored. Run `manage.py replay_erasures`."
        )
    return ""


# --- Written by the signer ----------------------------------------------------------------------
def entries_file() -> Path:
    """Where the copy of the entries lies."""
    path = Path(settings.RTBF_CHECKPOINT_FILE)
    return path.with_name(f"{path.name}.entries")


def write_entries(bodies: Iterable[bytes]) -> None:
    """Make the copy of the entries anew: the new one complete, or the old one."""
    lines = (body + b"\n" for body in bodies)
    durable_files.replace(entries_file(), lines, mode=READABLE)


def publish(*, vkey: str, note: str, bodies: Iterable[bytes]) -> None:
    """Add the newly signed entries to the copy, then replace the checkpoint."""
    with entries_file().open("ab") as file:
        for body in bodies:
            file.write(body + b"\n")
        file.flush()
        os.fsync(file.fileno())
    content = f"log {vkey}\n\n{note}".encode()
    durable_files.replace(Path(settings.RTBF_CHECKPOINT_FILE), [content], mode=READABLE)


def read_entries(path: Path) -> Iterator[tuple[int, bytes]]:
    """Index and exact bytes of the entries of a copy, or of an internal export `audit_log`.

    A last line that was cut off by a crash is left out. ExternalError if the file cannot be used.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or line.startswith(b'{"schema":'):
                    continue
                body = line[:-1]
                if line.startswith(b'{"seq":'):
                    told = json.loads(line)
                    number, body = int(told["seq"]), str(told["body"]).encode()
                yield number, body
                number += 1
    except OSError as problem:
        raise ExternalError(f"{path} cannot be read ({problem.strerror}).") from None
    except (ValueError, KeyError):
        raise ExternalError(
            f"{path} does not hold the exact entries: give the signer's copy, or an export of the"
            " audit log at the internal level."
        ) from None
