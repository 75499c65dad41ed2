"""Keyed digests of identifiers, and the list of them: who must not come back into a training set.

A tag of key version 1 is HMAC-SHA256(K1, kind ‖ 0x1f ‖ normal form); each later version is
HMAC-SHA256(Kv, tag of v - 1), so a key is replaced without any identifier in clear, and a look-up
goes through the chain. Keys lie outside the database: `RTBF_SUPPRESSION_KEYS` (base64 of 32 bytes
each, comma-separated, oldest first), or the files `1`, `2`, … in `RTBF_KEY_DIR/suppression`, of
which the embedded installation makes the first for itself. All of them stay: without the first
nothing can be looked up.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from requests_app import durable_files

KEY_BYTES = 32
RECORD = "record"  # the kind of a record of a training set; never looked for in texts
_CHECK = b"rtbf.suppression.key"


class SuppressionKeyError(Exception):
    """A key is missing or damaged; the message says what to do."""


def tag(keys: Sequence[bytes], kind: str, form: str) -> bytes:
    """The 32-byte tag of a normal form under the newest of `keys`."""
    return chain(keys, kind, form)[-1]


def chain(keys: Sequence[bytes], kind: str, form: str) -> list[bytes]:
    """The tags of every version, oldest first."""
    message = f"{kind}\x1f{form}".encode(errors="surrogatepass")
    tags = [hmac.digest(keys[0], message, "sha256")]
    for key in keys[1:]:
        tags.append(hmac.digest(key, tags[-1], "sha256"))
    return tags


def carried_on(keys: Sequence[bytes], value: bytes, *, version: int) -> bytes:
    """A tag of `version` as one of the newest version."""
    for key in keys[version:]:
        value = hmac.digest(key, value, "sha256")
    return value


Digest = Callable[[bytes], bytes]


def digester(key: bytes) -> Digest:
    """HMAC-SHA256 under a 32-byte key with what depends on the key alone computed once (RFC 2104,
    section 4): a build asks a great many times."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block)).copy
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block)).copy

    def digest(message: bytes) -> bytes:
        first, second = inner(), outer()
        first.update(message)
        second.update(first.digest())
        return second.digest()

    return digest


def record_kind(training_set: str) -> str:
    """Record ids are told apart by their set: `record/crm` and `record/mails` never match."""
    return f"{RECORD}/{training_set}"


def key_check(key: bytes) -> str:
    """What the database keeps to tell that this is the key it was written under."""
    return hmac.digest(key, _CHECK, "sha256").hex()[:16]


@dataclass(frozen=True)
class SuppressionList:
    """The tags in force by kind, and the keys to look them up with; `sha256` names its content."""

    keys: tuple[bytes, ...] = field(repr=False)
    tags: Mapping[str, frozenset[bytes]] = field(repr=False)
    sha256: str
    digests: tuple[Digest, ...] = field(repr=False)

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(self.tags)

    def __len__(self) -> int:
        return sum(map(len, self.tags.values()))

    def holds(self, kind: str, form: str) -> bool:
        """Whether the identifier is on the list."""
        held = self.tags.get(kind)
        if held is None:
            return False
        value = f"{kind}\x1f{form}".encode(errors="surrogatepass")
        for digest in self.digests:
            value = digest(value)
        return value in held


def make_list(
    rows: Iterable[tuple[str, int, bytes]], keys: Sequence[bytes] | None = None
) -> SuppressionList:
    """The list of rows (kind, key version, tag); those of older versions are carried on.

    Its digest does not depend on the order of rows. Raises SuppressionKeyError without the keys.
    """
    keys = read_keys() if keys is None else keys
    found: dict[str, set[bytes]] = {}
    for kind, version, value in rows:
        found.setdefault(kind, set()).add(carried_on(keys, value, version=version))
    lines = sorted(f"{kind} {value.hex()}" for kind, values in found.items() for value in values)
    text = "\n".join([f"version {len(keys)} {key_check(keys[-1])}", *lines])
    return SuppressionList(
        keys=tuple(keys),
        tags={kind: frozenset(values) for kind, values in found.items()},
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        digests=tuple(map(digester, keys)),
    )


# --- Keys ---------------------------------------------------------------------------------------
def read_keys() -> tuple[bytes, ...]:
    """All keys, oldest first; the embedded installation makes its first one.

    Raises SuppressionKeyError: none in production, a gap, a file others can read, not 32 bytes.
    """
    if text := os.environ.get("RTBF_SUPPRESSION_KEYS"):
        return tuple(_decoded(each, "RTBF_SUPPRESSION_KEYS") for each in text.split(","))
    folder = _folder()
    if not (folder / "1").exists():
        if settings.RTBF_PRODUCTION:
            raise SuppressionKeyError(
                "Set RTBF_SUPPRESSION_KEYS (base64 of 32 random bytes), or put that into the file"
                f" {folder / '1'}: a production installation brings its own key."
            )
        durable_files.make_once(folder / "1", _new_key())
    versions = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    if versions != list(range(1, len(versions) + 1)):
        raise SuppressionKeyError(
            f"A key is missing in {folder}: there are {versions}. Restore the others from a backup."
        )
    return tuple(_read(folder / str(version)) for version in versions)


def make_next_key() -> int:
    """Make the key of the next version in RTBF_KEY_DIR; returns that version.

    Raises SuppressionKeyError where the keys come from the environment: add it there.
    """
    if os.environ.get("RTBF_SUPPRESSION_KEYS"):
        raise SuppressionKeyError(
            "The keys come from RTBF_SUPPRESSION_KEYS: add the new one there, behind a comma"
            " (openssl rand -base64 32), then run this again with --given."
        )
    version = len(read_keys()) + 1
    durable_files.make_once(_folder() / str(version), _new_key())
    return version


def _folder() -> Path:
    return Path(settings.RTBF_KEY_DIR) / "suppression"


def _read(path: Path) -> bytes:
    if not durable_files.is_private(path):
        raise SuppressionKeyError(f"Others can read {path}. Run: chmod 600 {path}")
    return _decoded(path.read_text(), str(path))


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise SuppressionKeyError(f"{where} must hold the base64 of exactly 32 bytes a key.")
    return key


def _new_key() -> bytes:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES))
