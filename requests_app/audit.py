"""The audit log: one entry for each change of the record, in the transaction of that change.

Entries are exact RFC 8785 bytes in one RFC 9162 Merkle tree; each case has a chain of its own
inside it (`prev`, `case_seq`), so that no entry can be left out of the middle. Personal values
enter only as HMAC-SHA256 commitments under a fresh salt, which goes when the case is sealed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from requests_app import external
from requests_app.models import AuditEntry, AuditKey, AuditOpening, Case, Checkpoint, LogHead
from requests_app.verifier import canonical, merkle, notes
from requests_app.verifier.canonical import JSON
from requests_app.verifier.errors import Invalid as VerifierInvalid
from requests_app.verifier.receipts import SALT_BYTES, commitment

HASH_BYTES = 32
SYSTEM = "system:log"

# Appending and proving are plain SQL: to build these statements anew each time, as the ORM does,
# costs several times what all the rest of an append does but the wait for the disk.
SELECT_HEAD = "SELECT origin, size, frontier FROM requests_app_loghead WHERE id = 1"
SELECT_SIZE = "SELECT size FROM requests_app_loghead WHERE id = 1"  # for pages
UPDATE_HEAD = "UPDATE requests_app_loghead SET size = %s, frontier = %s WHERE id = 1"
SELECT_NODES = "SELECT seq, leaf_hash, nodes FROM requests_app_auditentry"
SELECT_LAST_OF_CASE = (
    "SELECT case_seq, leaf_hash FROM requests_app_auditentry WHERE case_id = %s "
    "ORDER BY case_seq DESC LIMIT 1"
)
INSERT_ENTRY = (
    "INSERT INTO requests_app_auditentry "
    "(seq, case_id, case_seq, type, body, leaf_hash, idem_key, nodes) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)


class LogError(Exception):
    """The stored log is not what it should be; the message says what to do."""


class NodesDiffer(LogError):
    """Entries are in order, but not the nodes that proofs are read from (`rebuild_nodes`)."""


@dataclass(frozen=True)
class Entry:
    """What an entry will say of something just done in this transaction, where more is to do.

    Entries are appended last: from the first one to the commit everybody else's wait for the log,
    and who then waits for a row that another holds who waits for the log, waits for ever.
    """

    type: str
    actor: str
    data: Mapping[str, JSON]
    case: Case | None = None


def append_entries(entries: Iterable[Entry]) -> None:
    """Append what was put off, as the last thing in its transaction; raises as `append_entry`."""
    for each in entries:
        append_entry(type=each.type, actor=each.actor, data=each.data, case=each.case)


def append_entry(
    *,
    type: str,
    actor: str,
    data: Mapping[str, JSON],
    case: Case | None = None,
    commitments: Mapping[str, JSON] | None = None,
    idem_key: str | None = None,
) -> AuditEntry:
    """Append one entry; call it inside the transaction of the change that it records.

    `commitments` maps a field to a personal value: the entry holds only a hiding commitment, the
    salt lies in `AuditOpening`. An `idem_key` seen before returns the earlier entry unchanged.
    Raises RuntimeError outside a transaction, ValueError for floats or a commitment without a case,
    LogError if the database holds another log than RTBF_LOG_ORIGIN names.
    """
    if commitments and case is None:
        raise ValueError("A commitment belongs to a case.")
    head = _locked_head()
    if idem_key is not None:
        earlier = AuditEntry.objects.filter(idem_key=idem_key).first()
        if earlier is not None:
            return earlier
    entry, _ = _append(
        head,
        type=type,
        actor=actor,
        data=dict(data),
        case=case,
        commitments=commitments,
        idem_key=idem_key,
    )
    return entry


def take_turn() -> None:
    """Wait for the log as an append does, and keep it until the transaction ends; what everybody
    else's appends need not wait for belongs before. Raises as `append_entry`."""
    _locked_head()


def append_lost(body: bytes, *, idem_key: str | None = None) -> None:
    """Append an entry of this log that a restored database has lost, byte for byte as it was.

    For `services.restoring` alone, which has held it against the signed root.
    """
    value: Any = canonical.loads(body, file="entry of the copy")
    entry = AuditEntry(
        case_id=UUID(value["case"]) if value["case"] else None,
        case_seq=value["case_seq"],
        type=value["type"],
        idem_key=idem_key,
    )
    with connection.cursor() as cursor:
        _store(cursor, _made_head(), entry, body)


def register_key(*, purpose: str, vkey: str, name: str) -> AuditKey:
    """Make a public key known: a row and an entry `key.added`, once; in the caller's transaction.

    The key is valid for tree sizes from its own entry on.
    """
    _locked_head()
    known = AuditKey.objects.filter(vkey=vkey).first()
    if known is not None:
        return known
    entry = append_entry(type="key.added", actor=SYSTEM, data={"purpose": purpose, "vkey": vkey})
    return AuditKey.objects.create(name=name, purpose=purpose, vkey=vkey, valid_from=entry.seq)


def log_keys() -> list[notes.NoteKey]:
    """The keys that sign checkpoints, as far as the database knows them."""
    return [notes.parse_vkey(key.vkey) for key in AuditKey.objects.filter(purpose="log")]


def erase_openings(case: Case) -> int:
    """Destroy the salts of a case's commitments; returns how many. Nobody can open them after."""
    count, _ = AuditOpening.objects.filter(case=case).delete()
    return count


def case_entries(case_id: UUID) -> list[AuditEntry]:
    """The entries of a case in the order of its chain."""
    return list(AuditEntry.objects.filter(case_id=case_id).order_by("case_seq"))


def log_size() -> int:
    """How many entries the log has now."""
    with connection.cursor() as cursor:
        cursor.execute(SELECT_SIZE)
        row = cursor.fetchone()
    return row[0] if row else 0


def root(size: int) -> bytes:
    """Root of the first `size` entries. LogError if there are fewer."""
    return _roots([(0, size)])[0]


def differs_from_newest_checkpoint() -> int | None:
    """The size of the newest checkpoint if the stored log has another root there; else None.

    For a page: a few stored nodes, and no entry's bytes; `verify_log` reads everything.
    """
    newest = Checkpoint.objects.order_by("size").last()
    if newest is None:
        return None
    try:
        fits = root(newest.size) == bytes(newest.root)
    except LogError:
        fits = False
    return None if fits else newest.size


def inclusion_proof(seq: int, size: int) -> list[bytes]:
    """Inclusion path of an entry in the log of `size` entries. ValueError, LogError."""
    return _roots(merkle.inclusion_ranges(seq, size))


def consistency_proof(first: int, second: int) -> list[bytes]:
    """Consistency path between the logs of `first` and `second` entries. ValueError, LogError."""
    return _roots(merkle.consistency_ranges(first, second))


def _roots(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Root of each range of entries, from the stored nodes: O(log n) rows, one query.

    Stored nodes are not trusted: what is made of them is held against a signed root by who uses it.
    """
    parts = [list(merkle.subtrees(*each)) for each in ranges]
    needed = sorted({last for some in parts for last, _ in some})
    marks = ",".join(["%s"] * len(needed)) or "NULL"
    with connection.cursor() as cursor:
        cursor.execute(f"{SELECT_NODES} WHERE seq IN ({marks})", needed)
        stored = {seq: bytes(leaf) + bytes(nodes or b"") for seq, leaf, nodes in cursor.fetchall()}
    return [
        merkle.frontier_root([_node(stored.get(last, b""), last, level) for last, level in some])
        for some in parts
    ]


def _node(hashes: bytes, last: int, level: int) -> bytes:
    node = hashes[HASH_BYTES * level : HASH_BYTES * (level + 1)]
    if len(node) != HASH_BYTES:
        raise LogError(f"entry {last} of the log is missing, or not all of its nodes are stored")
    return node


@dataclass(frozen=True)
class StoredLog:
    """What a full reading of the log found: its size, and the frontier of the hashed bodies."""

    size: int
    frontier: tuple[bytes, ...]

    @property
    def root(self) -> bytes:
        return merkle.frontier_root(self.frontier)


def read_log(*, after: StoredLog | None = None, size: int | None = None) -> StoredLog:
    """Hash the stored bodies anew, from `after` on up to `size`, and compare with what is stored.

    Raises LogError naming the first entry whose number, bytes or leaf hash is not as it should be.
    """
    start = after or StoredLog(size=0, frontier=())
    frontier = list(start.frontier)
    seq = start.size
    rows = AuditEntry.objects.filter(seq__gte=start.size).order_by("seq")
    if size is not None:
        rows = rows.filter(seq__lt=size)
    for found, body, stored in rows.values_list("seq", "body", "leaf_hash").iterator():
        if found != seq:
            raise LogError(f"Entry {seq} of the log is missing.")
        leaf = merkle.leaf_hash(bytes(body))
        if leaf != bytes(stored):
            raise LogError(f"Entry {seq} of the log was changed after it was written.")
        frontier = merkle.extend(frontier, merkle.completed(frontier, seq, leaf))
        seq += 1
    if size is not None and seq != size:
        raise LogError(f"The log ends at entry {seq}; {size} entries were expected.")
    return StoredLog(size=seq, frontier=tuple(frontier))


@dataclass(frozen=True)
class LogCheck:
    """What `verify_log` found in good order."""

    entries: int
    cases: int
    checkpoints: int
    root: bytes


def verify_log() -> LogCheck:
    """Read the whole log: bodies, leaf hashes, case chains, head, checkpoints and signatures.

    Takes one pass over the entries. Raises LogError naming the first thing that is wrong. It trusts
    the keys in the database; the signer and offline verifiers bring their own. NodesDiffer comes
    last: it is raised where nothing else is wrong.
    """
    last = AuditEntry.objects.order_by("-seq").values_list("seq", flat=True).first()
    head = LogHead.objects.filter(id=1).first()
    if head is None:
        raise LogError("There is no audit log yet: nothing has been recorded.")
    checkpoints = {row.size: row for row in Checkpoint.objects.order_by("size")}
    signers = log_keys()
    chains: dict[str, tuple[int, str]] = {}  # case id -> number and leaf hash of its last entry
    frontier: list[bytes] = []
    seq, without_nodes = 0, None
    for row in AuditEntry.objects.filter(seq__lt=head.size).order_by("seq").iterator():
        if row.seq != seq:
            raise LogError(f"Entry {seq} of the log is missing.")
        nodes = merkle.completed(frontier, seq, _checked_entry(row, head.origin, chains))
        if without_nodes is None and row.nodes != b"".join(nodes[1:]):
            without_nodes = seq
        frontier = merkle.extend(frontier, nodes)
        seq += 1
        if seq in checkpoints:
            _check_checkpoint(checkpoints[seq], head.origin, frontier, signers)
    if seq != head.size or [node.hex() for node in frontier] != head.frontier:
        raise LogError(f"The head of the log does not fit its {seq} entries.")
    if last is not None and last >= head.size:
        raise LogError(f"Entry {last} lies beyond the head of the log, which has {head.size}.")
    if checkpoints and max(checkpoints) > head.size:
        raise LogError(f"{max(checkpoints)} entries were signed, but the log has {head.size}.")
    if without_nodes is not None:
        raise NodesDiffer(f"The nodes stored with entry {without_nodes} are not those of the log.")
    return LogCheck(seq, len(chains), len(checkpoints), merkle.frontier_root(frontier))


def rebuild_nodes() -> int:
    """Write stored nodes anew where they are not those of the leaf hashes; returns how many were.

    For the owner of the tables, once `verify_log` finds nothing else wrong.
    """
    frontier: list[bytes] = []
    rebuilt = 0
    rows = AuditEntry.objects.order_by("seq").values_list("seq", "leaf_hash", "nodes")
    for seq, leaf, stored in rows.iterator():
        nodes = merkle.completed(frontier, seq, bytes(leaf))
        frontier = merkle.extend(frontier, nodes)
        right = b"".join(nodes[1:])
        if stored != right:
            rebuilt += AuditEntry.objects.filter(seq=seq).update(nodes=right)
    return rebuilt


def _checked_entry(row: AuditEntry, origin: str, chains: dict[str, tuple[int, str]]) -> bytes:
    """Leaf hash of a stored entry whose bytes, columns and chain fit together."""
    body = bytes(row.body)
    leaf = merkle.leaf_hash(body)
    if leaf != bytes(row.leaf_hash):
        raise LogError(f"Entry {row.seq} of the log was changed after it was written.")
    try:
        value = canonical.loads(body)
    except VerifierInvalid as problem:
        raise LogError(f"Entry {row.seq} of the log: {problem}") from None
    case = str(row.case_id) if row.case_id else None
    columns = {"log": origin, "case": case, "case_seq": row.case_seq, "type": row.type}
    if not isinstance(value, dict) or any(value.get(k) != v for k, v in columns.items()):
        raise LogError(f"The columns of entry {row.seq} do not fit its bytes.")
    if case is not None:
        number, prev = chains.get(case, (-1, None))
        if row.case_seq != number + 1 or value["prev"] != prev:
            raise LogError(f"Entry {row.seq} does not continue the chain of its case.")
        chains[case] = (number + 1, leaf.hex())
    return leaf


def _check_checkpoint(
    checkpoint: Checkpoint, origin: str, frontier: list[bytes], signers: list[notes.NoteKey]
) -> None:
    try:
        signed, _ = notes.open_checkpoint(
            checkpoint.note.encode(), signers, file=f"checkpoint {checkpoint.size}"
        )
    except VerifierInvalid as problem:
        raise LogError(str(problem)) from None
    expected = notes.TreeHead(origin, checkpoint.size, merkle.frontier_root(frontier))
    if signed != expected or bytes(checkpoint.root) != expected.root:
        raise LogError(
            f"The first {checkpoint.size} entries are not those that their checkpoint was signed"
            " for: entries were changed after signing."
        )


@dataclass(frozen=True)
class _Head:
    """The row of LogHead, locked."""

    origin: str
    size: int
    frontier: list[bytes]


def _locked_head() -> _Head:
    """The one row that every append locks; the first append makes it, with `log.started`."""
    if not connection.in_atomic_block:
        raise RuntimeError("An audit entry belongs to the transaction of the change it records.")
    head = _made_head()
    if head.origin != settings.RTBF_LOG_ORIGIN:
        raise LogError(
            f"This database holds the log {head.origin}, but RTBF_LOG_ORIGIN is "
            f"{settings.RTBF_LOG_ORIGIN}. Set it back: an origin never changes."
        )
    if problem := external.why_behind(lambda: head.size):
        raise LogError(problem)
    if head.size == 0:
        _, head = _append(head, type="log.started", actor=SYSTEM, data={"origin": head.origin})
    return head


def _made_head() -> _Head:
    head = _lock_head()
    while head is None:  # of two first appends the second finds the row
        LogHead.objects.get_or_create(id=1, defaults={"origin": settings.RTBF_LOG_ORIGIN})
        head = _lock_head()
    return head


def _lock_head() -> _Head | None:
    lock = connection.ops.for_update_sql() if connection.features.has_select_for_update else ""
    with connection.cursor() as cursor:
        cursor.execute(f"{SELECT_HEAD} {lock}")
        row = cursor.fetchone()
    return row and _Head(row[0], row[1], [bytes.fromhex(node) for node in json.loads(row[2])])


def _append(
    head: _Head,
    *,
    type: str,
    actor: str,
    data: dict[str, JSON],
    case: Case | None = None,
    commitments: Mapping[str, JSON] | None = None,
    idem_key: str | None = None,
) -> tuple[AuditEntry, _Head]:
    """The entry, stored, and the head after it."""
    seq = head.size
    openings = []
    for field, value in (commitments or {}).items():
        if case is None or field in data:
            raise ValueError(f"The commitment “{field}” needs a case and a name of its own.")
        salt = secrets.token_bytes(SALT_BYTES)
        digest = commitment(salt=salt, case_id=case.id, seq=seq, field=field, value=value)
        data[field] = {"commitment": digest}
        openings.append(AuditOpening(case=case, entry_seq=seq, field=field, salt=salt))
    with connection.cursor() as cursor:
        case_id, last = None, None
        if case is not None:
            case_id = AuditEntry._meta.get_field("case_id").get_db_prep_value(case.id, connection)
            cursor.execute(SELECT_LAST_OF_CASE, [case_id])
            last = cursor.fetchone()
        case_seq = None if case is None else 0 if last is None else last[0] + 1
        body = canonical.dumps(
            {
                "v": 1,
                "log": head.origin,
                "case": str(case.id) if case else None,
                "case_seq": case_seq,
                "prev": bytes(last[1]).hex() if last else None,
                "type": type,
                "at": timezone.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "actor": actor,
                "data": data,
                # without a case nothing else tells apart two like entries of one second
                **({} if case else {"seq": seq}),
            }
        )
        entry = AuditEntry(
            case_id=case.id if case else None, case_seq=case_seq, type=type, idem_key=idem_key
        )
        grown = _store(cursor, head, entry, body)
    AuditOpening.objects.bulk_create(openings)
    return entry, grown


def _store(cursor: CursorWrapper, head: _Head, entry: AuditEntry, body: bytes) -> _Head:
    """Store exact bytes as the next entry of the locked head, and return the head after it."""
    nodes = merkle.completed(head.frontier, head.size, merkle.leaf_hash(body))
    entry.seq, entry.body = head.size, body
    entry.leaf_hash, entry.nodes = nodes[0], b"".join(nodes[1:])
    case_id = AuditEntry._meta.get_field("case_id").get_db_prep_value(entry.case_id, connection)
    columns = [entry.seq, case_id, entry.case_seq, entry.type, body]
    cursor.execute(INSERT_ENTRY, [*columns, entry.leaf_hash, entry.idem_key, entry.nodes])
    grown = _Head(head.origin, head.size + 1, merkle.extend(head.frontier, nodes))
    frontier = json.dumps([node.hex() for node in grown.frontier])
    cursor.execute(UPDATE_HEAD, [grown.size, frontier])
    return grown
