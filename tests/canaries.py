"""Looks for planted values in bytes, in every spelling in which they could lie there."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from django.db import connection


def spellings(value: str | bytes) -> set[bytes]:
    """Plain, UTF-16, JSON-escaped, URL-quoted, hexadecimal; base64 at each of its three offsets."""
    plain = value if isinstance(value, bytes) else value.encode()
    found = {plain, plain.hex().encode(), plain.hex().upper().encode()}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + plain).rstrip(b"=")
        inner = encoded[-(-before * 8 // 6) : len(plain + b"\0" * before) * 8 // 6]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    if isinstance(value, str):
        found |= {value.encode("utf-16-le"), value.encode("utf-16-be")}
        found |= {json.dumps(value)[1:-1].encode(), quote(value).encode()}
    return found


def leaks(places: Mapping[str, bytes], values: Mapping[str, str | bytes]) -> list[str]:
    """`<what> in <place>` for every planted value found; the value itself is not named."""
    return [
        f"{what} in {place}"
        for what, value in values.items()
        for place, content in places.items()
        if any(each in content for each in spellings(value))
    ]


def stored_rows() -> dict[str, bytes]:
    """Every value of every table, as the database gives it out."""
    found = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608
            values = (value for row in cursor.fetchall() for value in row)
            found[f"table {table}"] = b"\0".join(map(_as_bytes, values))
    return found


def database_files() -> dict[str, bytes]:
    """The files in which the tables lie, free pages included; SQLite's write-ahead log too.

    On PostgreSQL the heap of this database; not its write-ahead log, which ages by itself.
    """
    if connection.vendor == "sqlite":
        path = Path(connection.settings_dict["NAME"])
        return files(path.parent.glob(f"{path.name}*"))
    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")
        cursor.execute("SHOW data_directory")
        folder = Path(cursor.fetchone()[0])
        cursor.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
        return files((folder / "base" / str(cursor.fetchone()[0])).iterdir())


def files(paths: Iterable[Path]) -> dict[str, bytes]:
    """Name and content of each file, together."""
    return {f"file {path}": f"{path}\n".encode() + path.read_bytes() for path in paths}


def _as_bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
