"""Marks of others on checkpoints: cosignatures of witnesses, then one RFC 3161 time stamp.

The signer stores a checkpoint and goes on. A task beside it asks for the marks of the newest one
and closes it: when all have answered, or when the oldest checkpoint that waits has waited for
PATIENCE. A closed checkpoint gets no more marks, and none before it is closed any more; bundles are
made of closed ones alone, and so stay the same. The time stamp comes last, over the note with its
cosignatures. Where nobody is asked the signer closes at once.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import rfc3161_client as rfc3161
from cryptography import x509
from django.conf import settings
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from requests_app import audit, witness
from requests_app.models import AuditKey, Checkpoint, CheckpointMark, LogHead
from requests_app.verifier import notes
from requests_app.verifier.errors import Invalid
from requests_app.verifier.notes import NoteKey

logger = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=60)  # what a bundle waits for a witness, and again for a time stamp
SECONDS = 5.0  # for one answer
LARGEST_ANSWER = 64 * 1024  # bytes
Kind = CheckpointMark.Kind


class MarkError(Exception):
    """Whoever was asked gave no usable mark; the message holds nothing that they sent."""


@dataclass(frozen=True)
class Stamp:
    """An RFC 3161 response (DER) and the certificates it was checked with (PEM, may be empty)."""

    response: bytes
    chain: bytes


def are_asked_for() -> bool:
    return bool(settings.RTBF_WITNESSES or settings.RTBF_TSA_URL)


# --- What is there ------------------------------------------------------------------------------
def closed_after(size: int) -> Checkpoint | None:
    """The first closed checkpoint of more than `size` entries.

    Passed over: those for which all keys that were in use then have been revoked since.
    """
    checkpoints = Checkpoint.objects.filter(size__gt=size, marks__kind=Kind.CLOSED)
    revoked = AuditKey.objects.filter(purpose=AuditKey.Purpose.LOG, revoked_at__isnull=False)
    for key in revoked:
        checkpoints = checkpoints.exclude(size__gt=key.revoked_from, size__lte=key.valid_to)
    return checkpoints.order_by("size").first()


def newest_closed() -> Checkpoint | None:
    mark = CheckpointMark.objects.filter(kind=Kind.CLOSED).order_by("-checkpoint_id").first()
    return mark.checkpoint if mark else None


def cosigned_note(checkpoint: Checkpoint) -> bytes:
    """The signed note with the cosignatures stored, in the order in which they came."""
    lines = checkpoint.marks.filter(kind=Kind.COSIGNATURE).order_by("id")
    return checkpoint.note.encode() + b"".join(bytes(line.data) for line in lines)


def stamp_of(checkpoint: Checkpoint) -> Stamp | None:
    data = {mark.kind: bytes(mark.data) for mark in checkpoint.marks.all()}
    if Kind.STAMP not in data:
        return None
    return Stamp(response=data[Kind.STAMP], chain=data.get(Kind.STAMP_CHAIN, b""))


def close(checkpoint: Checkpoint, stamp: Stamp | None = None) -> None:
    """Let the checkpoint get no more marks; in the caller's transaction."""
    if stamp is not None:
        _add(checkpoint, Kind.STAMP, data=stamp.response)
        if stamp.chain:
            _add(checkpoint, Kind.STAMP_CHAIN, data=stamp.chain)
    _add(checkpoint, Kind.CLOSED)


# --- Asking -------------------------------------------------------------------------------------
def collect() -> Checkpoint | None:
    """Ask for the marks that the newest checkpoint lacks; the checkpoint if it is closed now."""
    last = newest_closed()
    waiting = Checkpoint.objects.filter(size__gt=last.size if last else 0).order_by("size")
    oldest, newest = waiting.first(), waiting.last()
    if oldest is None or newest is None:
        return None
    waited = timezone.now() - oldest.created_at
    for number, url, key in _missing(newest):
        try:
            line = ask_witness(url, key, newest)
        except (MarkError, Invalid, httpx.HTTPError) as problem:
            text = "Witness %d of RTBF_WITNESSES did not cosign the checkpoint of %d entries."
            logger.warning(text, number, newest.size, exc_info=problem)
        else:
            _store_cosignature(newest, key, line)
    if _missing(newest) and waited < PATIENCE:
        return None
    note, stamp = cosigned_note(newest), None
    if settings.RTBF_TSA_URL:
        try:
            stamp = ask_authority(note)
        except (MarkError, httpx.HTTPError, OSError) as problem:
            text = "The time-stamping authority did not stamp the checkpoint of %d entries."
            logger.warning(text, newest.size, exc_info=problem)
            if waited < 2 * PATIENCE:
                return None
    with transaction.atomic():
        if not _lock_open(newest) or cosigned_note(newest) != note:
            return None  # another process was faster
        close(newest, stamp)
    return newest


def ask_witness(url: str, key: NoteKey, checkpoint: Checkpoint) -> bytes:
    """The witness's cosignature line for the checkpoint (c2sp.org/tlog-witness, add-checkpoint).

    Raises MarkError, Invalid for a line that does not verify, httpx.HTTPError.
    """
    seen = CheckpointMark.objects.filter(kind=Kind.COSIGNATURE, name=key.vkey)
    old = seen.aggregate(size=Max("checkpoint__size"))["size"] or 0
    status, body = _add_checkpoint(url, checkpoint, old)
    if status == 409:  # it holds another size than we know of: a line of digits says which
        told = body.decode("ascii", "replace").removesuffix("\n")
        if not told.isdecimal() or len(told) > 18 or int(told) > checkpoint.size:
            raise MarkError("The witness has seen a longer log than this one, or says no size.")
        status, body = _add_checkpoint(url, checkpoint, int(told))
    if status != 200:
        raise MarkError(f"The witness refused with status {status}.")
    note = checkpoint.note.encode()
    if not notes.cosignatures(note + body, [key], file="answer"):
        raise MarkError("The answer holds no cosignature of the witness's key.")
    (line, *_) = [
        line
        for line in body.decode().splitlines(keepends=True)
        if notes.cosignatures(note + line.encode(), [key], file="answer")
    ]
    return line.encode()


def _add_checkpoint(url: str, checkpoint: Checkpoint, old: int) -> tuple[int, bytes]:
    body = witness.write_request(
        witness.Request(
            old=old,
            proof=tuple(audit.consistency_proof(old, checkpoint.size)),
            note=checkpoint.note.encode(),
        )
    )
    return _post(f"{url.rstrip('/')}/add-checkpoint", body, content_type="text/plain")


def ask_authority(note: bytes) -> Stamp:
    """A time stamp over `note`, checked against RTBF_TSA_CERTIFICATE if that is set (RFC 3161).

    Raises MarkError, httpx.HTTPError, OSError for a certificate file that cannot be read.
    """
    chain = Path(settings.RTBF_TSA_CERTIFICATE).read_bytes() if _has_chain() else b""
    request = rfc3161.TimestampRequestBuilder(note, rfc3161.HashAlgorithm.SHA256).build()
    status, body = _post(
        settings.RTBF_TSA_URL, request.as_bytes(), content_type="application/timestamp-query"
    )
    if status != 200:
        raise MarkError(f"The authority answered with status {status}.")
    try:
        response = rfc3161.decode_timestamp_response(body)
        imprint, nonce = response.tst_info.message_imprint.message, response.tst_info.nonce
        if chain:
            certificates = x509.load_pem_x509_certificates(chain)
            _verifier(request, certificates).verify_message(response, note)
    except (ValueError, rfc3161.VerificationError) as problem:
        raise MarkError(f"The time stamp is not good ({type(problem).__name__}).") from None
    if imprint != hashlib.sha256(note).digest() or nonce != request.nonce:
        raise MarkError("The time stamp is for something else.")
    return Stamp(response=body, chain=chain)


def _has_chain() -> bool:
    return bool(settings.RTBF_TSA_CERTIFICATE)


def _verifier(
    request: rfc3161.TimeStampRequest, certificates: Sequence[x509.Certificate]
) -> rfc3161.Verifier:
    """Trusts the certificates that issued themselves; the others lead to them."""
    roots = [each for each in certificates if each.issuer == each.subject]
    others = [each for each in certificates if each.issuer != each.subject]
    return rfc3161.VerifierBuilder(nonce=request.nonce, roots=roots, intermediates=others).build()


def _post(url: str, content: bytes, *, content_type: str) -> tuple[int, bytes]:
    """Status and body of an answer that comes whole within SECONDS and LARGEST_ANSWER."""
    until = time.monotonic() + SECONDS
    headers = {"Content-Type": content_type, "Accept-Encoding": "identity"}
    body = b""
    with httpx.stream("POST", url, content=content, headers=headers, timeout=SECONDS) as response:
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > LARGEST_ANSWER or time.monotonic() > until:
                raise MarkError("The answer is too long or takes too long.")
    return response.status_code, body


def _missing(checkpoint: Checkpoint) -> list[tuple[int, str, NoteKey]]:
    """Number, address and key of the witnesses that have not cosigned the checkpoint yet."""
    done = set(checkpoint.marks.filter(kind=Kind.COSIGNATURE).values_list("name", flat=True))
    return [
        (number, url, notes.parse_vkey(vkey, kind=notes.COSIGNATURE, file="RTBF_WITNESSES"))
        for number, (url, vkey) in enumerate(settings.RTBF_WITNESSES.items(), start=1)
        if vkey not in done
    ]


@transaction.atomic
def _store_cosignature(checkpoint: Checkpoint, key: NoteKey, line: bytes) -> None:
    if _lock_open(checkpoint):
        _add(checkpoint, Kind.COSIGNATURE, name=key.vkey, data=line)


def _lock_open(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is open, and stays so in this transaction: the head is locked for it,
    since the application has no right to lock a row of the checkpoints (`migrate_as_owner`)."""
    LogHead.objects.select_for_update().get(id=1)
    return not checkpoint.marks.filter(kind=Kind.CLOSED).exists()


def _add(checkpoint: Checkpoint, kind: str, *, name: str = "", data: bytes = b"") -> None:
    checkpoint.marks.get_or_create(
        kind=kind, name=name, defaults={"data": data, "created_at": timezone.now()}
    )
