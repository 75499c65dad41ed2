"""Files of keys and states: only their owner reads them, complete or not there at all.

Standard library alone, since the settings use it too. The witness runs without this module.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path


def make_once(path: Path, data: bytes) -> None:
    """Make a 0600 file unless it is there: the first process wins, the others read its content."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(partial, [data], os.O_EXCL)
        os.link(partial, path)
    except FileExistsError:
        return
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace(path: Path, parts: Iterable[bytes], *, mode: int = 0o600) -> None:
    """Replace a file in one step that survives a crash of the machine."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _write(partial, parts, os.O_TRUNC, mode)
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_private(path: Path) -> bool:
    """Whether nobody but its owner may read or write the file."""
    return not stat.S_IMODE(path.stat().st_mode) & 0o077


def _write(path: Path, parts: Iterable[bytes], flag: int, mode: int = 0o600) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flag, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask takes away
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
