"""After a restore: a backup has forgotten what was destroyed since; the log has not.

The entries that the database lacks are read from their copy outside it, held against the last
signed checkpoint, and appended byte for byte, so that the log is again the one that was signed.
Then what they say was destroyed is destroyed again, and the releases that were in force are put in
force again. Decisions, facts and runs cannot be made of the log: what is to be done again is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from requests_app import audit, external, vault
from requests_app.actors import SYSTEM
from requests_app.external import ExternalError, Signed
from requests_app.lifecycle import CaseStatus, RunState, move_run, seal_again
from requests_app.models import (
    AuditEntry,
    AuditKey,
    AuditOpening,
    Case,
    CaseKey,
    Checkpoint,
    Letter,
    LogHead,
    Release,
    SuppressionTag,
    VaultItem,
)
from requests_app.services.cases import destroy_personal_data
from requests_app.services.errors import Invalid, ServiceError
from requests_app.services.leases import drop_lease
from requests_app.services.locking import lock_case
from requests_app.services.manifests import destroyed_key, live_manifest, put_live, read_manifest
from requests_app.services.suppression import sync_tags
from requests_app.verifier import canonical, merkle, notes

Entry = Mapping[str, Any]  # the parsed body of an entry


class RestoreRefused(ServiceError):
    """Nothing was replayed; the message says what to do."""


@dataclass(frozen=True)
class Redo:
    """A case of which steps were lost with the database: its reference (empty: steps of no case,
    such as a quarantine), and those steps."""

    reference: str
    has_row: bool  # false: the request itself came after the backup; ask for it again
    steps: tuple[str, ...]


@dataclass(frozen=True)
class LiveAgain:
    """A release that the log says is in force on a model; `why_not` if it could not be put so."""

    model_name: str
    digest: str
    why_not: str


@dataclass(frozen=True)
class Replayed:
    """What a replay did: references of cases, entry types and digests, no personal data."""

    first: int  # entries that the database had
    size: int  # entries that were signed
    root: str
    sealed_again: tuple[str, ...]
    redo: tuple[Redo, ...]
    releases: tuple[LiveAgain, ...]

    @property
    def did_anything(self) -> bool:
        return self.first < self.size or bool(self.sealed_again)


_agreed: set[str] = set()  # notes that this process has held against its database


def why_not_served() -> str:
    """Why this database must not be served, for staff; empty if it holds what was signed last.

    Cheap enough for pages: one row, and the root only once for each new checkpoint.
    """
    if problem := external.why_behind(audit.log_size):
        return problem
    signed = external.last_checkpoint()
    if signed is None or signed.note in _agreed:
        return ""
    head = LogHead.objects.filter(id=1).first()
    if head is None:
        return ""
    if _root_at(head, signed.head.size) != signed.head.root:
        return (
            f"The first {signed.head.size} entries of the log in this database are not those that"
            " were signed: the database went on by itself after a restore, or was changed. Keep a"
            " copy for the investigation and restore the backup anew."
        )
    _agreed.clear()
    _agreed.add(signed.note)
    return ""


def replay_erasures(log: Path | None = None, *, dry_run: bool = False) -> Replayed:
    """Bring a restored database to the log that was signed last, destroying again what it forgot.

    `log` is a copy of the entries (the signer's by default), or an internal export of the audit
    log. Running it again changes
    nothing. `dry_run` undoes everything at the end. Raises RestoreRefused.
    """
    try:
        signed = external.last_checkpoint()
        if signed is None:
            raise RestoreRefused(
                f"There is no signed checkpoint at {settings.RTBF_CHECKPOINT_FILE}: nothing says"
                " what this database should hold. Put the last one there."
            )
        bodies = _checked_bodies(signed, log or external.entries_file())
    except ExternalError as problem:
        raise RestoreRefused(str(problem)) from None
    with transaction.atomic(durable=True):
        done = _replay(signed, bodies)
        transaction.set_rollback(dry_run)
    if done.sealed_again and not dry_run:
        vault.overwrite_freed_pages()
    return done


# --- The log ------------------------------------------------------------------------------------
def _checked_bodies(signed: Signed, path: Path) -> list[bytes]:
    """As many entries as were signed, if the signed root is theirs: those of the copy, and before
    its first one those of the database."""
    found = dict(external.read_entries(path))
    stored = AuditEntry.objects.filter(seq__lt=min(found, default=0)).order_by("seq")
    bodies = [bytes(body) for body in stored.values_list("body", flat=True)]
    while len(bodies) < signed.head.size and len(bodies) in found:
        bodies.append(found[len(bodies)])
    if len(bodies) < signed.head.size:
        raise RestoreRefused(
            f"{path} has no entry {len(bodies)}, but {signed.head.size} were signed. Give a later"
            " or a longer copy with --log."
        )
    if _root_of(bodies) != signed.head.root:
        raise RestoreRefused(
            f"The entries in {path} are not those that were signed. Give another copy with --log."
        )
    return bodies


def _root_of(bodies: Sequence[bytes]) -> bytes:
    frontier: list[bytes] = []
    for seq, body in enumerate(bodies):
        leaf = merkle.leaf_hash(body)
        frontier = merkle.extend(frontier, merkle.completed(frontier, seq, leaf))
    return merkle.frontier_root(frontier)


def _root_at(head: LogHead, size: int) -> bytes:
    """Root of the first `size` entries, from what is stored of it where possible."""
    if size == head.size:
        return merkle.frontier_root([bytes.fromhex(node) for node in head.frontier])
    checkpoint = Checkpoint.objects.filter(size=size).first()
    return bytes(checkpoint.root) if checkpoint else audit.root(size)


def _replay(signed: Signed, bodies: Sequence[bytes]) -> Replayed:
    head = LogHead.objects.select_for_update().filter(id=1).first()
    first = min(head.size if head else 0, signed.head.size)
    if audit.read_log(size=first).root != _root_of(bodies[:first]):
        raise RestoreRefused(
            "The entries in this database are not the first of those that were signed: it went on"
            " by itself after the restore. Restore the backup anew, and replay before anything else"
            " is started."
        )
    entries: list[Entry] = [_parsed(body) for body in bodies]
    lost = entries[first:]
    for seq, (body, entry) in enumerate(zip(bodies[first:], lost, strict=True), start=first):
        audit.append_lost(body, idem_key=_idem_key(entry))
        _make_key_known(seq, entry)
        _mark_sent(entry)
    _store_checkpoint(signed)
    _tags_again(lost)
    sealed = tuple(_sealed_again(entries))
    releases = tuple(_put_live_again(lost))
    done = Replayed(
        first=first,
        size=signed.head.size,
        root=signed.head.root.hex(),
        sealed_again=sealed,
        redo=tuple(_to_redo(lost)),
        releases=releases,
    )
    if done.did_anything:
        audit.append_entry(
            type="record.restored",
            actor=SYSTEM.name,
            data={
                "from": first,
                "to": done.size,
                "sealed_again": len(sealed),
                "releases": {each.model_name: each.digest for each in releases if not each.why_not},
            },
        )
    return done


def _parsed(body: bytes) -> Entry:
    value: Any = canonical.loads(body, file="entry of the copy")
    return dict(value)


def _idem_key(entry: Entry) -> str | None:
    """The key under which the entry is found, where what it is about is still known."""
    data = entry["data"]
    if entry["type"] == "weights.destroyed":
        return destroyed_key(data["sha256"])
    if entry["type"] == "training.gated":
        return f"training.gated/{data['report']}"
    if entry["type"] == "key.rotated":
        return f"key.rotated:{notes.parse_vkey(data['vkey']).public.hex()}"
    if entry["type"] == "letter.sent" and _letter(entry) is not None:
        return f"letter.sent:{data['letter']}"
    return None


def _make_key_known(seq: int, entry: Entry) -> None:
    """What the entry says of a public key, in the rows of `keys`."""
    data = entry["data"]
    if entry["type"] == "key.rotated":
        AuditKey.objects.filter(vkey=data["retired"]).update(valid_to=seq)
    if entry["type"] in ("key.added", "key.rotated"):
        vkey = data["vkey"]
        name = notes.parse_vkey(vkey).name
        AuditKey.objects.create(name=name, purpose=data["purpose"], vkey=vkey, valid_from=seq)
    elif entry["type"] == "key.revoked":
        AuditKey.objects.filter(vkey=data["vkey"]).update(
            revoked_from=data["from_size"], revoked_at=_at(entry)
        )


def _store_checkpoint(signed: Signed) -> None:
    size, root = signed.head.size, signed.head.root
    Checkpoint.objects.get_or_create(
        size=size, defaults={"root": root, "note": signed.note, "created_at": timezone.now()}
    )


# --- What it says -------------------------------------------------------------------------------
def _letter(entry: Entry) -> Letter | None:
    """The letter that an entry speaks of, if the backup has it: numbers are given out anew."""
    letter = Letter.objects.filter(pk=entry["data"]["letter"], case_id=entry["case"]).first()
    return letter if letter is not None and letter.kind == entry["data"]["kind"] else None


def _mark_sent(entry: Entry) -> None:
    """A letter that went out after the backup is not sent a second time."""
    if entry["type"] != "letter.sent":
        return
    letter = _letter(entry)
    if letter is not None and letter.sent_at is None:
        letter.sent_at = _at(entry)
        letter.save(update_fields=["sent_at"])


def _tags_again(lost: Sequence[Entry]) -> None:
    """The suppression list as the lost entries left it, as far as the backup still knows the
    identifiers: before the cases are sealed, or nobody could ever put them on the list again."""
    last = {
        entry["case"]: entry
        for entry in lost
        if entry["type"] in ("suppression.changed", "suppression.removed")
    }
    for case_id, entry in last.items():
        source = entry["data"].get("source", "")
        if not source:  # an objection, a revocation, a restriction that was lifted
            SuppressionTag.objects.filter(case_id=UUID(case_id)).delete()
        elif CaseKey.objects.filter(case_id=UUID(case_id), wrapped__isnull=False).exists():
            tags = sync_tags(lock_case(UUID(case_id)), actor=SYSTEM, source=source)
            audit.append_entries(tags)


def _sealed_again(entries: Sequence[Entry]) -> Iterator[str]:
    """Seal the cases that the log says are sealed and that still hold something; references."""
    for entry in entries:
        if entry["type"] != "case.sealed":
            continue
        found = Case.objects.filter(pk=UUID(entry["case"])).first()
        if found is None or not _holds_something(found):
            continue
        case = lock_case(found.pk)
        seal_again(case)
        case.sealed_at = _at(entry)
        for run in case.runs.select_for_update().filter(
            state__in=(RunState.QUEUED, RunState.RUNNING)
        ):
            move_run(run, RunState.CANCELLED)
            run.error, run.finished_at = "sealed before the restore; see the log", timezone.now()
            drop_lease(run)
            run.save()
        destroy_personal_data(case)
        yield case.reference


def _holds_something(case: Case) -> bool:
    return (
        case.status != CaseStatus.SEALED
        or bool(case.access_digest or case.code_digest)
        or CaseKey.objects.filter(case=case, wrapped__isnull=False).exists()
        or VaultItem.objects.filter(case=case).exists()
        or AuditOpening.objects.filter(case=case).exists()
    )


def _put_live_again(lost: Sequence[Entry]) -> Iterator[LiveAgain]:
    """Put in force, from the release store, what the lost entries say was put in force last."""
    live: dict[str, str] = {}
    for entry in lost:
        data = entry["data"]
        if entry["type"] in ("release.consolidated", "release.rolled_back") or (
            entry["type"] == "release.registered" and data["live"]
        ):
            live[data["model"]] = data["release"]
        elif entry["type"] == "case.revoked":
            live.update(data["releases"])
    for model_name, digest in sorted(live.items()):
        present = live_manifest(model_name)
        if present is None or present.digest != digest:
            yield LiveAgain(model_name, digest, _why_not_live(model_name, digest))


def _why_not_live(model_name: str, digest: str) -> str:
    release = Release.objects.filter(pk=digest).first()
    path = Path(settings.RTBF_RELEASE_DIR) / f"{digest}.json"
    try:
        raw = bytes(release.manifest) if release else path.read_bytes()
        if hashlib.sha256(raw).hexdigest() != digest:
            return f"{path} is not the manifest of that digest"
        with transaction.atomic():
            put_live(model_name, read_manifest(raw), release)
    except OSError as problem:
        return f"its manifest cannot be read: {problem.strerror}"
    except Invalid as problem:
        return str(problem)
    return ""


def _to_redo(lost: Sequence[Entry]) -> Iterator[Redo]:
    """The cases, not sealed by now, of which steps were lost, in the order of their references;
    first, with an empty reference, what people did to none."""
    others = [entry["type"] for entry in lost if entry["case"] is None and _is_by_people(entry)]
    if others:
        yield Redo("", has_row=True, steps=tuple(others))
    steps: dict[str, list[str]] = {}
    references: dict[str, str] = {}
    for entry in lost:
        if entry["case"] is None:
            continue
        steps.setdefault(entry["case"], []).append(entry["type"])
        if entry["type"] == "case.received":
            references[entry["case"]] = entry["data"]["reference"]
    rows = Case.objects.in_bulk([UUID(each) for each in steps])
    found = []
    for case_id, types in steps.items():
        row = rows.get(UUID(case_id))
        if "case.sealed" not in types:
            name = row.reference if row else references[case_id]
            found.append(Redo(name, row is not None, tuple(types)))
    yield from sorted(found, key=lambda redo: redo.reference)


def _is_by_people(entry: Entry) -> bool:
    """Whether staff did it: what the system did by itself it does again by itself."""
    return not str(entry["actor"]).startswith("system")


def _at(entry: Entry) -> datetime:
    return datetime.fromisoformat(entry["at"])
