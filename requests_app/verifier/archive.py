"""Bundles as ZIP files with exactly one spelling: same files, same bytes, on every machine.

Names sorted, nothing compressed, no dates, no extra fields, no comment. A reader accepts only what
the writer would write, so that every bit of the archive is checked, its metadata included.
Layout after PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping

from .errors import Invalid

LARGEST_ARCHIVE = 64 * 1024 * 1024  # bytes
MOST_FILES = 10_000

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION, _UNIX, _STORED, _TIME, _DATE = 20, 3 << 8, 0, 0, 0x21  # 1980-01-01 00:00:00
_MODE = 0o100644 << 16


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """The archive of `files`; ValueError for a name that is not plain, or for too many bytes."""
    local, central = bytearray(), bytearray()
    for name in sorted(files):
        if not is_plain(name):
            raise ValueError(f"“{name}” cannot name a file of a bundle.")
        data, path = files[name], name.encode("ascii")
        crc, size = zlib.crc32(data), len(data)
        about = (_VERSION, 0, _STORED, _TIME, _DATE, crc, size, size, len(path), 0)
        central += _CENTRAL.pack(
            b"PK\x01\x02", _UNIX | _VERSION, *about, 0, 0, 0, _MODE, len(local)
        )
        central += path
        local += _LOCAL.pack(b"PK\x03\x04", *about) + path + data
    count = len(files)
    if count > MOST_FILES or len(local) + len(central) + _END.size > LARGEST_ARCHIVE:
        raise ValueError("The bundle is larger than the verifier accepts.")
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, len(central), len(local), 0)
    return bytes(local + central + end)


def read_archive(archive: bytes) -> dict[str, bytes]:
    """Files of a canonical archive; Invalid, naming the file where it can, for anything else."""
    if len(archive) > LARGEST_ARCHIVE:
        raise Invalid(f"The bundle is larger than {LARGEST_ARCHIVE // 1024 // 1024} MiB.")
    files: dict[str, bytes] = {}
    position, last = 0, ""
    while archive[position : position + 4] == b"PK\x03\x04":
        name, data, position = _read_file(archive, position, after=last)
        files[name] = data
        if len(files) > MOST_FILES:
            raise Invalid("The bundle holds too many files.")
        last = name
    if not files:
        raise Invalid("This is not a bundle: it does not begin as a ZIP file with content.")
    if write_archive(files) != archive:
        where = f" after {last}"
        raise Invalid(f"The ZIP structure{where} is not the one form that a bundle may have.")
    return files


def is_plain(name: str) -> bool:
    """Whether a name is safe and canonical: ASCII, relative, no dot segments."""
    return len(name) <= 200 and _NAME.fullmatch(name) is not None


def _read_file(archive: bytes, position: int, *, after: str) -> tuple[str, bytes, int]:
    """Name, content and end of the file at `position`, which must sort behind `after`."""
    if position + _LOCAL.size > len(archive):
        raise Invalid("The bundle is cut off.", file=after)
    _, _, _, _, _, _, crc, _, size, length, _ = _LOCAL.unpack_from(archive, position)
    start = position + _LOCAL.size
    try:
        name = archive[start : start + length].decode("ascii")
    except UnicodeDecodeError:
        name = ""
    data = archive[start + length : start + length + size]
    if not is_plain(name) or len(data) != size:
        raise Invalid("The ZIP header of the file that follows is damaged.", file=after)
    if name <= after:
        raise Invalid(
            f"The file is out of order or twice in the bundle (after {after}).", file=name
        )
    if zlib.crc32(data) != crc:
        raise Invalid("The content was changed: it does not fit its checksum.", file=name)
    return name, data, start + length + size
