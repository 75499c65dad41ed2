"""Restrictions at serving time (GDPR Art. 18): whoever is named in the file is not spoken of.

The file holds keyed digests, no names: those of `workers.identifiers`, as a gate does. It lies with
the releases; the record's worker writes it, whatever serves reads it again every half minute. What
it names closes the gate, as if too many cases had been called for.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workers import corpus
from workers.digests import MAX_JSON_BYTES, Malformed, bounded_bytes, parsed_json
from workers.identifiers import Identifiers, identifier_digests, is_long_enough

log = logging.getLogger(__name__)

FILE = "restrictions.json"
FORM = 1
SECONDS = 30.0
STALE = 60.0
"""The worker touches the file with every sweep; older than this, new restrictions do not arrive."""


class RestrictionError(RuntimeError):
    """The file cannot be read or written; the message says what to do."""


def restriction_of(names: Iterable[str], key: bytes) -> Identifiers | None:
    """The digests of a person's names; None where all of them are too short to be looked for."""
    found = [name for name in names if is_long_enough(name)]
    return identifier_digests(found, key, name_words=corpus.name_words()) if found else None


def write_restrictions(root: Path, people: Mapping[str, Identifiers]) -> bool:
    """Write the file by case id, if it says anything new; else touch it. True if it was written."""
    content = json.dumps(
        {"form": FORM, "people": {case: asdict(people[case]) for case in sorted(people)}},
        separators=(",", ":"),
        sort_keys=True,
    ).encode()
    path = root / FILE
    try:
        if path.is_file() and path.read_bytes() == content:
            os.utime(path)
            return False
        root.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=root, prefix=".unfinished-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fsync(handle)
        Path(unfinished).replace(path)
    except OSError as error:
        raise RestrictionError(
            f"{path} cannot be written ({error.strerror}): check its rights and space."
        ) from error
    return True


def read_restrictions(root: Path) -> tuple[Identifiers, ...]:
    """Whom the file names; nobody where there is no file yet. Raises RestrictionError for a file
    that is damaged."""
    path = root / FILE
    if not path.exists():
        return ()
    try:
        data: Any = parsed_json(bounded_bytes(path, at_most=MAX_JSON_BYTES))
        if data["form"] != FORM:
            raise Malformed("another form")
        return tuple(_identifiers(data["people"][case]) for case in sorted(data["people"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RestrictionError(
            f"{path} does not hold restrictions: the worker of the legal queue writes it anew."
        ) from error


def _identifiers(value: Mapping[str, Sequence[int]]) -> Identifiers:
    fields = {name: tuple(value[name]) for name in Identifiers.__dataclass_fields__}
    if not all(isinstance(each, int) for digests in fields.values() for each in digests):
        raise Malformed("not digests")
    return Identifiers(**fields)


@dataclass
class Restrictions:
    """The file as whatever serves follows it: ask `due` before an answer.

    A file that cannot be read closes everything, until it can: `closed`.
    """

    root: Path
    seconds: float = SECONDS
    people: tuple[Identifiers, ...] = field(default=(), repr=False)
    closed: bool = False
    looked_at: float = float("-inf")
    seen: bool = False

    def due(self) -> bool:
        """Look at the file if that was not done for `seconds`; True if it says something new."""
        if time.monotonic() - self.looked_at < self.seconds:
            return False
        self.looked_at = time.monotonic()
        before = (self.people, self.closed)
        try:
            self.people, self.closed = self._read(), False
        except RestrictionError:
            log.error("The restrictions cannot be read; nothing is answered until they can.")
            self.closed = True
        return (self.people, self.closed) != before

    def _read(self) -> tuple[Identifiers, ...]:
        path = self.root / FILE
        there = path.exists()
        if self.seen and not there:
            raise RestrictionError(f"{path} is gone: the worker of the legal queue writes it anew.")
        if there and time.time() - path.stat().st_mtime > STALE:
            log.error(
                "The restrictions were not renewed for a minute: is the legal worker running?"
            )
        self.seen = there
        return read_restrictions(self.root)
