"""Receipts: with one, a data subject shows that a case was theirs, also after it was sealed.

The log holds salted commitments to the name and address that a request came with. A receipt opens
them: it carries the exact bytes of the entry, salt and value of each field, and, once signed, the
proof that the entry is in the log. Sealing destroys the controller's salts; only the receipt is
left. It is canonical JSON, so that it has one reading.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from . import canonical, merkle, notes
from .canonical import JSON
from .errors import Invalid
from .notes import NoteKey, TreeHead

TYPE = "rtbf-receipt/v1"
SALT_BYTES = 32
LONGEST = 32 * 1024  # bytes
MOST_OPENINGS = 8

_FIELD = re.compile(r"[a-z_]{1,48}")
_SALT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Opening:
    """What one commitment was made of: field, 32-byte salt, and the value as it was given."""

    field: str
    salt: bytes
    value: str


@dataclass(frozen=True)
class Receipt:
    """The index of an entry of a case, its exact bytes, and openings of its commitments.

    `proof` is a tlog-proof file of the entry, None when no checkpoint covered it yet.
    """

    log: str
    case: str
    entry: int
    body: bytes
    openings: tuple[Opening, ...]
    proof: bytes | None = None


def commitment(*, salt: bytes, case_id: UUID | str, seq: int, field: str, value: JSON) -> str:
    """Hex HMAC-SHA256 over where and what, under a 32-byte salt: hiding, binding, not movable."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"A salt has {SALT_BYTES} bytes.")
    message = canonical.dumps({"case": str(case_id), "f": field, "seq": seq, "v": value})
    return hmac.new(salt, message, hashlib.sha256).hexdigest()


def receipt_file(receipt: Receipt) -> bytes:
    """The bytes of a receipt file, at most LONGEST for the fields of a request."""
    return canonical.dumps(
        {
            "type": TYPE,
            "log": receipt.log,
            "case": receipt.case,
            "entry": receipt.entry,
            "body": receipt.body.decode(),
            "openings": [
                {"field": each.field, "salt": each.salt.hex(), "value": each.value}
                for each in receipt.openings
            ],
            "proof": receipt.proof.decode() if receipt.proof else None,
        }
    )


def parse_receipt(data: bytes, *, file: str = "receipt") -> Receipt:
    """The receipt in these bytes, its openings not checked yet; Invalid for anything else."""
    if len(data) > LONGEST:
        raise Invalid("The file is larger than a receipt may be.", file=file)
    match canonical.loads(data.strip(), file=file):
        case {
            "type": "rtbf-receipt/v1",
            "log": str(log),
            "case": str(case),
            "entry": int(entry),
            "body": str(body),
            "openings": list(openings),
            "proof": None | str() as proof,
            **rest,
        } if not rest and not isinstance(entry, bool) and 1 <= len(openings) <= MOST_OPENINGS:
            found = tuple(_opening(each, file) for each in openings)
        case _:
            raise Invalid("This is not a receipt.", file=file)
    if len({each.field for each in found}) != len(found):
        raise Invalid("The receipt opens a field twice.", file=file)
    return Receipt(
        log=log,
        case=case,
        entry=entry,
        body=body.encode(),
        openings=found,
        proof=proof.encode() if proof is not None else None,
    )


def check_openings(receipt: Receipt, *, file: str = "receipt") -> tuple[str, ...]:
    """The fields that the receipt opens in the entry it carries; Invalid unless it opens all that
    it names. The caller compares the entry's bytes with the log's."""
    body: Any = canonical.loads(receipt.body, file=file)
    stated = {"log": receipt.log, "case": receipt.case}
    if not isinstance(body, dict) or any(body.get(name) != value for name, value in stated.items()):
        raise Invalid("The receipt does not fit the entry that it carries.", file=file)
    data = body.get("data")
    for each in receipt.openings:
        stored = data.get(each.field) if isinstance(data, dict) else None
        digest = commitment(
            salt=each.salt,
            case_id=receipt.case,
            seq=receipt.entry,
            field=each.field,
            value=each.value,
        )
        if not isinstance(stored, dict) or not _equal(stored.get("commitment"), digest):
            raise Invalid(
                f"The receipt does not open the commitment “{each.field}” of entry"
                f" {receipt.entry}.",
                file=file,
            )
    return tuple(each.field for each in receipt.openings)


def check_proof(receipt: Receipt, keys: Iterable[NoteKey], *, file: str = "receipt") -> TreeHead:
    """The signed tree head that covers the receipt's entry; Invalid if its proof does not lead
    there, or if there is none."""
    if receipt.proof is None:
        raise Invalid("The receipt was made before its entry was signed.", file=file)
    proof = notes.parse_proof(receipt.proof, file=file)
    head, _ = notes.open_checkpoint(proof.note, keys, file=file)
    if proof.index != receipt.entry or head.origin != receipt.log:
        raise Invalid("The proof of the receipt is of another entry.", file=file)
    try:
        merkle.verify_inclusion(
            merkle.leaf_hash(receipt.body),
            index=proof.index,
            size=head.size,
            path=proof.path,
            root=head.root,
        )
    except merkle.ProofError as problem:
        raise Invalid(
            f"The entry of the receipt is not in the log: {problem}.", file=file
        ) from None
    return head


def _opening(value: object, file: str) -> Opening:
    match value:
        case {"field": str(field), "salt": str(salt), "value": str(text), **rest} if (
            not rest and _FIELD.fullmatch(field) and _SALT.fullmatch(salt)
        ):
            return Opening(field=field, salt=bytes.fromhex(salt), value=text)
    raise Invalid("The receipt holds something that is not an opening.", file=file)


def _equal(stored: object, digest: str) -> bool:
    return isinstance(stored, str) and hmac.compare_digest(stored.encode(), digest.encode())
