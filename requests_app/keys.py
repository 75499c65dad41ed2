"""Signing keys of the record: the log key signs checkpoints, the attest key signs statements.

Both are Ed25519, unencrypted PKCS#8 PEM in a file that only its owner can read. The log key belongs
to the signer alone and lies in its folder; the attest key lies in RTBF_KEY_DIR. A key that is to
follow waits beside it as `<purpose>.next.pem` until its entry `key.rotated` is in the log, and then
takes its place; the old private key is gone. What a key is good for is counted in log entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
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
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, durable_files
from requests_app.models import AuditKey
from requests_app.verifier import notes
from requests_app.verifier.trust import TIME

ATTEST_FILE = "attest.pem"
LOG_FILE = "log.pem"


REASONS = ("compromised", "lost", "misused")  # why a key is revoked; no free text enters the log


class KeyFileError(Exception):
    """A key file cannot be used; the message says what to do."""


class KeyChangeRefused(Exception):
    """A key is not rotated or revoked; the message says why."""


@dataclass(frozen=True)
class SigningKey:
    """A private key and the name under which it signs."""

    name: str
    private: Ed25519PrivateKey

    @property
    def vkey(self) -> str:
        return notes.note_key(self.name, self.private).vkey

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()


def log_key(folder: Path) -> SigningKey:
    """The signer's key, made on first use; its name is the origin of the log."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SigningKey(settings.RTBF_LOG_ORIGIN, _read_or_make(folder / LOG_FILE))


def next_log_key(folder: Path) -> SigningKey | None:
    """The key that waits in the signer's folder to follow its present one, if there is one."""
    path = _next(folder / LOG_FILE)
    return SigningKey(settings.RTBF_LOG_ORIGIN, _read(path)) if path.exists() else None


def attest_key() -> SigningKey:
    """The key that signs statements, known to the log from its first use on.

    The embedded installation makes one; in production KeyFileError says how to make it, so that
    several web machines share one key. KeyFileError too for a key that was retired.
    """
    path = settings.RTBF_KEY_DIR / ATTEST_FILE
    if settings.RTBF_PRODUCTION and not path.exists():
        raise KeyFileError(
            _(
                "%(path)s is missing. Make it once, for all machines: (umask 077; openssl genpkey"
                " -algorithm ed25519 -out %(path)s)"
            )
            % {"path": path}
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = SigningKey(_attest_name(), _read_or_make(path))
    row = AuditKey.objects.filter(vkey=key.vkey).first()
    if row is None:
        with transaction.atomic():
            audit.register_key(purpose=AuditKey.Purpose.ATTEST, vkey=key.vkey, name=key.name)
    elif row.valid_to is not None:
        raise KeyFileError(
            _(
                "%(path)s holds a key that was retired at log size %(valid_to)s. Put the present"
                " one there; if a rotation was interrupted here, run `manage.py rotate_key"
                " attest` again."
            )
            % {"path": path, "valid_to": row.valid_to}
        )
    return key


# --- Rotation and revocation --------------------------------------------------------------------
def prepare_log_key(folder: Path) -> SigningKey:
    """Make the key that shall follow the signer's (once); the signer does the rest by itself."""
    if not (folder / LOG_FILE).exists():
        raise KeyChangeRefused(f"There is no log key in {folder} yet.")
    return SigningKey(settings.RTBF_LOG_ORIGIN, _read_or_make(_next(folder / LOG_FILE)))


def replace_log_key(folder: Path) -> None:
    """Put the next key in the place of the old one, which is gone then."""
    _replace(folder / LOG_FILE)


def rotate_attest_key() -> SigningKey:
    """Follow the attest key by a new one: entry in the log, then the file. Safe to repeat."""
    path = settings.RTBF_KEY_DIR / ATTEST_FILE
    if not path.exists():
        raise KeyChangeRefused(f"There is no key {path} yet.")
    if not _next(path).exists():
        attest_key()  # refuses one that was retired elsewhere
    old = SigningKey(_attest_name(), _read(path))
    new = SigningKey(_attest_name(), _read_or_make(_next(path)))
    record_rotation(purpose=AuditKey.Purpose.ATTEST, old=old, new=new)
    _replace(path)
    return new


@transaction.atomic
def record_rotation(*, purpose: str, old: SigningKey, new: SigningKey) -> AuditKey:
    """Enter `key.rotated`, once: `old` is good up to the size before the entry, `new` after it."""
    if old.vkey == new.vkey:
        raise KeyChangeRefused("The next key is the present one.")
    entry = audit.append_entry(
        type="key.rotated",
        actor=audit.SYSTEM,
        data={"purpose": purpose, "retired": old.vkey, "vkey": new.vkey},
        idem_key=f"key.rotated:{new.public.hex()}",
    )
    row = AuditKey.objects.filter(vkey=new.vkey).first()
    if row is not None:
        return row
    rows = AuditKey.objects.filter(vkey=old.vkey)
    if rows.filter(valid_to__isnull=False).exists():
        raise KeyChangeRefused("The key that is to be followed was retired before.")
    rows.update(valid_to=entry.seq)
    return AuditKey.objects.create(
        name=new.name, purpose=purpose, vkey=new.vkey, valid_from=entry.seq
    )


@transaction.atomic
def revoke_key(*, vkey: str, from_size: int, reason: str) -> AuditKey:
    """Enter `key.revoked`: what the key signed for larger logs than `from_size` counts no more.

    Unless a witness cosigned it before now, see verifier/trust.py. Only a retired key: rotate it
    first, or nothing could be signed. Raises KeyChangeRefused, ValueError for an unknown reason.
    """
    if reason not in REASONS:
        raise ValueError(f"“{reason}” is not one of {', '.join(REASONS)}.")
    key = AuditKey.objects.filter(vkey=vkey).first()
    if key is None:
        raise KeyChangeRefused(f"The log knows no key {vkey}.")
    _refuse_revoked(key)
    if key.valid_to is None:
        raise KeyChangeRefused(
            f"The key is in use. Rotate it first: manage.py rotate_key {key.purpose}"
        )
    if not key.valid_from <= from_size <= key.valid_to:
        raise KeyChangeRefused(
            f"The key was used for log sizes above {key.valid_from} up to {key.valid_to}."
        )
    audit.append_entry(
        type="key.revoked",
        actor=audit.SYSTEM,
        data={"purpose": key.purpose, "vkey": vkey, "from_size": from_size, "reason": reason},
    )
    key.refresh_from_db()  # the append locked the log: from here on nobody else changes a key
    _refuse_revoked(key)
    key.revoked_from, key.revoked_at = from_size, timezone.now()
    key.save(update_fields=["revoked_from", "revoked_at"])
    return key


def _refuse_revoked(key: AuditKey) -> None:
    if key.revoked_at is not None:
        raise KeyChangeRefused(f"The key was revoked before, from size {key.revoked_from}.")


# --- What others are told -----------------------------------------------------------------------
def known_since(key: SigningKey) -> int:
    """Index of the log entry that made the key known."""
    return AuditKey.objects.get(vkey=key.vkey).valid_from


def trust_text(*, known_at: int | None = None) -> str:
    """The trust file: each public key of the record, its purpose, and the log sizes it is for.

    Whoever verifies must get it from the controller by another way than the bundle, and the keys of
    witnesses from these: they stand here as comments. With `known_at` only what was known at that
    size of the log: what a bundle encloses must not change later.
    """
    lines = [f"# Public keys of {settings.RTBF_LOG_ORIGIN} ({settings.RTBF_CONTROLLER_NAME})"]
    for key in AuditKey.objects.order_by("purpose", "valid_from", "id"):
        if known_at is None:
            lines.append(_trust_line(key))
        elif key.valid_from < known_at:
            lines.append(f"{key.purpose} {key.vkey} from={key.valid_from}")
    if known_at is None and settings.RTBF_WITNESSES:
        lines.append(
            "# Compare with what the witness itself publishes, then remove the # before it:"
        )
        lines += [f"# witness {vkey}" for vkey in settings.RTBF_WITNESSES.values()]
    return "\n".join(lines) + "\n"


def _trust_line(key: AuditKey) -> str:
    line = f"{key.purpose} {key.vkey} from={key.valid_from}"
    if key.valid_to is not None:
        line += f" to={key.valid_to}"
    if key.revoked_at is not None:
        line += f" revoked={key.revoked_from}@{key.revoked_at.astimezone(UTC).strftime(TIME)}"
    return line


def _attest_name() -> str:
    return f"{settings.RTBF_LOG_ORIGIN}/attest"


def _next(path: Path) -> Path:
    return path.with_name(f"{path.stem}.next.pem")


def _replace(path: Path) -> None:
    """Put the next key in the place of `path`, if that was not done yet; survives a power cut."""
    if _next(path).exists():
        _next(path).replace(path)
        durable_files.sync_folder(path.parent)


def _read_or_make(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        _make(path)
    return _read(path)


def _read(path: Path) -> Ed25519PrivateKey:
    if not durable_files.is_private(path):
        raise KeyFileError(_("Others can read %(path)s. Run: chmod 600 %(path)s") % {"path": path})
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as problem:
        raise KeyFileError(
            _("%(path)s does not hold a PEM private key: %(problem)s")
            % {"path": path, "problem": problem}
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            _("%(path)s holds a key of another kind; Ed25519 is needed.") % {"path": path}
        )
    return key


def _make(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    durable_files.make_once(path, pem)
