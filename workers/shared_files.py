"""Adapters and restrictions on storage that machines share, beside the folders of each machine.

With RTBF_ADAPTER_STORAGE a worker puts what it made there before it registers it; whoever reads a
release first fetches what its own folder lacks, and checks it by its digests before it takes its
place. Without that setting the folders are all there is, and nothing here acts.

Adapters are personal data. On the shared storage each file is sealed (AES-256-GCM, bound to its
name) under a key made of RTBF_GATE_KEY, which the storage never sees. They stay in force after
their case was sealed, so no key of the case can protect them: `remove_retired` deletes them, here
and there, once nothing needs them.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages

from requests_app.services import manifests
from workers.adapters import (
    CONFIG_FILE,
    MAX_BYTES,
    WEIGHTS_FILE,
    AdapterError,
    AdapterRef,
    store_files,
)
from workers.gate import GATE_FILE, ROWS_FILE
from workers.guarded import load_case
from workers.restrictions import FILE as RESTRICTIONS

log = logging.getLogger(__name__)


class StorageAway(AdapterError):
    """The shared storage does not answer; it may the next time."""


ALIAS = "adapters"
FILES = (CONFIG_FILE, WEIGHTS_FILE, ROWS_FILE, GATE_FILE)
NONCE_BYTES = 12
Result = TypeVar("Result")


def put(refs: Sequence[AdapterRef]) -> None:
    """Put stored adapters on the shared storage; what lies there with the same bytes stays. Raises
    AdapterError: then nothing may be registered that names them."""
    storage = shared()
    if storage is None:
        return
    for ref in refs:
        folder = ref.folder(adapters_root())
        for name in FILES:
            try:
                content = (folder / name).read_bytes()
            except OSError as error:
                raise AdapterError(f"{folder / name} cannot be read ({error.strerror}).") from error
            _put(storage, f"{folder.name}/{name}", content)


def put_missing() -> int:
    """Put what is in force and lies in this machine's folder on a storage that lost it; how many
    adapters that were (docs/operations.md, “Drills”). Raises AdapterError."""
    storage = shared()
    refs = [
        AdapterRef(str(each.case_id), each.sha256, each.gate_sha256)
        for each in manifests.all_in_force()
    ]
    if storage is None:
        return 0
    here = [ref for ref in refs if ref.folder(adapters_root()).is_dir()]
    lost = [
        ref
        for ref in here
        if not _asked(partial(storage.exists, f"{ref.folder(Path()).name}/{GATE_FILE}"))
    ]
    put(lost)
    return len(lost)


def fetch(refs: Sequence[AdapterRef]) -> int:
    """Bring the adapters that this machine's folder lacks into it, each one checked by its digests
    before; how many those were. Raises AdapterError."""
    storage, root = shared(), adapters_root()
    wanted = [ref for ref in dict.fromkeys(refs) if not ref.folder(root).exists()]
    if storage is None or not wanted:
        return 0
    try:
        root.mkdir(parents=True, exist_ok=True)
        for ref in wanted:
            with tempfile.TemporaryDirectory(dir=root, prefix=".unfinished-") as unfinished:
                _fetch(storage, ref, root, Path(unfinished))
    except OSError as error:
        raise AdapterError(
            f"{root} cannot be written ({error.strerror}): check its rights and space."
        ) from error
    return len(wanted)


def _fetch(storage: Storage, ref: AdapterRef, root: Path, unfinished: Path) -> None:
    folder = ref.folder(unfinished)
    store_files(folder, {name: _get(storage, f"{folder.name}/{name}") for name in FILES})
    load_case(ref, unfinished)
    try:
        folder.rename(ref.folder(root))
    except OSError:
        if not ref.folder(root).is_dir():  # else another process of this machine was faster
            raise


def put_restrictions() -> None:
    """Put the file that the legal worker has written on the shared storage, at every sweep: its age
    there says whether new restrictions arrive. Raises AdapterError."""
    storage, path = shared(), Path(settings.RTBF_RELEASE_DIR) / RESTRICTIONS
    if storage is not None and path.is_file():
        _put(storage, RESTRICTIONS, path.read_bytes(), anew=True)


def fetch_restrictions() -> None:
    """Bring the restrictions into this machine's folder, with the age that they have on the shared
    storage. Raises AdapterError where that cannot be done: then nothing may be served."""
    storage, path = shared(), Path(settings.RTBF_RELEASE_DIR) / RESTRICTIONS
    if storage is None or not _asked(lambda: storage.exists(RESTRICTIONS)):
        return
    content = _get(storage, RESTRICTIONS)
    modified = _asked(lambda: storage.get_modified_time(RESTRICTIONS)).timestamp()
    try:
        if not (path.is_file() and path.read_bytes() == content):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".unfinished-{os.getpid()}-{secrets.token_hex(4)}")
            unfinished.write_bytes(content)
            unfinished.replace(path)
        os.utime(path, (modified, modified))
    except OSError as error:
        raise AdapterError(f"{path} cannot be written ({error.strerror}).") from error


def remove_retired(*, everywhere: bool = False) -> int:
    """Delete what nothing needs any more (`manifests.retired_adapters`) from this machine's folder
    and, with `everywhere`, from the shared storage; how many folders. Raises AdapterError.

    A file system or a bucket that keeps versions keeps the bytes: docs/operations.md.
    """
    root, storage, removed = adapters_root(), shared(), 0
    here = [each.name for each in root.iterdir() if each.is_dir()] if root.is_dir() else []
    there = (
        _asked(lambda: storage.listdir("")[0])
        if storage is not None and everywhere
        else list[str]()
    )
    gone = manifests.retired_adapters({*here, *there})
    for name in gone:
        if name in here:
            shutil.rmtree(root / name, ignore_errors=True)
        if name in there and storage is not None:
            for file in FILES:
                _asked(partial(storage.delete, f"{name}/{file}"))
            _remove_folder(storage, name)
        removed += 1
    if removed:
        log.info("%d adapters that nothing needs any more were removed", removed)
    return removed


def _remove_folder(storage: Storage, name: str) -> None:
    """What a file system leaves once its files are gone; a bucket has no folders."""
    if _asked(lambda: storage.exists(name)):
        _asked(lambda: storage.delete(name))


# --- The storage --------------------------------------------------------------------------------
def adapters_root() -> Path:
    return Path(settings.RTBF_ADAPTER_DIR)


def shared() -> Storage | None:
    """The shared storage, None where the installation has none."""
    return storages[ALIAS] if ALIAS in settings.STORAGES else None


def _put(storage: Storage, name: str, content: bytes, *, anew: bool = False) -> None:
    if _asked(lambda: storage.exists(name)):
        if not anew and _is(storage, name, content):
            return
        _asked(lambda: storage.delete(name))
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = nonce + AESGCM(_key(_secret())).encrypt(nonce, content, name.encode())
    stored = _asked(lambda: storage.save(name, ContentFile(sealed)))
    if stored != name:  # somebody was faster: under another name nobody looks for it
        _asked(lambda: storage.delete(stored))
        if not anew and not _is(storage, name, content):
            raise AdapterError(f"{name} on the shared storage cannot be replaced: delete it there.")


def _is(storage: Storage, name: str, content: bytes) -> bool:
    try:
        return _get(storage, name) == content
    except AdapterError:
        return False  # half written by a worker that died


def _get(storage: Storage, name: str) -> bytes:
    sealed = _asked(lambda: _read(storage, name))
    try:
        return AESGCM(_key(_secret())).decrypt(
            sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode()
        )
    except (InvalidTag, ValueError):
        raise AdapterError(
            f"{name} on the shared storage cannot be opened: its bytes were changed, or "
            "RTBF_GATE_KEY is not the one it was sealed under."
        ) from None


def _read(storage: Storage, name: str) -> bytes:
    with storage.open(name) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError("larger than any adapter")
    return bytes(content)


def _asked(ask: Callable[[], Result]) -> Result:
    """What the storage says. Raises StorageAway: each storage has errors of its own, and their
    texts may quote addresses or credentials."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001
        raise StorageAway(
            f"The shared storage of adapters does not answer ({type(error).__name__}): check "
            "RTBF_ADAPTER_STORAGE, RTBF_ADAPTER_OPTIONS and its rights."
        ) from None


def _secret() -> str:
    return str(settings.RTBF_GATE_KEY)


@cache
def _key(secret: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"rtbf/shared-files/1").derive(secret.encode())
