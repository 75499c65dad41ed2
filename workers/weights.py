"""Consolidated weights on disk: stored by digest, quarantined when replaced, destroyed at the end.

Under one root lie `weights/<digest>` and `quarantine/<digest>`; the digest is the one by which a
release pins its base. A folder is complete or not there.
"""

import copy
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from workers.base_models import (
    PLAIN,
    BaseModel,
    ModelError,
    Placement,
    load_base_model,
    load_folder,
    quiet_transformers,
    weights_sha256,
)

SETTINGS_FILE = "served_as.json"
CHUNK = 1 << 20
MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")


def store_weights(base: BaseModel, deltas: Mapping[str, Tensor], root: Path) -> Path:
    """Store `base` with `deltas` added to its parameters (by name) as `root`/weights/<digest>.

    `base` itself stays as it is. Raises ModelError when nothing can be written.
    """
    try:
        (root / "weights").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root / "weights", prefix=".unfinished-") as unfinished:
            target = Path(unfinished) / "model"
            _save(base, deltas, target)
            folder = root / "weights" / weights_sha256(target)
            if not folder.is_dir():
                target.rename(folder)
            return folder
    except OSError as error:
        raise ModelError(
            f"{root} cannot be written ({error.strerror}): check its rights and space."
        ) from error


def adopt_weights(given: BaseModel, folder: Path, root: Path) -> Path:
    """Copy the weights in `folder`, which `given` was loaded from, to `root`/weights/<digest>,
    marked as a version of the model `given` is named by. Raises ModelError."""
    target = root / "weights" / given.sha256
    if target.is_dir():
        return target
    try:
        (root / "weights").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root / "weights", prefix=".unfinished-") as unfinished:
            copied = Path(unfinished) / "model"
            copied.mkdir()
            for file in folder.iterdir():
                if file.suffix in MODEL_FILES and file.is_file():
                    shutil.copyfile(file, copied / file.name)
            _mark(copied, given)
            copied.rename(target)
    except OSError as error:
        raise ModelError(
            f"{root} cannot be written ({error.strerror}): check its rights and space."
        ) from error
    return target


def _save(base: BaseModel, deltas: Mapping[str, Tensor], target: Path) -> None:
    state = base.model.state_dict()
    changed = {name: state[name] + delta.to(state[name].dtype) for name, delta in deltas.items()}
    config = copy.deepcopy(base.model.config)
    config._name_or_path = ""
    with quiet_transformers():
        merged = type(base.model)(config).to(base.model.dtype)
        merged.load_state_dict({**state, **changed})
        merged.save_pretrained(target)
        base.tokenizer.save_pretrained(target)
    tokenizer = target / "tokenizer_config.json"
    settings = json.loads(tokenizer.read_text())
    settings.pop("name_or_path", None)
    tokenizer.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    _mark(target, base)


def _mark(folder: Path, base: BaseModel) -> None:
    """Write down beside the weights which model they are a version of."""
    served_as = {
        "name": base.name,
        "lowest_layer": base.lowest_layer,
        "answer_tokens": base.answer_tokens,
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(served_as, sort_keys=True) + "\n")


def load_weights(root: Path, sha256: str, placement: Placement = PLAIN) -> BaseModel:
    """The consolidated weights named `sha256`, checked against that digest. Raises ModelError."""
    return _load_stored(root / "weights" / sha256, placement)


def _load_stored(folder: Path, placement: Placement) -> BaseModel:
    try:
        served_as = json.loads((folder / SETTINGS_FILE).read_text())
        base = load_folder(
            str(served_as["name"]),
            folder,
            placement,
            lowest_layer=int(served_as["lowest_layer"]),
            answer_tokens=int(served_as["answer_tokens"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} does not hold consolidated weights: restore it from a backup."
        ) from error
    if base.sha256 != folder.name:
        raise ModelError(
            f"The weights in {folder} do not have the SHA-256 of its name: restore them from a "
            "backup."
        )
    return base


def load_served(
    name: str, sha256: str | None, root: Path, placement: Placement = PLAIN
) -> BaseModel:
    """The weights that model `name` is served with: consolidated ones named `sha256`, or those it
    came with. Raises ModelError when neither is there, as after their destruction."""
    if sha256 is not None and (root / "weights" / sha256).is_dir():
        return load_weights(root, sha256, placement)
    base = load_base_model(name, placement)
    if sha256 not in (None, base.sha256):
        raise ModelError(
            f"The weights {sha256} of {name!r} are not under {root / 'weights'}: bring them back "
            "from quarantine or a backup, or release again on the weights that are there."
        )
    return base


def load_kept(name: str, sha256: str, root: Path, placement: Placement = PLAIN) -> BaseModel:
    """Like `load_served`, for measuring against earlier weights: as long as they are in quarantine,
    they are read there. Raises ModelError when they are gone."""
    folder = root / "quarantine" / sha256
    if folder.is_dir():
        return _load_stored(folder, placement)
    return load_served(name, sha256, root, placement)


def quarantine(root: Path, base: BaseModel) -> bool:
    """Move the replaced weights of `base` out of service: those in the store, or the folder that
    the model is named by. False if they are neither (they came with the software or from a hub)."""
    stored, named = root / "weights" / base.sha256, Path(base.name)
    if stored.is_dir():
        return _move(stored, root / "quarantine" / base.sha256)
    if not named.is_dir() or weights_sha256(named) != base.sha256:
        return False
    _mark(named, base)
    return _move(named, root / "quarantine" / base.sha256)


def bring_back(root: Path, sha256: str) -> bool:
    """Move quarantined weights back into service; False if there are none of that name."""
    source = root / "quarantine" / sha256
    return source.is_dir() and _move(source, root / "weights" / sha256)


def _move(source: Path, target: Path) -> bool:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)  # a copy where they lie on two disks
    except OSError as error:
        raise ModelError(
            f"{source} cannot be moved to {target} ({error.strerror}): check rights and space."
        ) from error
    return True


def quarantined(root: Path, name: str | None = None) -> tuple[str, ...]:
    """The digests of the weights in quarantine, of the model called `name` alone if it is given."""
    return tuple(
        sorted(
            each.parent.name
            for each in (root / "quarantine").glob(f"*/{SETTINGS_FILE}")
            if name in (None, json.loads(each.read_text())["name"])
        )
    )


def destroy(root: Path, sha256: str, *, record: Callable[[int], None]) -> None:
    """Overwrite quarantined weights with random bytes and delete them, then `record` how many files
    there were; until that is done the note stays which model they were a version of, so that a
    second try records it.

    On a disk that writes in place nothing is left to read. Solid-state disks, copy-on-write file
    systems, snapshots and backups may keep earlier blocks: only encrypted storage whose key goes
    too, or the medium's own erase command, reaches those. Raises ModelError when a file resists.
    """
    folder = root / "quarantine" / sha256
    note = folder / SETTINGS_FILE
    files = [each for each in folder.rglob("*") if each.is_file() and each != note]
    try:
        for file in files:
            _overwrite(file)
        record(len(files))
        shutil.rmtree(folder)
    except OSError as error:
        raise ModelError(
            f"{folder} could not be destroyed ({error.strerror}): check its rights, then repeat."
        ) from error


def _overwrite(file: Path) -> None:
    left = file.stat().st_size
    with file.open("r+b") as stream:
        while left > 0:
            left -= stream.write(secrets.token_bytes(min(left, CHUNK)))
        stream.flush()
        os.fsync(stream.fileno())
    file.unlink()


def discard(place: Path) -> None:
    """Remove a folder or file that is not to be used after all."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
