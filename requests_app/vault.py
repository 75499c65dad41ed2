"""The vault: personal data of cases, each case under its own key.

A random 256-bit data key per case encrypts every item with AES-256-GCM (NIST SP 800-38D, 96-bit
random nonce). The data key is wrapped by the key-encryption key, which lies outside the database:
`RTBF_KEK` (base64, 32 bytes), or the file `kek` in `RTBF_KEY_DIR`, which the embedded installation
makes for itself. Destroying the wrapped key makes every item of the case unreadable for good.

Item names: `email`, `name`, `aliases`, `message`, `facts`, `code` (until mailed),
`identity/note`, `scope/<id>/reasoning`, `scope/<id>/review/<day>`, `decision/<id>/reasoning`,
`extension/reasons`, `suspension/<id>/reason`, `letter/<id>`, `note/<entry>`, `notice/<id>/text`,
`notice/<id>/reason`, `run/<id>/<probe>`, `api/body`, `api/callbacks`, `api/access_code`,
`api/agent_request_id`.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from requests_app import durable_files
from requests_app.models import AuditOpening, Case, CaseKey, Draft, Letter, RecordMatch, VaultItem
from requests_app.verifier import canonical

logger = logging.getLogger(__name__)

KEY_BYTES = 32
NONCE_BYTES = 12
# Tables of keys, salts and digests, whose deleted rows must not stay in PostgreSQL's files.
OVERWRITTEN = tuple(
    model._meta.db_table for model in (CaseKey, AuditOpening, Letter, RecordMatch, Case)
)
DRAFT_LIFE = timedelta(hours=24)
_REQUIRED = object()


class VaultError(Exception):
    """The vault cannot do it; the text names case id and item, never a value."""


class VaultSealed(VaultError):
    """The case's key was destroyed: nothing of it can be read or written any more."""


class VaultMissing(VaultError):
    """The case has no such item."""


class VaultDamaged(VaultError):
    """The stored bytes do not belong to this key, case, name and version."""


# --- Items of a case ----------------------------------------------------------------------------
def create_case_key(case: Case) -> None:
    """Make and store the wrapped data key of a new case."""
    key = secrets.token_bytes(KEY_BYTES)
    CaseKey.objects.create(case=case, wrapped=_seal(_kek(), key, _aad("key", str(case.id))))


def put(case: Case, name: str, value: Any) -> None:
    """Encrypt a JSON value as item `name`, replacing an earlier one; VaultSealed after sealing."""
    put_each(case, {name: value})


def put_each(case: Case, values: Mapping[str, Any]) -> None:
    """As `put`, several items at once."""
    key = _case_key(case)
    with transaction.atomic(savepoint=False):
        found = VaultItem.objects.select_for_update().filter(case=case, name__in=values)
        known = {item.name: item for item in found}
        for name, value in values.items():
            item = known.get(name) or VaultItem(case=case, name=name, version=0)
            item.version += 1
            item.ciphertext = _seal(key, _encode(value), _aad(str(case.id), name, item.version))
            if name in known:
                item.save()
            known[name] = item
        VaultItem.objects.bulk_create([item for item in known.values() if item.pk is None])


def get(case: Case, name: str, default: Any = _REQUIRED) -> Any:
    """Decrypt item `name`.

    Raises VaultMissing if there is none and no default, VaultSealed after sealing, VaultDamaged if
    the bytes were changed, moved to another case or name, or set back to an older version.
    """
    key = _case_key(case)
    item = VaultItem.objects.filter(case=case, name=name).first()
    if item is None:
        if default is _REQUIRED:
            raise VaultMissing(f"The vault has no “{name}” for case {case.id}.")
        return default
    return _read(key, item)


def get_all(case: Case, prefix: str) -> dict[str, Any]:
    """Decrypt every item whose name begins so, by the rest of its name; raises as `get` does."""
    key = _case_key(case)
    items = VaultItem.objects.filter(case=case, name__startswith=prefix).order_by("pk")
    return {item.name.removeprefix(prefix): _read(key, item) for item in items}


def get_each(cases: Iterable[Case], name: str) -> dict[UUID, Any]:
    """Decrypt item `name` of several cases, by case id, in one query; cases that are sealed or have
    no such item are left out. VaultDamaged as `get`."""
    items = VaultItem.objects.filter(case__in=cases, name=name, case__key__wrapped__isnull=False)
    rows = list(items.values_list("case", "version", "ciphertext", "case__key__wrapped"))
    found, kek = {}, _kek() if rows else b""
    for pk, version, ciphertext, wrapped in rows:
        of, what = str(pk), f"{pk}/{name}"
        key = _open(kek, bytes(cast(bytes, wrapped)), _aad("key", of), what=f"key of {pk}")
        found[pk] = json.loads(_open(key, bytes(ciphertext), _aad(of, name, version), what=what))
    return found


def has(case: Case, name: str) -> bool:
    """Tell whether the case has an item of that name."""
    return VaultItem.objects.filter(case=case, name=name).exists()


def remove(case: Case, name: str) -> None:
    """Delete one item, if it is there."""
    VaultItem.objects.filter(case=case, name=name).delete()


def seal_bytes(case: Case, name: str, value: bytes) -> bytes:
    """Encrypt bytes that are kept outside the vault, bound to case and name; VaultSealed after
    sealing."""
    return _seal(_case_key(case), value, _aad("file", str(case.id), name))


def open_bytes(case: Case, name: str, sealed: bytes) -> bytes:
    """Decrypt what `seal_bytes` made for this case and name; VaultSealed, VaultDamaged."""
    return _open(_case_key(case), sealed, _aad("file", str(case.id), name), what=name)


def destroy_key(case: Case) -> None:
    """Destroy the wrapped key of a case; what it encrypted stays unreadable (crypto-shredding)."""
    CaseKey.objects.filter(case=case, destroyed_at=None).update(
        wrapped=None, destroyed_at=timezone.now()
    )


def erase_items(case: Case) -> int:
    """Delete the ciphertext of a case; returns how many items there were."""
    count: int = VaultItem.objects.filter(case=case).count()
    VaultItem.objects.filter(case=case).delete()
    return count


def overwrite_freed_pages() -> None:
    """Rid the database's files of deleted keys and salts. Call it outside a transaction.

    SQLite overwrites what is deleted (secure_delete), but its write-ahead log holds earlier images
    of pages until it is brought in and cut to nothing
    (https://www.sqlite.org/pragma.html#pragma_wal_checkpoint). PostgreSQL leaves dead rows in place
    until their table is written anew; that is done for keys, salts and digests. The ciphertext in
    dead rows says nothing without them. PostgreSQL's own write-ahead log and its archives age by
    themselves.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        else:
            busy = not _write_anew(cursor)
    if busy:
        logger.warning(
            "Freed pages were not overwritten: in use, or no right to (migrate_as_owner)."
        )


def _write_anew(cursor: CursorWrapper) -> bool:
    """Write PostgreSQL tables to new files, if nobody holds them for long; tells whether it did.

    Without the right MAINTAIN, which PostgreSQL has from version 17, only their owner can.
    """
    cursor.execute("SET lock_timeout = '2s'")
    try:
        for table in OVERWRITTEN:
            cursor.execute("SELECT pg_relation_filenode(%s)", [table])
            before = cursor.fetchone()
            cursor.execute(f"VACUUM (FULL) {connection.ops.quote_name(table)}")
            cursor.execute("SELECT pg_relation_filenode(%s)", [table])
            if cursor.fetchone() == before:
                return False
    except OperationalError:
        return False
    finally:
        cursor.execute("RESET lock_timeout")
    return True


# --- Drafts of the public form ------------------------------------------------------------------
def save_draft(draft_id: UUID | None, answers: dict[str, Any]) -> Draft:
    """Encrypt the answers under a fresh key; an unknown or purged id gets a new draft."""
    draft = Draft.objects.filter(pk=draft_id).first() if draft_id else None
    draft = draft or Draft(id=uuid4())
    key = secrets.token_bytes(KEY_BYTES)
    draft.wrapped = _seal(_kek(), key, _aad("draft-key", str(draft.id)))
    draft.ciphertext = _seal(key, _encode(answers), _aad("draft", str(draft.id)))
    draft.save()
    return draft


def load_draft(draft_id: UUID | None) -> dict[str, Any] | None:
    """The answers of a draft, or None if it is unknown or older than 24 hours."""
    since = timezone.now() - DRAFT_LIFE
    draft = Draft.objects.filter(pk=draft_id, created_at__gt=since).first() if draft_id else None
    if draft is None:
        return None
    key = _open(_kek(), bytes(draft.wrapped), _aad("draft-key", str(draft.id)), what="draft key")
    answers: dict[str, Any] = json.loads(
        _open(key, bytes(draft.ciphertext), _aad("draft", str(draft.id)), what="draft")
    )
    return answers


def delete_draft(draft_id: UUID | None) -> None:
    """Delete a draft, if it is there."""
    if draft_id:
        Draft.objects.filter(pk=draft_id).delete()


def shorten_draft(draft_id: UUID, *, left: timedelta) -> None:
    """Let a draft end in `left`, unless it ends sooner."""
    began = timezone.now() - DRAFT_LIFE + left
    Draft.objects.filter(pk=draft_id, created_at__gt=began).update(created_at=began)


def purge_drafts() -> int:
    """Delete drafts older than 24 hours; returns how many."""
    old = Draft.objects.filter(created_at__lte=timezone.now() - DRAFT_LIFE)
    count: int = old.count()
    old.delete()
    return count


# --- Keys and bytes -----------------------------------------------------------------------------
def _case_key(case: Case) -> bytes:
    row = CaseKey.objects.filter(case=case).first()
    if row is None:
        raise VaultMissing(f"Case {case.id} has no key.")
    if row.wrapped is None:
        raise VaultSealed(f"The key of case {case.id} was destroyed when the case was sealed.")
    return _open(_kek(), bytes(row.wrapped), _aad("key", str(case.id)), what=str(row))


def _read(key: bytes, item: VaultItem) -> Any:
    aad = _aad(str(item.case_id), item.name, item.version)
    return json.loads(_open(key, bytes(item.ciphertext), aad, what=str(item)))


def _kek() -> bytes:
    """The key-encryption key: from the environment, or the installation's own 0600 file."""
    if text := os.environ.get("RTBF_KEK"):
        return _decode_kek(text, "RTBF_KEK")
    path = Path(settings.RTBF_KEY_DIR) / "kek"
    if not path.exists():
        if settings.RTBF_PRODUCTION:
            raise ImproperlyConfigured(
                "Set RTBF_KEK (base64 of 32 random bytes) or put it into RTBF_KEY_DIR/kek:"
                " a production installation brings its own key-encryption key."
            )
        made = base64.b64encode(secrets.token_bytes(KEY_BYTES))
        durable_files.make_once(path, made)
    if not durable_files.is_private(path):
        raise ImproperlyConfigured(f"{path} can be read by others: chmod 600 {path}")
    return _decode_kek(path.read_text(), str(path))


def _decode_kek(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ImproperlyConfigured(f"{where} must hold the base64 of exactly 32 bytes.")
    return key


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _aad(*parts: str | int) -> bytes:
    return canonical.dumps(list(parts))


def _seal(key: bytes, plain: bytes, aad: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, aad)


def _open(key: bytes, sealed: bytes, aad: bytes, *, what: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)
    except (InvalidTag, ValueError):
        raise VaultDamaged(
            f"{what} cannot be decrypted: the bytes were changed, or RTBF_KEK is not the key they"
            " were written under."
        ) from None
