"""SHA-256 of files and bytes, the one way in which this package writes JSON to be hashed, and the
careful way in which it reads what lies on disk."""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 16 * 2**20


class Malformed(ValueError):
    """What lies on disk has another form than ours; the message is our own and quotes nothing."""


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(content: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def code_sha256() -> str:
    """SHA-256 of the model side's source: what `sha256sum` prints of its files, in order of their
    names. By hand, beside this folder: find workers -name '*.py' | LC_ALL=C sort | xargs sha256sum
    | sha256sum."""
    folder = Path(__file__).parent
    files = sorted(path.relative_to(folder.parent).as_posix() for path in folder.rglob("*.py"))
    lines = [f"{file_sha256(folder.parent / name)}  {name}\n" for name in files]
    return sha256_of("".join(lines).encode())


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8: RFC 8785 for values of texts, small integers and lists."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def bounded_bytes(file: Path, *, at_most: int) -> bytes:
    """The bytes of a regular file of no more than `at_most` bytes.

    Raises OSError (its `strerror` says why) when there is none, it is a symbolic link, a device or
    a pipe, or it is larger. Nothing beyond the limit is read, whatever the file's size claims.
    """
    if file.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link, not the file itself")
    # Without O_NONBLOCK a pipe put in the file's place would hold up the worker for good.
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as opened:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        content = opened.read(at_most + 1)
    if len(content) > at_most:
        raise OSError(errno.EFBIG, f"it is larger than {at_most} bytes")
    return content


def parsed_json(content: bytes) -> Any:
    """The value of UTF-8 JSON that has one reading only.

    Raises ValueError for what is no JSON, and (mostly Malformed) for what parsers disagree on: a
    key twice in one object, NaN and infinities, text that is not UTF-8, nesting deeper than the
    interpreter bears.
    """
    try:
        return json.loads(
            content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise Malformed("the JSON is nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice in one JSON object")
    return found


def _no_constant(name: str) -> Any:
    raise Malformed(f"JSON has no {name}")
