"""The checkpoint signer: a process of its own, with the only log key and a memory of its own.

It remembers what it signed last (size, root, frontier) outside the database and signs nothing that
does not extend it. Who rewrites the database therefore gets no fresh signature for it. Order of one
step: read the head, hash the new entries' bytes, check the consistency proof from the remembered
root, remember the new state, store the checkpoint; after a crash the same checkpoint is made again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from requests_app import audit, keys
from requests_app.audit import LogError, StoredLog
from requests_app.keys import SigningKey
from requests_app.models import AuditKey, Checkpoint, LogHead
from requests_app.verifier import merkle, notes

STATE_FILE = "state.json"
LOCK_FILE = "lock"


class SignerRefused(Exception):
    """Nothing is signed; the message says what was found and what to do."""


@dataclass(frozen=True)
class Signer:
    """An opened signer: its folder, its key, and what it signed last (None before the first)."""

    folder: Path
    key: SigningKey
    signed: StoredLog | None


@contextmanager
def open_signer(folder: Path) -> Iterator[Signer]:
    """The signer of `folder`, alone in it, after a full check of the log against its memory.

    Makes key and folder on first use and the key known to the log. Raises SignerRefused.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SignerRefused(f"Another signer is at work in {folder}; stop it first.") from None
        signed = _read_state(folder)
        if signed is None and Checkpoint.objects.exists():
            raise SignerRefused(
                f"The log has checkpoints, but {folder / STATE_FILE} is missing. Restore the"
                " signer's folder from its own backup; without it the log must begin a new origin."
            )
        key = keys.log_key(folder)
        _register(key)
        if signed is not None:
            _check_all(signed)
        yield Signer(folder, key, signed)


def sign_next(signer: Signer) -> tuple[Signer, Checkpoint | None]:
    """Sign the present head if it is new; returns the signer's next state and the checkpoint.

    None when there is nothing new. Raises SignerRefused when the log does not extend what was
    signed before.
    """
    head = LogHead.objects.filter(id=1).first()
    if head is None or head.size == 0:
        return signer, None
    before = signer.signed or StoredLog(size=0, frontier=())
    if head.origin != signer.key.name:
        raise SignerRefused(f"The log is {head.origin}, but this signer is for {signer.key.name}.")
    if head.size < before.size:
        raise SignerRefused(
            f"The log has {head.size} entries, but {before.size} were signed: entries were removed"
            " or an older backup was restored. A restored log must begin a new origin."
        )
    if head.size == before.size and Checkpoint.objects.filter(size=head.size).exists():
        return signer, None
    found = _extend(before, head)
    _write_state(signer.folder, found)
    checkpoint = _store(signer.key, found)
    return Signer(signer.folder, signer.key, found), checkpoint


def _extend(before: StoredLog, head: LogHead) -> StoredLog:
    """The log up to `head`, its new bodies hashed here, proven to contain what was signed."""
    try:
        found = audit.read_log(after=before, size=head.size)
        tree = audit.log_tree(head.size)
        merkle.verify_consistency(
            first=before.size,
            second=head.size,
            path=tree.consistency(before.size),
            first_root=before.root,
            second_root=tree.root(),
        )
    except (LogError, merkle.ProofError) as problem:
        raise SignerRefused(
            f"The log does not extend what was signed at {before.size} entries: {problem}"
            " Run `manage.py verify_log` and keep the database as it is for the investigation."
        ) from None
    stored_head = merkle.frontier_root([bytes.fromhex(node) for node in head.frontier])
    if not found.root == tree.root() == stored_head:
        raise SignerRefused(
            f"The head of the log does not fit its {head.size} entries. Run `manage.py verify_log`"
            " and keep the database as it is for the investigation."
        )
    return found


def _check_all(signed: StoredLog) -> None:
    try:
        found = audit.read_log(size=signed.size)
    except LogError as problem:
        raise SignerRefused(f"{problem} It was signed before; nothing more is signed.") from None
    if found.root != signed.root:
        raise SignerRefused(
            f"The first {signed.size} entries of the log are not those that were signed."
            " Keep the database as it is for the investigation."
        )


def _register(key: SigningKey) -> None:
    other = AuditKey.objects.filter(purpose=AuditKey.Purpose.LOG).exclude(vkey=key.vkey).first()
    if other is not None:
        raise SignerRefused(
            f"The log is signed by {other.vkey}, but this folder holds another key. Restore the"
            " signer's folder from its own backup."
        )
    if not AuditKey.objects.filter(vkey=key.vkey).exists():
        with transaction.atomic():
            audit.register_key(purpose=AuditKey.Purpose.LOG, vkey=key.vkey, name=key.name)


def _store(key: SigningKey, log: StoredLog) -> Checkpoint:
    head = notes.TreeHead(origin=key.name, size=log.size, root=log.root)
    note = notes.sign_note(notes.checkpoint_text(head), name=key.name, private=key.private)
    return Checkpoint.objects.create(
        size=log.size, root=log.root, note=note.decode(), created_at=timezone.now()
    )


def _read_state(folder: Path) -> StoredLog | None:
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text())
        log = StoredLog(int(state["size"]), tuple(bytes.fromhex(n) for n in state["frontier"]))
        intact = log.root.hex() == state["root"] and len(log.frontier) == log.size.bit_count()
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise SignerRefused(f"{path} is damaged. Restore it from the signer's own backup.")
    if state.get("origin") != settings.RTBF_LOG_ORIGIN:
        raise SignerRefused(
            f"{path} is of the log {state.get('origin')}, but RTBF_LOG_ORIGIN is"
            f" {settings.RTBF_LOG_ORIGIN}. Set the origin, or RTBF_SIGNER_DIR, to what belongs."
        )
    return log


def _write_state(folder: Path, log: StoredLog) -> None:
    """Replace the state in one step that survives a crash of the machine."""
    state = {
        "origin": settings.RTBF_LOG_ORIGIN,
        "size": log.size,
        "root": log.root.hex(),
        "frontier": [node.hex() for node in log.frontier],
    }
    partial = folder / f"{STATE_FILE}.partial"
    with partial.open("w") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / STATE_FILE)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
