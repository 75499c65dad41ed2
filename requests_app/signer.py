"""The checkpoint signer: a process of its own, with the only log key and a memory of its own.

It remembers what it signed last (size, root, frontier) outside the database and signs nothing that
does not extend it. Who rewrites the database therefore gets no fresh signature for it. Order of one
step: read the head, hash the new entries' bytes, grow the remembered frontier by them, compare it
with the head's, remember the new state, store the checkpoint, publish it with the new entries
outside the database (`external`); after a crash the same checkpoint is made again. A step reads the
new entries alone, the start reads all.

Keys change over from its own folder, never on the word of the database: a next key there is
entered in the log, the checkpoint over that entry is signed by both, and then the old key is gone.
A log key in the database that was never in the folder stops it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from requests_app import audit, durable_files, external, keys, marks
from requests_app.audit import LogError, StoredLog
from requests_app.keys import SigningKey
from requests_app.models import AuditEntry, AuditKey, Checkpoint, LogHead
from requests_app.verifier import notes

STATE_FILE = "state.json"
LOCK_FILE = "lock"


class SignerRefused(Exception):
    """Nothing is signed; the message says what was found and what to do."""


@dataclass(frozen=True)
class Signer:
    """An opened signer: its folder, its key, and what it signed last (None before the first).

    `held`: all verifier keys that were in its folder; `following`: the key that changes over.
    """

    folder: Path
    key: SigningKey
    signed: StoredLog | None
    held: frozenset[str]
    following: SigningKey | None = None


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
        if problem := external.why_behind(audit.log_size):
            raise SignerRefused(problem)
        signed, held = _read_state(folder)
        if signed is None and Checkpoint.objects.exists():
            raise SignerRefused(
                f"The log has checkpoints, but {folder / STATE_FILE} is missing. Restore the"
                " signer's folder from its own backup; without it the log must begin a new origin."
            )
        key = keys.log_key(folder)
        signer = _resumed(Signer(folder, key, signed, held | {key.vkey}))
        _register(signer)
        if signed is not None:
            _check_all(signed)
        _publish_again(signer)
        yield signer


def sign_next(signer: Signer) -> tuple[Signer, Checkpoint | None]:
    """Sign the present head if it is new; returns the signer's next state and the checkpoint.

    None when there is nothing new. Raises SignerRefused when the log does not extend what was
    signed before.
    """
    signer, checkpoint = _sign_head(_resumed(signer))
    following = signer.following or keys.next_log_key(signer.folder)
    if following is None:
        return signer, checkpoint
    if signer.following is None:
        keys.record_rotation(purpose=AuditKey.Purpose.LOG, old=signer.key, new=following)
        signer, checkpoint = _sign_head(_resumed(signer))
    keys.replace_log_key(signer.folder)
    return replace(signer, key=following, following=None), checkpoint


def _sign_head(signer: Signer) -> tuple[Signer, Checkpoint | None]:
    """Sign the present head, if it is new, by the key and by the one that follows it."""
    head = LogHead.objects.filter(id=1).first()
    if head is None or head.size == 0:
        return signer, None
    before = signer.signed or StoredLog(size=0, frontier=())
    if head.origin != signer.key.name:
        raise SignerRefused(f"The log is {head.origin}, but this signer is for {signer.key.name}.")
    if head.size < before.size:
        raise SignerRefused(
            f"The log has {head.size} entries, but {before.size} were signed: entries were removed"
            " or an older backup was restored. Run `manage.py replay_erasures`."
        )
    if head.size == before.size and Checkpoint.objects.filter(size=head.size).exists():
        return signer, None
    _check_keys(signer)
    found = _extend(before, head)
    _write_state(signer.folder, found, signer.held)
    checkpoint = _store(signer, found)
    bodies = _bodies(before.size, found.size)
    external.publish(vkey=signer.key.vkey, note=checkpoint.note, bodies=bodies)
    return replace(signer, signed=found), checkpoint


def _extend(before: StoredLog, head: LogHead) -> StoredLog:
    """The log up to `head`: what was signed, and after it the new bodies, hashed here.

    Growing the remembered frontier by these hashes is the consistency proof: no other log with the
    signed root at its start has the root found. It must be the one that the log claims to have.
    """
    try:
        found = audit.read_log(after=before, size=head.size)
    except LogError as problem:
        raise SignerRefused(
            f"The log does not extend what was signed at {before.size} entries: {problem}"
            " Run `manage.py verify_log` and keep the database as it is for the investigation."
        ) from None
    if [node.hex() for node in found.frontier] != head.frontier:
        raise SignerRefused(
            f"The log does not extend what was signed at {before.size} entries, or its head does"
            f" not fit its {head.size} entries. Run `manage.py verify_log` and keep the database as"
            " it is for the investigation."
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


def _register(signer: Signer) -> None:
    _check_keys(signer)
    if not AuditKey.objects.filter(vkey=signer.key.vkey).exists():
        key = signer.key
        with transaction.atomic():
            audit.register_key(purpose=AuditKey.Purpose.LOG, vkey=key.vkey, name=key.name)


def _resumed(signer: Signer) -> Signer:
    """The signer in its change-over, if the next key of its folder is entered in the log."""
    following = keys.next_log_key(signer.folder)
    row = AuditKey.objects.filter(vkey=following.vkey).first() if following else None
    if following is None or row is None:
        return signer
    if row.valid_to is not None or following.vkey == signer.key.vkey:
        raise SignerRefused("The next key in the signer's folder was in use before; remove it.")
    return replace(signer, following=following, held=signer.held | {following.vkey})


def _check_keys(signer: Signer) -> None:
    """Refuse log keys that were never in this folder, and a key that is not the present one."""
    rows = {row.vkey: row for row in AuditKey.objects.filter(purpose=AuditKey.Purpose.LOG)}
    strangers = sorted(rows.keys() - signer.held)
    if strangers:
        raise SignerRefused(
            f"The log names the log key {strangers[0]}, but this folder holds another key and never"
            " held that one. Restore the signer's folder from its own backup."
        )
    row = rows.get(signer.key.vkey)
    if row is None and signer.signed is not None:
        raise SignerRefused(
            f"The log does not know the key {signer.key.vkey} of this folder. A new key comes in by"
            " `manage.py rotate_key log`. Restore the signer's folder from its own backup."
        )
    if row is not None and row.valid_to is not None and signer.following is None:
        raise SignerRefused(
            f"The key of this folder was retired at log size {row.valid_to}. Restore the signer's"
            " folder from its latest backup."
        )


def _store(signer: Signer, log: StoredLog) -> Checkpoint:
    head = notes.TreeHead(origin=signer.key.name, size=log.size, root=log.root)
    text = notes.checkpoint_text(head)
    note = notes.sign_note(text, name=signer.key.name, private=signer.key.private).decode()
    if signer.following is not None:
        also = signer.following
        note += notes.signature_line(text, name=also.name, private=also.private)
    with transaction.atomic():
        checkpoint = Checkpoint.objects.create(
            size=log.size, root=log.root, note=note, created_at=timezone.now()
        )
        if not marks.are_asked_for():
            marks.close(checkpoint)
    return checkpoint


def _publish_again(signer: Signer) -> None:
    """Make anew what lies outside the database: a crash may have come between, or a hand."""
    size = signer.signed.size if signer.signed else 0
    external.write_entries(_bodies(0, size))
    checkpoint = Checkpoint.objects.filter(size=size).first()
    if checkpoint is not None:  # else it is signed again
        external.publish(vkey=signer.key.vkey, note=checkpoint.note, bodies=())


def _bodies(start: int, end: int) -> Iterator[bytes]:
    """The bytes of the entries from `start` up to `end`."""
    rows = AuditEntry.objects.filter(seq__gte=start, seq__lt=end).order_by("seq")
    return (bytes(body) for body in rows.values_list("body", flat=True).iterator())


def _read_state(folder: Path) -> tuple[StoredLog | None, frozenset[str]]:
    """What was signed last, and the verifier keys held so far."""
    path = folder / STATE_FILE
    if not path.exists():
        return None, frozenset()
    try:
        state = json.loads(path.read_text())
        log = StoredLog(int(state["size"]), tuple(bytes.fromhex(n) for n in state["frontier"]))
        held = frozenset(map(str, state.get("keys", [])))  # before keys could change there was one
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
    return log, held


def _write_state(folder: Path, log: StoredLog, held: frozenset[str]) -> None:
    """Replace the state in one step that survives a crash of the machine."""
    state = {
        "origin": settings.RTBF_LOG_ORIGIN,
        "size": log.size,
        "root": log.root.hex(),
        "frontier": [node.hex() for node in log.frontier],
        "keys": sorted(held),
    }
    durable_files.replace(folder / STATE_FILE, [json.dumps(state).encode()])
