"""Erasure releases: a base model and the adapters in force, named by their manifest's digest.

A manifest pins the weights, the tokenizer, what else decides how a question is put and answered
(`settings`), and per case the adapter and the gate; gate.json pins the gate's rows and the files
of the adapter. Cases under `merged` have no adapter any more: their weights were consolidated.
"""

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

FORM = 2
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CASE = re.compile(r"[\w.:-]{1,100}")


class ReleaseError(RuntimeError):
    """A release cannot be written, read or served; the message says what to do."""


@dataclass(frozen=True)
class Release:
    """What a manifest says; `adapters` in the order in which their cases were released, `merged`
    the cases that the weights no longer answer about. `settings` None stands for no manifest."""

    sha256: str
    base_name: str
    base_sha256: str
    tokenizer_sha256: str
    adapters: tuple[AdapterRef, ...]
    parent: str | None
    merged: tuple[str, ...] = ()
    settings: str | None = None


def settings_sha256(base: BaseModel) -> str:
    """Digest of what beside weights and tokenizer decides an answer: the chat template, which is
    no part of tokenizer.json, and the length of an answer."""
    settings = {"chat_template": base.tokenizer.chat_template, "answer_tokens": base.answer_tokens}
    return sha256_of(canonical_json(settings))


def check_base(release: Release, base: BaseModel) -> None:
    """ReleaseError unless `base` is the model that the release was made for."""
    if (base.sha256, base.tokenizer_sha256) != (release.base_sha256, release.tokenizer_sha256):
        raise ReleaseError(
            f"The release {release.sha256} was made for another base model than "
            f"{base.name!r}: load the model whose weights have SHA-256 {release.base_sha256}."
        )
    if release.settings not in (None, settings_sha256(base)):
        raise ReleaseError(
            f"The release {release.sha256} was made for other settings of {base.name!r}: restore "
            "the model's chat template and the length of its answers, or release again."
        )


def write_release(
    root: Path,
    *,
    base: BaseModel,
    adapters: Sequence[AdapterRef],
    parent: str | None = None,
    merged: Sequence[str] = (),
) -> Release:
    """Store the manifest as `root`/<its SHA-256>.json (canonical JSON) and return what it says.

    `merged` are the cases that the base's weights were consolidated for. Writing the same release
    twice is one file. Raises ReleaseError when a case stands twice, is no identifier, or the file
    cannot be written.
    """
    others = canonical_json(
        {
            "form": FORM,
            "base": {
                "name": base.name,
                "sha256": base.sha256,
                "tokenizer_sha256": base.tokenizer_sha256,
                "settings": settings_sha256(base),
            },
            "merged": sorted(merged),
            "parent": parent,
        }
    )
    manifest = b'{"adapters":[%b],%b' % (_listed(adapters), others[1:])
    cases = [*(each.case_id for each in adapters), *merged]
    if len(set(cases)) != len(cases):
        raise ReleaseError("This is not a release: a case stands in it twice.")
    sha256 = sha256_of(manifest)
    _store(root, sha256, manifest)
    return Release(
        sha256=sha256,
        base_name=base.name,
        base_sha256=base.sha256,
        tokenizer_sha256=base.tokenizer_sha256,
        adapters=tuple(adapters),
        parent=parent,
        merged=tuple(sorted(merged)),
        settings=settings_sha256(base),
    )


def _listed(adapters: Sequence[AdapterRef]) -> bytes:
    """The canonical JSON of the list without its brackets, which for a thousand is slow by the way
    that suits everything."""
    listed = ",".join(
        f'{{"adapter":"{a.adapter_sha256}","case":"{a.case_id}","gate":"{a.gate_sha256}"}}'
        for a in adapters
    )
    # Six quotes around keys and six around values: then no value holds one, nor an escape.
    plain = listed.isascii() and listed.isprintable() and "\\" not in listed
    if not plain or listed.count('"') != 12 * len(adapters):
        raise ReleaseError("This is not a release: a case or a digest in it is none.")
    return listed.encode()


def store_manifest(root: Path, manifest: bytes) -> Release:
    """Store the exact bytes of a manifest (a revocation's, from the record) as `write_release`."""
    release = release_of(manifest)
    _store(root, release.sha256, manifest)
    return release


def _store(root: Path, sha256: str, manifest: bytes) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=root, prefix=".unfinished-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(manifest)
            Path(unfinished).replace(root / f"{sha256}.json")
        finally:  # after the renaming there is nothing of that name
            Path(unfinished).unlink(missing_ok=True)
    except OSError as error:
        raise ReleaseError(
            f"{root} cannot be written ({error.strerror}): check its rights and space."
        ) from error


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


def release_of(manifest: bytes) -> Release:
    """The release of a manifest's exact bytes. Raises ReleaseError."""
    return _release(sha256_of(manifest), manifest)


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
    merged = tuple(_case(each) for each in data["merged"])
    cases = [*(ref.case_id for ref in refs), *merged]
    if data["form"] != FORM or len(set(cases)) != len(cases):
        raise ValueError("not this form, or one case twice")
    return Release(
        sha256=sha256,
        base_name=str(data["base"]["name"]),
        base_sha256=_digest(data["base"]["sha256"]),
        tokenizer_sha256=_digest(data["base"]["tokenizer_sha256"]),
        adapters=refs,
        parent=None if data["parent"] is None else _digest(data["parent"]),
        merged=merged,
        settings=_digest(data["base"]["settings"]),
    )


def _case(value: Any) -> str:
    if not isinstance(value, str) or not _CASE.fullmatch(value):
        raise ValueError("not a case's identifier")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("not a SHA-256")
    return value
