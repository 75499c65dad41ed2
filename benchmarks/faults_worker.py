"""The processes of the fault benchmark: the commands of an installation, in processes that are
forked from one that has imported everything, so that a killed one is back within a second.

The model worker is the real task with its engine replaced (`without_engine`): leases, heartbeat,
phases, saved steps, the store of adapters and releases and every write of the record are those of
`workers.tasks`; nothing is trained and the figures are made up. Of twenty runs one is not met and
one decides nothing.
"""

import hashlib
import os
import runpy
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import django

django.setup()

import uvicorn  # noqa: E402, F401  (imported before processes are forked)
from django.conf import settings  # noqa: E402

from requests_app.models import ErasureRun  # noqa: E402
from requests_app.models.runs import Verdict  # noqa: E402
from requests_app.services import rechecks, runs  # noqa: E402
from requests_app.services.run_values import Lease, RunInput  # noqa: E402
from rtbf import made_up_runs  # noqa: E402
from workers import rechecks as recheck_task  # noqa: E402
from workers import tasks  # noqa: E402
from workers.adapters import AdapterRef, store_files  # noqa: E402
from workers.releases import Release, store_manifest  # noqa: E402

STEPS, STEP_SECONDS = 4, 0.02


def run_command(command: list[str], log: str, *, is_model: bool) -> None:
    """Become the process of `command` (as in `rtbf.stack.COMMANDS`), writing to the file `log`."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if is_model:
        without_engine()
    if command[1] == "-m":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command[1:]
        runpy.run_path(command[1], run_name="__main__")


def without_engine() -> None:
    """Replace the engine in this process; what calls it stays."""
    replaced: dict[str, Any] = {
        "measure_and_record": measure_and_record,
        "base_model": lambda name: None,
        "manifest_of": manifest_of,
        "reloaded": lambda base, release: nullcontext(),
    }
    vars(tasks).update(replaced)
    vars(recheck_task).update(work=recheck)


def measure_and_record(lease: Lease, given: RunInput, progress: tasks.Progress) -> None:
    """In place of locating, training and verifying: the same calls, the same files, made-up
    figures."""
    run = ErasureRun.objects.select_related("case").get(pk=lease.run_id)
    runs.record_protocol(lease, protocol=made_up_runs.protocol(run))
    if given.adapter is None:
        for step in range(STEPS):
            progress.report("train", step + 1, STEPS, {"loss": 1.0 / (step + 1)})
            runs.save_step(lease, str(step).encode())
            time.sleep(STEP_SECONDS)
        ref = AdapterRef(
            str(run.case_id),
            made_up_runs.digest("adapter", run.id),
            made_up_runs.digest("gate", run.id),
        )
        files = {"adapter_model.safetensors": ref.adapter_sha256.encode(), "gate.json": b"{}"}
        store_files(ref.folder(Path(settings.RTBF_ADAPTER_DIR)), files)
        made_up_runs.record_adapter(lease, run)
    progress.report("verify", 1, 1, {})
    time.sleep(STEP_SECONDS)
    verdict = verdict_of(run)
    runs.record_evidence(
        lease,
        evidence=made_up_runs.evidence(run, verdict=verdict),
        verdict=verdict,
        probes=made_up_runs.probes(verdict),
    )


def verdict_of(run: ErasureRun) -> Verdict:
    """The same whoever measures the run."""
    drawn = hashlib.sha256(run.id.bytes).digest()[0] % 20
    return {0: Verdict.NOT_MET, 1: Verdict.INCONCLUSIVE}.get(drawn, Verdict.WITHIN)


def manifest_of(base: Any, given: RunInput, own: AdapterRef) -> Release:
    """All adapters in force, then this run's, written to the release store."""
    run = ErasureRun.objects.get(pk=given.run_id)
    raw = made_up_runs.manifest(run, own.adapter_sha256)
    return store_manifest(Path(settings.RTBF_RELEASE_DIR), raw)


def recheck(lease: rechecks.RecheckLease, served: recheck_task.Served) -> None:
    """In place of measuring a case in force, or a release, again."""
    given = rechecks.read_recheck_input(lease)
    verdict = "" if given.case_id is None else Verdict.WITHIN.value
    rechecks.record_recheck(lease, verdict=verdict, figures={"after": 0.0})
