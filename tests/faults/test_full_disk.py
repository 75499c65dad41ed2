"""No space left, and no memory: what is stored is complete or not there, and staff read why.

The disk is full by RLIMIT_FSIZE, or a file stands on /dev/full. Damaged adapters, gates, releases:
tests/workers/test_adapters.py, test_releases.py and test_crafted_files.py; a damaged checkpoint
file or signer's memory: tests/requests_app/test_restoring.py and test_signer.py. Each is refused.
"""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from django.conf import settings

from requests_app import audit, export_files, external
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import ExportJob, LogHead, StaffMember
from requests_app.services import export_jobs, restoring, runs
from requests_app.signer import open_signer, sign_next
from tests import factories
from tests.requests_app.test_export_jobs import ask
from workers import tasks
from workers.adapters import AdapterError, store_files
from workers.releases import ReleaseError, store_manifest

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow inside the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_adapter_is_stored_complete_or_not_at_all(tmp_path: Path) -> None:
    files = {"adapter_model.safetensors": b"weights", "gate.json": b"{}"}
    with full_disk(), pytest.raises(AdapterError, match="check its rights and space"):
        store_files(tmp_path / "adapters" / "one", files)
    assert list((tmp_path / "adapters").iterdir()) == []
    store_files(tmp_path / "adapters" / "one", files)
    assert (tmp_path / "adapters" / "one" / "gate.json").read_bytes() == b"{}"


def test_a_release_is_stored_complete_or_not_at_all(tmp_path: Path) -> None:
    raw = factories.manifest_of([], base=factories.digest("base"), parent=None)
    with full_disk(), pytest.raises(ReleaseError, match="check its rights and space"):
        store_manifest(tmp_path / "releases", raw)
    assert list((tmp_path / "releases").iterdir()) == []
    release = store_manifest(tmp_path / "releases", raw)
    assert (tmp_path / "releases" / f"{release.sha256}.json").read_bytes() == raw


def test_an_export_that_cannot_be_written_fails_with_a_code(
    auditor: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask(auditor)
    monkeypatch.setattr(export_jobs, "partial_file", lambda lease: Path("/dev/full"))
    export_files.make(job.id, owner="worker-1")
    found = ExportJob.objects.get()
    assert (found.state, found.error) == ("failed", "cannot_write")
    assert not export_jobs.file_of(job.id).exists()


def test_a_step_that_cannot_be_saved_does_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lease = factories.take_lease(factories.executing_case().runs.get())
    runs.save_step(lease, b"step 10")
    with full_disk():
        runs.save_step(lease, b"step 20")
    assert "a step was not saved" in caplog.text
    assert runs.saved_step(lease) == b"step 10"
    assert [path.name for path in (tmp_path / "steps").iterdir()] == [str(lease.run_id)]


def test_a_signer_whose_disk_was_full_publishes_all_of_it_at_its_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factories.open_case()
    folder = settings.RTBF_SIGNER_DIR
    with open_signer(folder) as signer:
        signer, _ = sign_next(signer)
        with external.entries_file().open("ab") as copy:
            copy.write(b'{"half an ent')  # as a write that was cut off leaves it
        factories.open_case()
        with monkeypatch.context() as patch:
            patch.setattr(external, "entries_file", lambda: Path("/dev/full"))
            with pytest.raises(OSError, match="No space left"):
                sign_next(signer)
    with open_signer(folder) as signer:
        sign_next(signer)
    signed = external.last_checkpoint()
    assert signed is not None
    assert signed.head.size == LogHead.objects.get().size
    copied = dict(external.read_entries(external.entries_file()))
    assert list(copied) == list(range(signed.head.size))
    assert restoring.why_not_served() == ""


@pytest.mark.parametrize(
    ("problem", "cause"),
    [
        (MemoryError("Zelda Quillfeather"), "out of memory"),
        (torch.OutOfMemoryError("Zelda Quillfeather"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
        (OSError(errno.ENOSPC, "Zelda Quillfeather"), "no space is left"),
        (ValueError("Zelda Quillfeather"), "unexpected error: ValueError"),
    ],
)
def test_a_run_that_runs_out_of_something_fails_with_a_short_cause(
    monkeypatch: pytest.MonkeyPatch, problem: Exception, cause: str
) -> None:
    """One that is killed for its memory each time ends too: test_runs.py, after three leases."""

    def measure(*_: object) -> NoReturn:
        raise problem

    monkeypatch.setattr(tasks, "measure", measure)
    case = factories.executing_case()
    run = case.runs.get()
    tasks.run_erasure(str(run.id))
    run.refresh_from_db()
    case.refresh_from_db()
    assert (run.state, case.status) == (RunState.FAILED, CaseStatus.EVIDENCE_REVIEW)
    assert run.error.startswith(cause)
    assert "Zelda" not in run.error
    audit.verify_log()


def test_torch_says_so_where_memory_cannot_be_had() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**40, hard))
    try:
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            torch.empty(2**42, dtype=torch.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert tasks.short_cause(caught.value).startswith("out of memory")
