"""The Celery task of an erasure run: lease, walk the phases, write each one's result.

The row is the truth. Every phase ends with a written row, so a worker killed anywhere is followed
by another that goes on at the first phase not done: the forget set is located again (it never
leaves memory), a logged protocol is kept, a stored adapter is not trained twice, recorded evidence
is not measured twice. Exceptions may quote what was asked, so only their kind is logged.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from uuid import UUID

import peft
import torch
import transformers
from celery import shared_task
from django.conf import settings
from django.db import Error as DatabaseProblem
from django.db import InterfaceError, OperationalError, connection

from requests_app.services import evidence_tables, restrictions, runs, wake
from requests_app.services.errors import LeaseLost, ServiceError
from requests_app.services.manifests import live_base
from requests_app.services.run_values import ATTEMPTS, Lease, ProbeRow, RunInput
from workers import erasure, shared_files, tables
from workers.adapters import CONFIG_FILE, AdapterError, AdapterRef
from workers.base_models import BaseModel, ModelError, Placement, load_control
from workers.digests import code_sha256, sha256_of
from workers.forget_sets import Located, NothingMeasurable
from workers.guarded import GuardedModel
from workers.probes import Tables
from workers.releases import Release, ReleaseError, write_release
from workers.restrictions import restriction_of, write_restrictions
from workers.results import probe_results
from workers.samples import Sample
from workers.subjects import Fact, Subject
from workers.training import Checkpoint, Stopped
from workers.verification import INCONCLUSIVE, decimal, recorded
from workers.weights import load_served

log = logging.getLogger(__name__)

EXIT_TOO_LONG = 70
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@shared_task(name="workers.run_erasure")
def run_erasure(run_id: str) -> None:
    """Work on one run if nobody else does; safe to call any number of times."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    lease = runs.lease_run(run_id=UUID(run_id), owner=owner)
    if lease is None:
        return
    # What is written at the end is written outside the `except` blocks: an error there would drag
    # the first exception, whose text may quote the person's data, into Celery's log.
    ending: str | None = None
    try:
        with heartbeat(partial(runs.extend_lease, lease), f"run {run_id}"):
            work(lease)
        return
    except LeaseLost:
        log.warning("run %s: another worker took over; nothing was written twice", run_id)
        return
    except (OperationalError, InterfaceError) as error:  # the database is away or busy: the sweep
        # wakes the run again
        log.error("run %s interrupted: %s", run_id, type(error).__name__)
        return
    except Stopped:
        pass
    except (AdapterError, ModelError, ReleaseError, ServiceError) as error:  # ours: no data in them
        ending = str(error)
    except Exception as error:  # noqa: BLE001  (the text may quote the person's data)
        ending = short_cause(error)
    finish_badly(lease, ending)


@shared_task(name=restrictions.PUBLISH_TASK)
def publish_restrictions() -> None:
    """Tell whatever serves who is restricted now; on the legal queue, which never waits long."""
    people = {}
    for person in restrictions.restricted_people():
        found = restriction_of(person.names, gate_key())
        if found is None:
            log.error("case %s: no name is long enough to be looked for", person.case_id)
        else:
            people[str(person.case_id)] = found
    write_restrictions(Path(settings.RTBF_RELEASE_DIR), people)
    shared_files.put_restrictions()


@shared_task(name="workers.remove_retired_adapters")
def remove_retired_adapters() -> None:
    """Delete adapters that nothing needs any more, also from the shared storage."""
    shared_files.remove_retired(everywhere=True)


@shared_task(name="workers.note_alive")
def note_alive() -> None:
    """Nothing: that the model queue's worker took it up is what counts (`wake.last_seen`)."""


def short_cause(error: Exception) -> str:
    """What ended a run, for staff and without the exception's text, which may quote somebody."""
    no_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    if no_memory or isinstance(error, torch.OutOfMemoryError):
        return "out of memory: give the model worker more, or choose a smaller model"
    if isinstance(error, OSError) and error.errno in FULL:
        return "no space is left on the worker's disk: free some and run again"
    return f"unexpected error: {type(error).__name__}"


def finish_badly(lease: Lease, error: str | None) -> None:
    """Write that the run was stopped (None) or failed; a lost lease leaves it to the next one."""
    log.error("run %s: %s", lease.run_id, error or "stopped")
    try:
        if error is None:
            runs.stop_run(lease)
        else:
            runs.fail_run(lease, error=error)
    except (LeaseLost, DatabaseProblem) as problem:
        log.error("run %s: its end was not written (%s)", lease.run_id, type(problem).__name__)


def work(lease: Lease) -> None:
    """All phases of one run. Raises Stopped, LeaseLost and the engine's errors."""
    shared_files.remove_retired()
    given = runs.read_input(lease)
    progress = Progress(lease)
    if given.verdict:  # verified by a worker that died before it registered the release
        if given.adapter is not None:
            base = base_model(given.model_name)
            with reloaded(base, manifest_of(base, given, own_adapter(given))):
                pass  # every file of the release is there and has its digest
    else:
        measure_and_record(lease, given, progress)
        given = runs.read_input(lease)
    if given.adapter is not None:
        progress.report("release", 0, 1, {})
        release = manifest_of(base_model(given.model_name), given, own_adapter(given))
        runs.register_release(lease, manifest=manifest_bytes(release))
    runs.finish_run(lease)


def measure_and_record(lease: Lease, given: RunInput, progress: Progress) -> None:
    """Everything up to recorded evidence."""
    try:
        measured = measure(lease, given, progress)
    except NothingMeasurable as nothing:
        measured = {
            "nothing_measurable": True,
            "reasons": [str(nothing)],
            "run": str(given.run_id),
            "discovery": nothing.evidence,
            "environment": environment(),
        }
    runs.record_evidence(
        lease,
        evidence=recorded(measured),
        verdict=measured.get("verdict", INCONCLUSIVE),
        probes=[ProbeRow(**row) for row in probe_results(measured)],
    )


def measure(lease: Lease, given: RunInput, progress: Progress) -> dict[str, Any]:
    """Locate, fix the protocol, train unless it is done, verify what is stored."""
    clock = erasure.Stopwatch()
    base: BaseModel = clock.measure("model", lambda: base_model(given.model_name))
    control: BaseModel | None = clock.measure("model", lambda: control_model(given.model_name))
    subject = Subject(given.name, given.aliases, tuple(Fact(q, a) for q, a in given.facts), ())
    located: Located = clock.measure(
        "locate",
        lambda: erasure.locate(
            base,
            subject,
            report=lambda done, total: progress.report("locate", done, total, {}),
            should_stop=progress.is_cancelled,
        ),
    )
    attempts = [erasure.recipe_for(base, attempt=i + 1) for i in range(ATTEMPTS)]
    protocol = given.protocol or clock.measure(
        "locate",
        lambda: erasure.make_protocol(
            base,
            located,
            control=control,
            recipes=[erasure.recipe_record(recipe) for recipe in attempts],
            profile=settings.RTBF_VERIFICATION_PROFILE,
            seed=given.seed,
        ),
    )
    runs.record_protocol(lease, protocol=protocol)
    if given.adapter is None:
        clock.measure("train", lambda: train(lease, given, base, located, progress))
        given = runs.read_input(lease)
    release: Release = clock.measure(
        "release", lambda: manifest_of(base, given, own_adapter(given))
    )
    figures = clock.measure(
        "verify", lambda: verify(lease, given, base, control, located, protocol, release, progress)
    )
    return {
        **figures,
        "run": str(given.run_id),
        "adapter": own_digests(given),
        "release": release.sha256,
        "protocol": protocol,
        "seconds": {phase: round(spent, 3) for phase, spent in clock.seconds.items()},
        "environment": environment(),
        "control": None if control is None else {"sha256": control.sha256},
        "model": {"name": base.name, "sha256": base.sha256, "tokenizer": base.tokenizer_sha256},
        "level": "gated",
        "attempt": attempt_record(given),
        "discovery": located.record(),
    }


def attempt_record(given: RunInput) -> dict[str, Any]:
    """Which attempt this is, and what that means for its verdict, plainly."""
    found: dict[str, Any] = {"number": given.attempt, "of_at_most": ATTEMPTS}
    if given.attempt > 1:
        found["note"] = (
            f"{given.attempt - 1} earlier on the same test plan not met; this one was judged by"
            " wordings kept back for it, about the same facts: a verdict within thresholds is still"
            " somewhat likelier by chance than with a single attempt"
        )
    return found


def train(
    lease: Lease, given: RunInput, base: BaseModel, located: Located, progress: Progress
) -> None:
    """Train and store the case's adapter, orthogonal to all in force, and write its row."""
    recipe = erasure.recipe_for(base, attempt=given.attempt)
    shared_files.fetch(refs_in_force(given))
    trained = erasure.train_and_save(
        base,
        located,
        case_id=str(given.case_id),
        adapters_root=Path(settings.RTBF_ADAPTER_DIR),
        earlier=refs_in_force(given),
        gate_key=gate_key(),
        seed=given.seed,
        recipe=recipe,
        report=progress.report,
        should_stop=progress.is_cancelled,
        checkpoint=Checkpoint(
            load=lambda: runs.saved_step(lease), save=lambda state: runs.save_step(lease, state)
        ),
    )
    shared_files.put([trained.ref])
    runs.record_adapter(
        lease,
        sha256=trained.ref.adapter_sha256,
        config_sha256=sha256_of((trained.folder / CONFIG_FILE).read_bytes()),
        gate_sha256=trained.ref.gate_sha256,
        base_sha256=base.sha256,
        overlap=decimal(trained.overlap),
        settings={
            **erasure.recipe_record(recipe),
            "code_sha256": code_sha256(),
            "attempt": given.attempt,
            "steps": trained.steps,
            "ended": trained.ended,
            "forget_loss": decimal(trained.forget_loss),
            "keep_loss": decimal(trained.keep_loss),
            **erasure.orthogonality(trained),
        },
    )


def verify(
    lease: Lease,
    given: RunInput,
    base: BaseModel,
    control: BaseModel | None,
    located: Located,
    protocol: Mapping[str, Any],
    release: Release,
    progress: Progress,
) -> dict[str, Any]:
    """Load the release back from disk and measure it, but for the probes that an earlier worker
    has done; the rows of each are sealed as soon as they are there, and named by their digest."""
    sealed = evidence_tables.saved_tables(lease)

    def keep(probe: str, rows: Tables, samples: Sequence[Sample]) -> None:
        sealed[probe] = tables.written(rows, located, samples)
        evidence_tables.save_table(lease, probe=probe, table=sealed[probe])

    with reloaded(base, release) as guarded:
        figures = erasure.verify(
            guarded,
            located,
            protocol,
            control=control,
            case_id=str(given.case_id),
            attempt=given.attempt,
            tables={probe: tables.read(data) for probe, data in sealed.items()},
            keep=keep,
            report=lambda _, step, total: progress.report("verify", step, total, {}),
            should_stop=progress.is_cancelled,
        )
    return {**figures, "tables": {probe: tables.digest(data) for probe, data in sealed.items()}}


def reloaded(base: BaseModel, release: Release) -> GuardedModel:
    """The release as it is stored, every digest checked; a context manager."""
    shared_files.fetch(release.adapters)
    return erasure.load_release(
        base,
        releases_root=Path(settings.RTBF_RELEASE_DIR),
        sha256=release.sha256,
        adapters_root=Path(settings.RTBF_ADAPTER_DIR),
        gate_key=gate_key(),
    )


# --- Plain values -------------------------------------------------------------------------------
def refs_in_force(given: RunInput) -> list[AdapterRef]:
    return [AdapterRef(str(a.case_id), a.sha256, a.gate_sha256) for a in given.adapters_in_force]


def own_adapter(given: RunInput) -> AdapterRef:
    if given.adapter is None:
        raise AdapterError("The run has no adapter yet.")
    return AdapterRef(str(given.case_id), given.adapter.sha256, given.adapter.gate_sha256)


def own_digests(given: RunInput) -> dict[str, str]:
    """What was measured, by digests."""
    own = own_adapter(given)
    return {"sha256": own.adapter_sha256, "gate_sha256": own.gate_sha256}


def manifest_of(base: BaseModel, given: RunInput, own: AdapterRef) -> Release:
    """The candidate release: all adapters in force, then this case's; the same file every time."""
    return write_release(
        Path(settings.RTBF_RELEASE_DIR),
        base=base,
        adapters=[*refs_in_force(given), own],
        parent=given.parent_release,
        merged=[str(case_id) for case_id in given.merged],
    )


def manifest_bytes(release: Release) -> bytes:
    return (Path(settings.RTBF_RELEASE_DIR) / f"{release.sha256}.json").read_bytes()


def environment() -> dict[str, str]:
    """What the figures depend on beside the recorded inputs."""
    return {
        "code_sha256": code_sha256(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "threads": str(torch.get_num_threads()),
        "dtype": settings.RTBF_MODEL_DTYPE,
        "device_map": settings.RTBF_MODEL_DEVICE_MAP,
        "machine": platform.machine(),
    }


# --- The worker's own state ---------------------------------------------------------------------
def base_model(name: str) -> BaseModel:
    """The weights in service, consolidated ones included."""
    return weights(name, live_base(name))


@lru_cache(maxsize=2)
def weights(name: str, sha256: str | None) -> BaseModel:
    """Loaded once for each worker process."""
    return load_served(name, sha256, Path(settings.RTBF_RELEASE_DIR), placement())


@lru_cache(maxsize=2)
def control_model(name: str) -> BaseModel | None:
    return load_control(name, placement(), path=settings.RTBF_CONTROLS.get(name))


def placement() -> Placement:
    return Placement(settings.RTBF_MODEL_DTYPE, settings.RTBF_MODEL_DEVICE_MAP)


def gate_key() -> bytes:
    return str(settings.RTBF_GATE_KEY).encode()


class Progress:
    """Writes the run's events: every step, its figures, and the seconds left of its phase by the
    pace since the phase's first event (from which a resumed worker counts anew)."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.phase = ""
        self.began = (0, 0.0)

    def report(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        now = time.monotonic()
        if phase != self.phase:
            self.phase, self.began = phase, (step, now)
        left = seconds_left(self.began, (step, now), total)
        found = recorded(figures) if left is None else {**recorded(figures), "seconds_left": left}
        runs.add_event(self.lease, phase=phase, step=step, total=total, figures=found)

    def is_cancelled(self) -> bool:
        return runs.is_cancelled(self.lease)


def seconds_left(began: tuple[int, float], now: tuple[int, float], total: int) -> str | None:
    """Seconds for the steps to come, as a decimal string; None before two steps are known.

    `began` and `now` are (step, seconds on a clock)."""
    steps = now[0] - began[0]
    if steps <= 0:
        return None
    return f"{(now[1] - began[1]) / steps * (total - now[0]):.1f}"


@contextmanager
def heartbeat(extend: Callable[[], bool], what: str) -> Iterator[None]:
    """Keep a lease while a long step has nothing to report, by `extend`, until that says that it is
    lost; ends with the block. `what` names the row in the log.

    After RTBF_LONGEST_TASK_HOURS it ends the process, since Celery's solo pool has no time limits:
    what hangs would otherwise hold its row for ever. Whoever supervises the worker starts it anew.
    """
    done = threading.Event()
    end = time.monotonic() + settings.RTBF_LONGEST_TASK_HOURS * 3600

    def beat() -> None:
        while not done.wait(settings.RTBF_LEASE_SECONDS / 3):
            if time.monotonic() > end:
                log.critical("%s: longer than RTBF_LONGEST_TASK_HOURS; this worker ends", what)
                os._exit(EXIT_TOO_LONG)
            wake.note_seen("model")
            try:
                if not extend():
                    break
            except DatabaseProblem as error:
                log.warning("%s: lease not extended (%s)", what, type(error).__name__)
                connection.close()  # a broken one would stay broken until the end
        connection.close()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
