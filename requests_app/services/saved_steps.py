"""The last saved step of a run in training, so that a killed worker loses seconds and not the run.

It derives from the person's data: encrypted under the case's key, readable by the worker's account
alone, and gone with the run's end. A worker that does not see the folder begins training anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from uuid import UUID

from django.conf import settings

from requests_app import vault
from requests_app.models import ErasureRun

OURS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def write_step(run: ErasureRun, state: bytes) -> None:
    """Replace the run's saved step: the new one complete, or the old one. OSError if it cannot be
    written."""
    path = _path(run.id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{run.id}.{run.fence}.unfinished")
    try:
        with open(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(vault.seal_bytes(run.case, _name(run), state))
        partial.replace(path)
    finally:  # after the renaming there is nothing of that name
        partial.unlink(missing_ok=True)


def read_step(run: ErasureRun) -> bytes | None:
    """What was saved last; None if nothing was. VaultDamaged if the file was changed."""
    try:
        sealed = _path(run.id).read_bytes()
    except FileNotFoundError:
        return None
    return vault.open_bytes(run.case, _name(run), sealed)


def drop_steps(*run_ids: UUID) -> None:
    """Delete what was saved of these runs, unfinished files included."""
    for run_id in run_ids:
        for path in _folder().glob(f"{run_id}*"):
            path.unlink(missing_ok=True)


def saved_runs() -> set[UUID]:
    """The runs of which something is saved."""
    return {UUID(path.name[:36]) for path in _folder().glob("*") if OURS.match(path.name)}


def _folder() -> Path:
    return Path(settings.RTBF_VAR_DIR) / "steps"


def _path(run_id: UUID) -> Path:
    return _folder() / str(run_id)


def _name(run: ErasureRun) -> str:
    return f"run/{run.id}/step"
