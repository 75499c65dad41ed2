"""Reading and writing data sets record by record: JSON lines, CSV, Parquet, an SQL query.

Memory holds one record (of Parquet and SQL a few hundred) at a time. A record that cannot be read
stops everything with its number: what was not read was not looked through. Messages quote no value.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import sql

BATCH = 500
LONGEST_LINE = 64 * 1024 * 1024  # bytes; a longer line is no record
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


class DataError(Exception):
    """A data set cannot be read or written; the message says where and what to do."""


@dataclass(frozen=True)
class Source:
    """Where records come from. `location` is a path; for SQL a DSN (`postgresql://…`, or
    `sqlite:///…`), which is a secret. An empty `id_field` names a record by its own digest."""

    kind: str
    location: str = field(repr=False)
    query: str = ""
    id_field: str = ""


@dataclass(frozen=True)
class Record:
    """One record: its number from 1, its id, its texts by field (dotted where nested), and the
    value that it was read from."""

    number: int
    record_id: str = field(repr=False)
    texts: Mapping[str, str] = field(repr=False)
    value: Mapping[str, Any] = field(repr=False)
    raw: bytes = field(repr=False, default=b"")


def kind_of(path: Path) -> str:
    """The kind of a file by its ending; DataError for an unknown one."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"A build ends in {', '.join(SUFFIXES)}; this one in “{path.suffix}”.")
    return SUFFIXES[path.suffix.lower()]


def records(source: Source) -> Iterator[Record]:
    """Every record in order. Raises DataError at the first one that cannot be read."""
    try:
        for number, (value, raw) in enumerate(_values(source), start=1):
            texts = dict(_texts("", value))
            yield Record(number, _record_id(source, number, value, texts), texts, value, raw)
    except OSError as problem:
        raise DataError(f"The data set cannot be read ({problem.strerror}).") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in pieces; DataError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise DataError(f"The file cannot be read ({problem.strerror}).") from None


def _record_id(
    source: Source, number: int, value: Mapping[str, Any], texts: Mapping[str, str]
) -> str:
    if not source.id_field:
        content = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
        return f"sha256:{hashlib.sha256(content.encode(errors='surrogatepass')).hexdigest()}"
    if source.id_field not in texts:
        raise DataError(f"Record {number} has no “{source.id_field}”, which names its id.")
    return texts[source.id_field]


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text and number in a value, by dotted name; keys of objects may be data too."""
    match value:
        case str():
            yield name, value
        case bool() | None:
            return
        case Mapping():
            for key, each in value.items():
                dotted = f"{name}.{key}" if name else str(key)
                if not str(key).isidentifier():
                    yield f"{dotted}#", str(key)
                yield from _texts(dotted, each)
        case list() | tuple():
            for place, each in enumerate(value):
                yield from _texts(f"{name}[{place}]", each)
        case bytes():
            yield name, value.decode("utf-8", errors="replace")
        case _:
            yield name, str(value)


def _values(source: Source) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    match source.kind:
        case "jsonl":
            yield from _json_lines(Path(source.location))
        case "csv":
            yield from ((row, b"") for row in _csv_rows(Path(source.location)))
        case "parquet":
            yield from ((row, b"") for row in _parquet_rows(Path(source.location)))
        case "sql":
            yield from ((row, b"") for row in _sql_rows(source.location, source.query))
        case unknown:
            raise DataError(f"There is no kind of data set “{unknown}”.")


def _json_lines(path: Path) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            if not line.strip():
                continue
            number += 1
            try:
                whole = len(line) <= LONGEST_LINE
                value = json.loads(line, object_pairs_hook=_unique) if whole else None
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise DataError(f"Record {number} is no JSON object, each key once, on one line.")
            yield value, line


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # the value that a reader drops would not be looked at
        raise ValueError("an object repeats a key")
    return found


def _csv_rows(path: Path) -> Iterator[Mapping[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        number = 0
        try:
            _require_once(rows.fieldnames or ())
            for row in rows:
                number += 1
                if None in row or None in row.values():
                    raise DataError(f"Record {number} has other columns than the first line names.")
                yield row
        except (csv.Error, UnicodeDecodeError):
            raise DataError(f"Record {number + 1} is not CSV in UTF-8.") from None


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet  # only where it is needed: it takes a while

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_once(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, ValueError) as problem:  # also a value Python has no type for
        raise DataError(f"The file cannot be read as Parquet ({type(problem).__name__}).") from None


def _require_once(columns: Sequence[str]) -> None:
    """Of two columns of one name a row would hold one: the other would not be looked at."""
    if len(set(columns)) != len(columns):
        raise DataError("A column is named twice: give each a name of its own.")


def _sql_rows(dsn: str, query: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a query in a transaction that cannot write; errors may quote values, so only their
    kind is told."""
    try:
        if dsn.startswith("sqlite:///"):
            yield from _sqlite_rows(dsn.removeprefix("sqlite:///"), query)
        else:
            yield from _postgres_rows(dsn, query)
    except (sqlite3.Error, psycopg.Error) as problem:
        raise DataError(
            f"The query did not run ({type(problem).__name__}). Check DSN, rights and query; it"
            " must be one SELECT."
        ) from None


def _sqlite_rows(path: str, query: str) -> Iterator[Mapping[str, Any]]:
    with closing(
        sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
    ) as database:
        found = database.execute(query)
        columns = [each[0] for each in found.description or ()]
        _require_once(columns)
        for row in found:
            yield dict(zip(columns, row, strict=True))


def _postgres_rows(dsn: str, query: str) -> Iterator[Mapping[str, Any]]:
    with (
        psycopg.connect(dsn, options="-c default_transaction_read_only=on") as database,
        database.cursor("rtbf_records", row_factory=psycopg.rows.dict_row) as cursor,
    ):
        cursor.itersize = BATCH
        cursor.execute(sql.SQL(query))  # an engineer registered it
        _require_once([each.name for each in cursor.description or ()])
        yield from cursor


# --- Writing ------------------------------------------------------------------------------------
@contextmanager
def writer(path: Path, kind: str) -> Iterator[Cleaned]:
    """Records to `path`, complete or not there at all: JSON lines byte for byte as they were read,
    CSV as CSV, everything else as JSON lines. DataError if it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            yield Cleaned(file, kind)
        partial.replace(path)
    except OSError as problem:
        raise DataError(f"The cleaned build cannot be written ({problem.strerror}).") from None
    finally:
        partial.unlink(missing_ok=True)


class Cleaned:
    """The records that stay, in the form of the build that they come from."""

    def __init__(self, file: IO[bytes], kind: str) -> None:
        self._file = file
        self._kind = kind
        self._columns: list[str] | None = None

    def keep(self, record: Record) -> None:
        if self._kind == "csv":
            if self._columns is None:
                self._columns = list(record.value)
                self._row(self._columns)
            self._row(record.value.values())
        elif record.raw:
            self._file.write(record.raw.rstrip(b"\r\n") + b"\n")
        else:
            line = json.dumps(record.value, ensure_ascii=False, default=str)
            self._file.write(f"{line}\n".encode(errors="surrogatepass"))

    def _row(self, values: Iterable[Any]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(values)
        self._file.write(text.getvalue().encode())
