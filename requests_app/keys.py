"""Signing keys of the record: the log key signs checkpoints, the attest key signs statements.

Both are Ed25519, unencrypted PKCS#8 PEM in a file that only its owner can read. The log key belongs
to the signer alone and lies in its folder; the attest key lies in RTBF_KEY_DIR.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from django.conf import settings
from django.db import transaction

from requests_app import audit
from requests_app.models import AuditKey
from requests_app.verifier import notes

ATTEST_FILE = "attest.pem"
LOG_FILE = "log.pem"


class KeyFileError(Exception):
    """A key file cannot be used; the message says what to do."""


@dataclass(frozen=True)
class SigningKey:
    """A private key and the name under which it signs."""

    name: str
    private: Ed25519PrivateKey

    @property
    def vkey(self) -> str:
        return notes.note_key(self.name, self.private).vkey


def log_key(folder: Path) -> SigningKey:
    """The signer's key, made on first use; its name is the origin of the log."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SigningKey(settings.RTBF_LOG_ORIGIN, _read_or_make(folder / LOG_FILE))


def attest_key() -> SigningKey:
    """The key that signs statements, known to the log from its first use on.

    The embedded installation makes one; in production KeyFileError says how to make it, so that
    several web machines share one key.
    """
    path = settings.RTBF_KEY_DIR / ATTEST_FILE
    if settings.RTBF_PRODUCTION and not path.exists():
        raise KeyFileError(
            f"{path} is missing. Make it once, for all machines: "
            f"(umask 077; openssl genpkey -algorithm ed25519 -out {path})"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = SigningKey(f"{settings.RTBF_LOG_ORIGIN}/attest", _read_or_make(path))
    if not AuditKey.objects.filter(vkey=key.vkey).exists():
        with transaction.atomic():
            audit.register_key(purpose=AuditKey.Purpose.ATTEST, vkey=key.vkey, name=key.name)
    return key


def known_since(key: SigningKey) -> int:
    """Index of the log entry that made the key known."""
    return AuditKey.objects.get(vkey=key.vkey).valid_from


def trust_text(*, known_at: int | None = None) -> str:
    """The trust file: each public key of the record, its purpose, and the log sizes it is for.

    Whoever verifies must get it from the controller by another way than the bundle. With `known_at`
    only what was known at that size of the log: what a bundle encloses must not change later.
    """
    lines = [f"# Public keys of {settings.RTBF_LOG_ORIGIN} ({settings.RTBF_CONTROLLER_NAME})"]
    for key in AuditKey.objects.order_by("purpose", "valid_from", "id"):
        if known_at is not None and key.valid_from >= known_at:
            continue
        retired = known_at is None and key.valid_to is not None
        until = f" to={key.valid_to}" if retired else ""
        lines.append(f"{key.purpose} {key.vkey} from={key.valid_from}{until}")
    return "\n".join(lines) + "\n"


def _read_or_make(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        _make(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise KeyFileError(f"Others can read {path}. Run: chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as problem:
        raise KeyFileError(f"{path} does not hold a PEM private key: {problem}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a key of another kind; Ed25519 is needed.")
    return key


def _make(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    try:
        os.link(partial, path)  # atomic: the first process wins, the others read its key
    except FileExistsError:
        pass
    finally:
        partial.unlink()
