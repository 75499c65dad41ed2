"""The data subject's receipt: made from salts and vault while both exist, and never stored.

It opens the commitments to name and address in the entry `case.received`
(`requests_app.verifier.receipts`). After sealing nobody but the subject can do so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from requests_app import audit, marks, vault
from requests_app.models import AuditEntry, AuditOpening, Case, Checkpoint, LogHead
from requests_app.verifier import canonical, merkle, notes, receipts
from requests_app.verifier.errors import Invalid
from requests_app.verifier.notes import InclusionProof
from requests_app.verifier.receipts import Opening, Receipt, receipt_file

__all__ = ["Opened", "make_receipt", "open_receipt", "receipt_file"]

FIELDS = ("name", "email")


@dataclass(frozen=True)
class Step:
    """One step of a proof: two hashes side by side and the hash of both, in hex."""

    left: str
    right: str
    both: str


@dataclass(frozen=True)
class Opened:
    """What the log shows to the holder of a receipt; no values."""

    fields: tuple[str, ...]
    received_at: datetime
    answered_at: datetime | None
    sealed_at: datetime | None
    entry: int
    leaf: str  # hex, of the entry's bytes
    walk: tuple[Step, ...]  # from the leaf to the root of the checkpoint
    checkpoint: Checkpoint | None  # the last one, None while it does not cover the entry


def make_receipt(case: Case) -> Receipt:
    """The receipt of a case that is not sealed, with a proof once its entry is signed.

    Of what the request came with, only what still stands: where somebody else had filed it, the
    sender's address is not for the person's receipt. Raises vault.VaultSealed after sealing.
    """
    entry = AuditEntry.objects.get(case_id=case.id, type="case.received")
    salts = dict(
        AuditOpening.objects.filter(case=case, entry_seq=entry.seq).values_list("field", "salt")
    )
    values = {field: vault.get(case, field, default=None) for field in FIELDS}
    receipt = Receipt(
        log=LogHead.objects.get(id=1).origin,
        case=str(case.id),
        entry=entry.seq,
        body=bytes(entry.body),
        openings=tuple(
            Opening(field, bytes(salts[field]), value)
            for field, value in values.items()
            if field in salts and value is not None
        ),
    )
    receipt = replace(receipt, openings=tuple(filter(partial(_opens, receipt), receipt.openings)))
    checkpoint = _covering(entry)
    return _with_proof(receipt, checkpoint) if checkpoint else receipt


def open_receipt(receipt: Receipt) -> Opened | None:
    """What the log says to the holder of a receipt.

    None, without a reason, unless the receipt opens commitments of an entry that is in the log byte
    for byte and, where a checkpoint covers it, under the signed root.
    """
    entry = AuditEntry.objects.filter(seq=receipt.entry).first()
    checkpoint = _covering(entry) if entry else None
    try:
        fields = receipts.check_openings(receipt)
        if entry is None or bytes(entry.body) != receipt.body:
            return None
        walk: tuple[Step, ...] = ()
        if checkpoint is not None:
            receipts.check_proof(_with_proof(receipt, checkpoint), audit.log_keys())
            walk = _walk(receipt, checkpoint)
    except Invalid:
        return None
    dates = {each.type: _written_at(each) for each in audit.case_entries(UUID(receipt.case))}
    return Opened(
        fields=fields,
        received_at=dates["case.received"],
        answered_at=dates.get("case.completed"),
        sealed_at=dates.get("case.sealed"),
        entry=entry.seq,
        leaf=merkle.leaf_hash(receipt.body).hex(),
        walk=walk,
        checkpoint=checkpoint,
    )


def _walk(receipt: Receipt, checkpoint: Checkpoint) -> tuple[Step, ...]:
    """The steps that `check_proof` went, to be shown."""
    steps = merkle.inclusion_steps(
        merkle.leaf_hash(receipt.body),
        index=receipt.entry,
        size=checkpoint.size,
        path=audit.inclusion_proof(receipt.entry, checkpoint.size),
    )
    return tuple(Step(*(each.hex() for each in step)) for step in steps)


def _opens(receipt: Receipt, opening: Opening) -> bool:
    try:
        return bool(receipts.check_openings(replace(receipt, openings=(opening,))))
    except Invalid:
        return False


def _covering(entry: AuditEntry) -> Checkpoint | None:
    """The last checkpoint, if it covers the entry."""
    return Checkpoint.objects.filter(size__gt=entry.seq).order_by("size").last()


def _with_proof(receipt: Receipt, checkpoint: Checkpoint) -> Receipt:
    path = tuple(audit.inclusion_proof(receipt.entry, checkpoint.size))
    proof = InclusionProof(index=receipt.entry, path=path, note=marks.cosigned_note(checkpoint))
    return replace(receipt, proof=notes.proof_file(proof))


def _written_at(entry: AuditEntry) -> datetime:
    body: Any = canonical.loads(bytes(entry.body), file=f"entry {entry.seq}")
    return datetime.fromisoformat(body["at"])
