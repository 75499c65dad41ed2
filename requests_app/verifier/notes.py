"""C2SP formats: verifier keys and signed notes, checkpoints, cosignatures, inclusion proof files.

Sources: c2sp.org/signed-note, tlog-checkpoint, tlog-cosignature (Ed25519), tlog-proof@v1. Ed25519
only: type 0x01 signs a note, type 0x04 a time and a note. Base64 is strict: one spelling for each
value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import Invalid

ED25519 = b"\x01"
COSIGNATURE = b"\x04"  # of a witness: Ed25519 over a time and the text of a checkpoint
LATEST = 253_402_300_799  # the last second of the year 9999
DASH = "\u2014"  # an em dash begins each signature line
PROOF_HEADER = "c2sp.org/tlog-proof@v1"
LARGEST_SIZE = 2**63 - 1


@dataclass(frozen=True)
class NoteKey:
    """A verifier key: name, 32-byte Ed25519 public key, and the type of what it signs."""

    name: str
    public: bytes
    kind: bytes = ED25519

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + self.kind + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode(self.kind + self.public)}"

    def verify(self, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class TreeHead:
    """What a checkpoint says: which log, how many entries, which root (32 bytes)."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True)
class Cosignature:
    """A witness's word that at a time (seconds since 1970) it had seen no other history."""

    key: NoteKey
    at: int


@dataclass(frozen=True)
class InclusionProof:
    """A tlog-proof file: entry index, inclusion path, and the checkpoint note, verbatim."""

    index: int
    path: tuple[bytes, ...]
    note: bytes


def note_key(name: str, private: Ed25519PrivateKey, *, kind: bytes = ED25519) -> NoteKey:
    """Verifier key of `private` under `name`; ValueError for a name that notes cannot carry."""
    if not _is_name(name):
        raise ValueError(f"“{name}” cannot name a key: no spaces, no plus sign, not empty.")
    return NoteKey(name=name, public=private.public_key().public_bytes_raw(), kind=kind)


def parse_vkey(text: str, *, kind: bytes = ED25519, file: str = "") -> NoteKey:
    """Key of `<name>+<hex key id>+<base64 type and key>`; Invalid unless all agree with `kind`."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not _is_name(parts[0]):
        raise Invalid(f"“{text[:80]}” is not a verifier key.", file=file)
    material = decode(parts[2], file=file)
    if len(material) != 33 or material[:1] != kind:
        raise Invalid(f"The key {parts[0]} is not an Ed25519 key of type {kind[0]}.", file=file)
    key = NoteKey(name=parts[0], public=material[1:], kind=kind)
    if key.vkey != text:
        raise Invalid(f"The id of the key {parts[0]} does not match its bytes.", file=file)
    return key


def sign_note(text: str, *, name: str, private: Ed25519PrivateKey) -> bytes:
    """`text` (ending in a newline) with one signature line; deterministic."""
    return f"{text}\n{signature_line(text, name=name, private=private)}".encode()


def signature_line(text: str, *, name: str, private: Ed25519PrivateKey) -> str:
    """One signature line for `text`, to be added to a note of it."""
    if not text.endswith("\n"):
        raise ValueError("The text of a note ends with a newline.")
    return _line(note_key(name, private), private.sign(text.encode()))


def cosign(text: str, *, name: str, private: Ed25519PrivateKey, at: int) -> str:
    """A witness's signature line for the text of a checkpoint, at `at` seconds since 1970."""
    key = note_key(name, private, kind=COSIGNATURE)
    return _line(key, at.to_bytes(8, "big") + private.sign(_timed(text, at)))


def open_note(
    note: bytes, keys: Iterable[NoteKey], *, file: str
) -> tuple[str, tuple[NoteKey, ...]]:
    """Text of the note and those of `keys` that signed it, in the order of their lines.

    Signature lines of unknown keys are passed over (that is where witnesses sign); a line that
    carries the name and id of a known key must verify. Invalid otherwise, and if none has signed.
    """
    text, lines = read_note(note, file=file)
    signers = []
    for key, signature in _of_known(lines, keys):
        if not key.verify(signature, text.encode()):
            raise Invalid(f"The signature of {key.name} does not fit the note.", file=file)
        signers.append(key)
    if not signers:
        raise Invalid("No trusted key has signed the note.", file=file)
    return text, tuple(signers)


def cosignatures(
    note: bytes, witnesses: Iterable[NoteKey], *, file: str
) -> tuple[Cosignature, ...]:
    """The cosignatures of `witnesses` in a note, in the order of their lines; none is no error.

    A line that carries the name and id of a known witness must verify; Invalid otherwise.
    """
    text, lines = read_note(note, file=file)
    found = []
    for key, signature in _of_known(lines, witnesses):
        at = int.from_bytes(signature[:8], "big")
        if at > LATEST or not key.verify(signature[8:], _timed(text, at)):
            raise Invalid(f"The cosignature of {key.name} does not fit the note.", file=file)
        found.append(Cosignature(key=key, at=at))
    return tuple(found)


def read_note(note: bytes, *, file: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Text of a note, and name, key id and signature of each line; nothing of it is verified."""
    text, _, tail = _text(note, file).rpartition("\n\n")
    if not text or not tail.endswith("\n"):
        raise Invalid("The signed note has no text or no signatures.", file=file)
    lines = []
    for line in tail[:-1].split("\n"):
        match = re.fullmatch(f"{DASH} ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        material = decode(match[2], file=file) if match else b""
        if match is None or len(material) < 5 or not _is_name(match[1]):
            raise Invalid("A signature line of the note is malformed.", file=file)
        lines.append((match[1], material))
    return f"{text}\n", lines


def checkpoint_text(head: TreeHead) -> str:
    return f"{head.origin}\n{head.size}\n{encode(head.root)}\n"


def parse_checkpoint(text: str, *, file: str) -> TreeHead:
    """Tree head of a note's text: origin, size, root; extension lines are not used here."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise Invalid("The checkpoint does not have its three lines.", file=file)
    root = decode(lines[2], file=file)
    if len(root) != 32:
        raise Invalid("The root of the checkpoint does not have 32 bytes.", file=file)
    return TreeHead(origin=lines[0], size=number(lines[1], file=file), root=root)


def open_checkpoint(
    note: bytes, keys: Iterable[NoteKey], *, file: str
) -> tuple[TreeHead, tuple[NoteKey, ...]]:
    """Tree head of a checkpoint, and those of `keys` that signed it; they bear its origin's name.

    Where a key changes over, the old one and the new one sign.
    """
    text, signers = open_note(note, keys, file=file)
    head = parse_checkpoint(text, file=file)
    for signer in signers:
        if signer.name != head.origin:
            raise Invalid(f"{signer.name} signed a checkpoint of {head.origin}.", file=file)
    return head, signers


def proof_file(proof: InclusionProof) -> bytes:
    """The bytes of a `.tlog-proof` file."""
    lines = [PROOF_HEADER, f"index {proof.index}", *map(encode, proof.path), ""]
    return "\n".join(lines).encode() + b"\n" + proof.note


def parse_proof(data: bytes, *, file: str) -> InclusionProof:
    """Index, path and checkpoint of a `.tlog-proof` file; Invalid unless spelled as specified."""
    head, separator, note = _text(data, file).partition("\n\n")
    lines = head.split("\n")
    if not separator or len(lines) < 2 or lines[0] != PROOF_HEADER:
        raise Invalid("This is not a tlog-proof@v1 file.", file=file)
    word, _, digits = lines[1].partition(" ")
    if word != "index":
        raise Invalid("The proof does not name the index of its entry.", file=file)
    path = tuple(decode(line, file=file) for line in lines[2:])
    if any(len(node) != 32 for node in path):
        raise Invalid("A hash of the proof does not have 32 bytes.", file=file)
    return InclusionProof(index=number(digits, file=file), path=path, note=note.encode())


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decode(text: object, *, file: str) -> bytes:
    """Bytes of standard base64 with padding; Invalid for any second spelling of the same bytes."""
    if isinstance(text, str):
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if text and encode(data) == text:
            return data
    raise Invalid("A value is not canonical base64.", file=file)


def _line(key: NoteKey, signature: bytes) -> str:
    return f"{DASH} {key.name} {encode(key.key_id + signature)}\n"


def _timed(text: str, at: int) -> bytes:
    """What a witness signs (c2sp.org/tlog-cosignature, “Ed25519 signed message”)."""
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _of_known(
    lines: Iterable[tuple[str, bytes]], keys: Iterable[NoteKey]
) -> Iterator[tuple[NoteKey, bytes]]:
    """Key and signature of the lines that carry the name and id of a known key."""
    known = {(key.name, key.key_id): key for key in keys}
    for name, material in lines:
        key = known.get((name, material[:4]))
        if key is not None:
            yield key, material[4:]


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or c < " " for c in name)


def number(text: str, *, file: str) -> int:
    """A size or an index: decimal, without leading zeroes, at most LARGEST_SIZE."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) > LARGEST_SIZE:
        raise Invalid(f"“{text[:20]}” is not a plain decimal number.", file=file)
    return int(text)


def _text(data: bytes, file: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("The file is not UTF-8 text.", file=file) from None
    if any(c < " " and c != "\n" for c in text):
        raise Invalid("The file holds control characters.", file=file)
    return text


def hashes(encoded: Sequence[object], *, file: str) -> tuple[bytes, ...]:
    """Hashes of a JSON list of base64 strings, 32 bytes each."""
    found = tuple(decode(item, file=file) for item in encoded)
    if any(len(node) != 32 for node in found):
        raise Invalid("A hash of the proof does not have 32 bytes.", file=file)
    return found
