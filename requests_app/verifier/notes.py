"""C2SP formats: verifier keys and signed notes, log checkpoints, inclusion proof files.

Sources: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-proof@v1. Ed25519 only
(signature type 0x01). Base64 is strict: one spelling for each value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import Invalid

ED25519 = b"\x01"
DASH = "\u2014"  # an em dash begins each signature line
PROOF_HEADER = "c2sp.org/tlog-proof@v1"
LARGEST_SIZE = 2**63 - 1


@dataclass(frozen=True)
class NoteKey:
    """A verifier key: name, four-byte key id, 32-byte Ed25519 public key."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode(ED25519 + self.public)}"

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
class InclusionProof:
    """A tlog-proof file: entry index, inclusion path, and the checkpoint note, verbatim."""

    index: int
    path: tuple[bytes, ...]
    note: bytes


def note_key(name: str, private: Ed25519PrivateKey) -> NoteKey:
    """Verifier key of `private` under `name`; ValueError for a name that notes cannot carry."""
    if not _is_name(name):
        raise ValueError(f"“{name}” cannot name a key: no spaces, no plus sign, not empty.")
    return NoteKey(name=name, public=private.public_key().public_bytes_raw())


def parse_vkey(text: str, *, file: str = "") -> NoteKey:
    """Key of `<name>+<hex key id>+<base64 type and key>`; Invalid unless all three agree."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not _is_name(parts[0]):
        raise Invalid(f"“{text[:80]}” is not a verifier key.", file=file)
    material = decode(parts[2], file=file)
    if len(material) != 33 or material[:1] != ED25519:
        raise Invalid(f"The key {parts[0]} is not an Ed25519 key.", file=file)
    key = NoteKey(name=parts[0], public=material[1:])
    if key.vkey != text:
        raise Invalid(f"The id of the key {parts[0]} does not match its bytes.", file=file)
    return key


def sign_note(text: str, *, name: str, private: Ed25519PrivateKey) -> bytes:
    """`text` (ending in a newline) with one signature line; deterministic."""
    if not text.endswith("\n"):
        raise ValueError("The text of a note ends with a newline.")
    key = note_key(name, private)
    signature = encode(key.key_id + private.sign(text.encode()))
    return f"{text}\n{DASH} {name} {signature}\n".encode()


def open_note(note: bytes, keys: Iterable[NoteKey], *, file: str) -> tuple[str, NoteKey]:
    """Text of the note and the key of `keys` that signed it.

    Signature lines of unknown keys are passed over (that is where witnesses sign); a line that
    carries the name and id of a known key must verify. Invalid otherwise.
    """
    text, _, tail = _text(note, file).rpartition("\n\n")
    if not text or not tail.endswith("\n"):
        raise Invalid("The signed note has no text or no signatures.", file=file)
    text += "\n"
    known = {(key.name, key.key_id): key for key in keys}
    signer: NoteKey | None = None
    for line in tail[:-1].split("\n"):
        match = re.fullmatch(f"{DASH} ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        material = decode(match[2], file=file) if match else b""
        if match is None or len(material) < 5 or not _is_name(match[1]):
            raise Invalid("A signature line of the note is malformed.", file=file)
        key = known.get((match[1], material[:4]))
        if key is None:
            continue
        if not key.verify(material[4:], text.encode()):
            raise Invalid(f"The signature of {key.name} does not fit the note.", file=file)
        signer = signer or key
    if signer is None:
        raise Invalid("No trusted key has signed the note.", file=file)
    return text, signer


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
    return TreeHead(origin=lines[0], size=_number(lines[1], file), root=root)


def open_checkpoint(note: bytes, keys: Iterable[NoteKey], *, file: str) -> tuple[TreeHead, NoteKey]:
    """Tree head of a checkpoint signed by one of `keys` that bears the name of the origin."""
    text, signer = open_note(note, keys, file=file)
    head = parse_checkpoint(text, file=file)
    if signer.name != head.origin:
        raise Invalid(f"{signer.name} signed a checkpoint of {head.origin}.", file=file)
    return head, signer


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
    word, _, number = lines[1].partition(" ")
    if word != "index":
        raise Invalid("The proof does not name the index of its entry.", file=file)
    path = tuple(decode(line, file=file) for line in lines[2:])
    if any(len(node) != 32 for node in path):
        raise Invalid("A hash of the proof does not have 32 bytes.", file=file)
    return InclusionProof(index=_number(number, file), path=path, note=note.encode())


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


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or c < " " for c in name)


def _number(text: str, file: str) -> int:
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
