"""The sealed annex: personal data of a case, encrypted to one recipient's X25519 key by HPKE.

`python -m requests_app.verifier.annex bundle.zip --key key.pem` prints it as JSON. RFC 9180 in base
mode: X25519, HKDF-SHA256, AES-256-GCM; `info` names the case, so that an annex opens in no other
case's bundle. It authenticates nobody: the bundle's log and signature say where it is from. Needs
`cryptography` 47 or newer, which nothing else of this folder does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from . import archive, canonical, notes
from .errors import Invalid
from .statements import ANNEX, STATEMENT

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def read_public_key(pem: str) -> X25519PublicKey:
    """The recipient's key; ValueError for anything but an X25519 public key in PEM."""
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, X25519PublicKey):
        raise ValueError("a key of another kind than X25519")
    return key


def seal(plain: bytes, *, recipient: X25519PublicKey, case: str) -> bytes:
    """Ciphertext that only the holder of the recipient's private key can open, for this case."""
    return SUITE.encrypt(plain, recipient, info=_info(case))


def unseal(sealed: bytes, *, key: X25519PrivateKey, case: str) -> bytes:
    """Inverse of `seal`; Invalid for another key, another case or changed bytes."""
    try:
        return SUITE.decrypt(sealed, key, info=_info(case))
    except (InvalidTag, ValueError):
        raise Invalid("This key does not open the annex of this case.", file=ANNEX) from None


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, 1 when the annex cannot be opened, 2 when a file cannot be read."""
    parser = argparse.ArgumentParser(prog="annex", description="Open the sealed annex of a bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", type=Path, required=True, help="X25519 private key, PEM")
    options = parser.parse_args(arguments)
    try:
        bundle = options.bundle.read_bytes()
        key = load_pem_private_key(options.key.read_bytes(), password=None)
        if not isinstance(key, X25519PrivateKey):
            raise ValueError("a key of another kind than X25519")
    except OSError as problem:
        sys.stderr.write(f"Cannot read {problem.filename}: {problem.strerror}.\n")
        return 2
    except (TypeError, ValueError) as problem:
        sys.stderr.write(f"Cannot use {options.key}: {problem}.\n")
        return 2
    try:
        files = archive.read_archive(bundle)
        if ANNEX not in files:
            raise Invalid("The bundle has no annex.", file=ANNEX)
        plain = unseal(files[ANNEX], key=key, case=_case(files))
    except Invalid as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(plain.decode() + "\n")
    return 0


def _info(case: str) -> bytes:
    return f"rtbf-annex/v1 {case}".encode()


def _case(files: Mapping[str, bytes]) -> str:
    """The case that the statement names; of another one the annex does not open."""
    envelope = canonical.loads(files.get(STATEMENT, b""), file=STATEMENT)
    match envelope:
        case {"payload": str(payload)}:
            statement = canonical.loads(notes.decode(payload, file=STATEMENT), file=STATEMENT)
        case _:
            statement = None
    match statement:
        case {"predicate": {"case": str(case)}}:
            return case
    raise Invalid("The statement names no case.", file=STATEMENT)


if __name__ == "__main__":
    sys.exit(main())
