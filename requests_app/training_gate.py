"""The training gate: a build is looked through before anything is trained on it.

Every text of every record is searched for identifiers, each is looked up on the suppression list,
and the record's own id among the set's exclusions. The report is an in-toto statement about the
digest of exactly the bytes that may be trained on, signed by the attest key; a pipeline that asks
`check` first cannot train on anything else. Reports and results hold counts and record numbers, no
value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from requests_app import training_data
from requests_app.identifiers import NotAnIdentifier, candidates, normal_form
from requests_app.keys import SigningKey
from requests_app.models import AuditKey
from requests_app.suppression import SuppressionList, record_kind
from requests_app.training_data import Cleaned, DataError, Record, Source
from requests_app.verifier import dsse, notes
from requests_app.verifier.errors import Invalid as NotValid

GATE_TYPE = "https://rtbf.example/attestation/training-gate/v1"
CLEAR, FOUND = "clear", "found"
EVERY = 5000  # records between two reports of progress
REMEMBERED = 1 << 16  # answers of the list


class GateRefused(Exception):
    """The report does not allow training on this file now; the message says why."""


@dataclass(frozen=True)
class Scan:
    """What a pass over a build found: how many records, the numbers of those that would bring
    somebody back, by which kinds of identifier, and the digest of the build's bytes."""

    records: int
    hits: tuple[int, ...]
    kinds: Mapping[str, int]
    sha256: str


class Scanner:
    """Looks records up on a list; `fields` names the kind of identifier that a field holds."""

    def __init__(
        self, held: SuppressionList, training_set: str = "", fields: Mapping[str, str] | None = None
    ) -> None:
        self.kinds = held.kinds
        self.fields = {name: kind for name, kind in (fields or {}).items() if kind in held.kinds}
        self._record_kind = record_kind(training_set)
        # The same years, prices and sender addresses stand in record after record.
        self._holds = lru_cache(maxsize=REMEMBERED)(held.holds)

    def kinds_in(self, record: Record) -> set[str]:
        """The kinds of identifier by which a record is somebody's on the list."""
        prefix, found = settings.RTBF_PHONE_PREFIX, set()
        if self._record_kind in self.kinds and self._holds(self._record_kind, record.record_id):
            found.add("record")
        for text in record.texts.values():
            for kind, form in candidates(text, phone_prefix=prefix, kinds=self.kinds):
                if self._holds(kind, form):
                    found.add(kind)
        for name in self.fields.keys() & record.texts.keys():
            kind = self.fields[name]
            with suppress(NotAnIdentifier):
                if self._holds(kind, normal_form(kind, record.texts[name], phone_prefix=prefix)):
                    found.add(kind)
        return found


def scan(
    source: Source,
    scanner: Scanner,
    *,
    keep: Cleaned | None = None,
    progress: Callable[[int, int], None] = lambda records, hits: None,
) -> Scan:
    """Look through a build; the records that stay go to `keep`. `progress` gets records, hits.

    Raises DataError at the first record that cannot be read.
    """
    hits: list[int] = []
    kinds: Counter[str] = Counter()
    count = 0
    for record in training_data.records(source):
        count = record.number
        if found := scanner.kinds_in(record):
            hits.append(record.number)
            kinds.update(found)
        elif keep is not None:
            keep.keep(record)
        if count % EVERY == 0:
            progress(count, len(hits))
    progress(count, len(hits))
    return Scan(count, tuple(hits), dict(sorted(kinds.items())), _sha256(source))


def gate(
    source: Source,
    scanner: Scanner,
    *,
    exclude_to: Path | None = None,
    progress: Callable[[int, int], None] = lambda records, hits: None,
) -> tuple[Scan, Scan | None]:
    """Scan a build and, with `exclude_to`, write it without the hits and scan what was written.

    Returns both scans. A file that changes while it is read is refused with DataError.
    """
    before = _sha256(source)
    if exclude_to is None:
        found, cleaned = scan(source, scanner, progress=progress), None
    else:
        if (
            source.kind in ("jsonl", "csv", "parquet")
            and exclude_to.resolve() == Path(source.location).resolve()
        ):
            raise DataError("The cleaned build needs a path of its own.")
        kind = "csv" if source.kind == "csv" else "jsonl"
        with training_data.writer(exclude_to, kind) as keep:
            found = scan(source, scanner, keep=keep, progress=progress)
        # What is trained on is the file that was written, so that is what the report is about.
        written = Source(kind, str(exclude_to), id_field=source.id_field)
        cleaned = scan(written, scanner)
    if before and before != found.sha256:
        raise DataError("The build changed while it was read. Run the gate again.")
    return found, cleaned


def _sha256(source: Source) -> str:
    return "" if source.kind == "sql" else training_data.file_sha256(Path(source.location))


# --- The report ---------------------------------------------------------------------------------
def report(
    found: Scan,
    cleaned: Scan | None,
    *,
    held: SuppressionList,
    training_set: str,
    key: SigningKey,
) -> bytes:
    """Signed envelope about the bytes that may be trained on: the build, or the cleaned one."""
    judged = cleaned or found
    return dsse.sign_statement(
        subject=[{"name": "build", "digest": {"sha256": judged.sha256}}],
        predicate_type=GATE_TYPE,
        predicate={
            "set": training_set,
            "verdict": FOUND if judged.hits else CLEAR,
            "list": {"sha256": held.sha256, "tags": len(held), "keyVersion": len(held.keys)},
            "records": judged.records,
            "found": len(judged.hits),
            "foundBy": dict(judged.kinds),
            "excluded": len(found.hits) if cleaned else 0,
            "scannedAt": timezone.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        name=key.name,
        private=key.private,
    )


def check(envelope: bytes, path: Path, *, list_sha256: str, training_set: str) -> Mapping[str, Any]:
    """What a report says, if it allows training on exactly this file with the list as it is now.

    1. Signed by an attest key of this record that is in use. 2. About these bytes. 3. Made with
    the present list of `training_set`. 4. Its verdict is clear, with no record found.
    Raises GateRefused, or DataError if the file cannot be read.
    """
    rows = AuditKey.objects.filter(
        purpose=AuditKey.Purpose.ATTEST, valid_to=None, revoked_from=None
    )
    known = [notes.parse_vkey(row.vkey) for row in rows]
    try:
        statement, _ = dsse.open_statement(
            envelope, known, predicate_type=GATE_TYPE, file="the report"
        )
    except NotValid as problem:
        raise GateRefused(str(problem)) from None
    subject: Any = statement["subject"]
    said: Any = statement["predicate"]
    if subject[0]["digest"]["sha256"] != training_data.file_sha256(path):
        raise GateRefused("The report is about another file than this one.")
    if said["set"] != training_set:
        raise GateRefused("The report was made for another training set: give the same --set.")
    if said["list"]["sha256"] != list_sha256:
        raise GateRefused("The suppression list changed since the report: run the gate again.")
    if said["verdict"] != CLEAR or said["found"] != 0:
        raise GateRefused("The report says that people on the suppression list would come back.")
    return dict(said)


def numbers(hits: Sequence[int], *, most: int = 200) -> str:
    """Record numbers for a person to read, the first `most` of them."""
    more = f" and {len(hits) - most} more" if len(hits) > most else ""
    return ", ".join(map(str, hits[:most])) + more
