"""DSSE envelopes (secure-systems-lab/dsse, protocol v1) around in-toto Statements v1.

The envelope is canonical JSON with exactly one Ed25519 signature; its `keyid` is the C2SP verifier
key's `<name>+<hex id>`. Nothing of the payload is read before its signature has been verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import canonical, notes
from .canonical import JSON
from .errors import Invalid
from .notes import NoteKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


def pae(payload: bytes) -> bytes:
    """Pre-authentication encoding: what is signed (DSSE protocol, section “Signature”)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(key: NoteKey) -> str:
    return f"{key.name}+{key.key_id.hex()}"


def sign_statement(
    *,
    subject: list[JSON],
    predicate_type: str,
    predicate: Mapping[str, JSON],
    name: str,
    private: Ed25519PrivateKey,
) -> bytes:
    """Envelope bytes of an in-toto Statement v1, signed by the attest key `name`; deterministic."""
    payload = canonical.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": subject,
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )
    signature = {
        "keyid": key_id(notes.note_key(name, private)),
        "sig": notes.encode(private.sign(pae(payload))),
    }
    return canonical.dumps(
        {
            "payload": notes.encode(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [signature],
        }
    )


def open_statement(
    envelope: bytes, keys: Iterable[NoteKey], *, predicate_type: str, file: str
) -> tuple[Mapping[str, JSON], NoteKey]:
    """Statement of an envelope signed by one of `keys`, and that key; Invalid otherwise."""
    payload, key = _verified_payload(envelope, keys, file)
    statement = canonical.loads(payload, file=file)
    expected = {"_type", "subject", "predicateType", "predicate"}
    if not isinstance(statement, dict) or set(statement) != expected:
        raise Invalid("The payload is not an in-toto statement.", file=file)
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != predicate_type:
        raise Invalid("The statement is of another type than this file's.", file=file)
    return statement, key


def _verified_payload(envelope: bytes, keys: Iterable[NoteKey], file: str) -> tuple[bytes, NoteKey]:
    value = canonical.loads(envelope, file=file)
    match value:
        case {
            "payload": str(payload),
            "payloadType": str(kind),
            "signatures": [{"keyid": str(keyid), "sig": str(sig), **more}],
            **rest,
        } if not more and not rest:
            pass
        case _:
            raise Invalid("The file is not a DSSE envelope with one signature.", file=file)
    if kind != PAYLOAD_TYPE:
        raise Invalid("The envelope does not hold an in-toto statement.", file=file)
    key = next((key for key in keys if key_id(key) == keyid), None)
    if key is None:
        raise Invalid(f"The statement is signed by {keyid}, which is not trusted.", file=file)
    signed = notes.decode(payload, file=file)
    if not key.verify(notes.decode(sig, file=file), pae(signed)):
        raise Invalid(f"The signature of {keyid} does not fit the statement.", file=file)
    return signed, key
