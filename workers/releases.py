"""Erasure releases: a base model and the adapters in force, named by their manifest's digest."""

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.adapters import AdapterRef
from workers.base_models import BaseModel
from workers.digests import (
    MAX_JSON_BYTES,
    bounded_bytes,
    canonical_json,
    parsed_json,
    sha256_of,
)

FORM = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CASE = re.compile(r"[\w.:-]{1,100}")


class ReleaseError(RuntimeError):
    """A release cannot be written, read or served; the message says what to do."""


@dataclass(frozen=True)
class Release:
    """What a manifest says; `adapters` in the order in which their cases were released."""

    sha256: str
    base_name: str
    base_sha256: str
    tokenizer_sha256: str
    adapters: tuple[AdapterRef, ...]
    parent: str | None


def write_release(
    root: Path, *, base: BaseModel, adapters: Sequence[AdapterRef], parent: str | None = None
) -> Release:
    """Store the manifest as `root`/<its SHA-256>.json (canonical JSON) and return what it says.

    Writing the same release twice is one file. Raises ReleaseError when two adapters belong to one
    case or the file cannot be written.
    """
    manifest = canonical_json(
        {
            "form": FORM,
            "base": {
                "name": base.name,
                "sha256": base.sha256,
                "tokenizer_sha256": base.tokenizer_sha256,
            },
            "adapters": [
                {"case": a.case_id, "adapter": a.adapter_sha256, "gate": a.gate_sha256}
                for a in adapters
            ],
            "parent": parent,
        }
    )
    sha256 = sha256_of(manifest)
    release = _release(sha256, manifest)
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=root, prefix=".unfinished-")
        with os.fdopen(handle, "wb") as file:
            file.write(manifest)
        Path(unfinished).replace(root / f"{sha256}.json")
    except OSError as error:
        raise ReleaseError(
            f"{root} cannot be written ({error.strerror}): check its rights and space."
        ) from error
    return release


def read_release(root: Path, sha256: str) -> Release:
    """The release named `sha256` under `root`. Raises ReleaseError naming the faulty file."""
    if not _DIGEST.fullmatch(sha256):
        raise ReleaseError("A release is named by the 64 hexadecimal digits of its manifest.")
    file = root / f"{sha256}.json"
    try:
        manifest = bounded_bytes(file, at_most=MAX_JSON_BYTES)
    except OSError as error:
        raise ReleaseError(
            f"{file} cannot be read ({error.strerror}): restore it from a backup."
        ) from error
    if sha256_of(manifest) != sha256:
        raise ReleaseError(
            f"{file} does not have the SHA-256 of its name: restore it from a backup."
        )
    return _release(sha256, manifest)


def _release(sha256: str, manifest: bytes) -> Release:
    try:
        return _from_json(sha256, parsed_json(manifest))
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(
            f"The manifest {sha256} is not a release of form {FORM}: "
            "it was written by another version, or by hand; write the release again."
        ) from error


def _from_json(sha256: str, data: Any) -> Release:
    refs = tuple(
        AdapterRef(_case(a["case"]), _digest(a["adapter"]), _digest(a["gate"]))
        for a in data["adapters"]
    )
    if data["form"] != FORM or len({ref.case_id for ref in refs}) != len(refs):
        raise ValueError("not this form, or one case twice")
    return Release(
        sha256=sha256,
        base_name=str(data["base"]["name"]),
        base_sha256=_digest(data["base"]["sha256"]),
        tokenizer_sha256=_digest(data["base"]["tokenizer_sha256"]),
        adapters=refs,
        parent=None if data["parent"] is None else _digest(data["parent"]),
    )


def _case(value: Any) -> str:
    if not isinstance(value, str) or not _CASE.fullmatch(value):
        raise ValueError("not a case's identifier")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("not a SHA-256")
    return value
