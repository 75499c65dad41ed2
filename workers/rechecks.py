"""The Celery task of rechecks: measure the cases in force again on the release that is served.

One task works through the waiting rows of one release, each leased by itself, and loads the release
once. A worker killed between rows is followed by another that measures those left. Names and facts
are read for one row at a time and stay in memory; of an exception only its kind is logged.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.db import Error as DatabaseProblem
from django.db import InterfaceError, OperationalError

from requests_app.services import rechecks, serving
from requests_app.services.errors import LeaseLost, ServiceError
from requests_app.services.rechecks import RecheckInput, RecheckLease
from workers import erasure, utility
from workers.adapters import AdapterError
from workers.base_models import BaseModel, ModelError
from workers.forget_sets import Located, NothingMeasurable
from workers.guarded import GuardedModel
from workers.protocol import PRIMARY
from workers.releases import Release, ReleaseError, read_release, store_manifest
from workers.subjects import Fact, Subject
from workers.tasks import control_model, heartbeat, placement, reloaded, short_cause, weights
from workers.verification import INCONCLUSIVE, recorded
from workers.weights import load_kept

log = logging.getLogger(__name__)


@shared_task(name=rechecks.RECHECK_TASK)
def recheck(recheck_id: str) -> None:
    """Measure what waits of the release that this row is of; safe to call any number of times."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    with Served() as served:
        for row_id in rechecks.rows_to_measure(UUID(recheck_id)):
            lease = rechecks.lease_recheck(recheck_id=row_id, owner=owner)
            if lease is not None and not measure_row(lease, served):
                return


def measure_row(lease: RecheckLease, served: Served) -> bool:
    """Measure and record one row; False if the others had better wait for the next wake-up."""
    # As in workers.tasks: what is written at the end is written outside the `except` blocks.
    try:
        with heartbeat(partial(rechecks.extend_lease, lease), f"recheck {lease.recheck_id}"):
            work(lease, served)
        return True
    except LeaseLost:
        log.warning("recheck %s: another worker took over", lease.recheck_id)
        return True
    except (OperationalError, InterfaceError) as error:  # the database is away or busy: the sweep
        # wakes the row again
        log.error("recheck %s interrupted: %s", lease.recheck_id, type(error).__name__)
        return False
    except (AdapterError, ModelError, ReleaseError, ServiceError) as error:  # ours: no data in them
        ending = str(error)
    except Exception as error:  # noqa: BLE001  (the text may quote the person's data)
        ending = short_cause(error)
    log.error("recheck %s: %s", lease.recheck_id, ending)
    try:
        rechecks.fail_recheck(lease, error=ending)
    except (LeaseLost, DatabaseProblem) as problem:
        log.error("recheck %s: not written (%s)", lease.recheck_id, type(problem).__name__)
    return True


def work(lease: RecheckLease, served: Served) -> None:
    """One row, from reading it to its record. Raises LeaseLost and the engine's errors."""
    given = rechecks.read_recheck_input(lease)
    if given.case_id is None:
        figures, why = release_again(served.release(given), given)
        rechecks.record_recheck(lease, figures=figures, why=why)
    elif given.facts is None:
        rechecks.record_recheck(lease, verdict=INCONCLUSIVE, figures={}, why=rechecks.SEALED)
    else:
        found = case_again(served.release(given), given, str(given.case_id), given.facts)
        rechecks.record_recheck(
            lease,
            verdict=found["verdict"],
            figures=numbers(found),
            why="; ".join(found["reasons"]),
        )


class Served:
    """The release that is measured: loaded from disk when it is first needed, and once."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._loaded: dict[str, GuardedModel] = {}

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def release(self, given: RecheckInput) -> GuardedModel:
        if given.release not in self._loaded:
            base = weights(given.model_name, given.base_sha256)
            opened = self._open.enter_context(reloaded(base, on_disk(given)))
            self._loaded[given.release] = opened
            serving.note_served(
                process=f"{socket.gethostname()}:{os.getpid()}",
                kind="worker",
                model_name=given.model_name,
                digest=given.release,
            )
        return self._loaded[given.release]


def on_disk(given: RecheckInput) -> Release:
    """The release from the store; the manifest of a revocation comes from the record."""
    root = Path(settings.RTBF_RELEASE_DIR)
    if not (root / f"{given.release}.json").is_file():
        return store_manifest(root, given.manifest)
    return read_release(root, given.release)


# --- One case -----------------------------------------------------------------------------------
def case_again(
    guarded: GuardedModel, given: RecheckInput, case_id: str, facts: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    """Figures, verdict and reasons of one case, by the test plan of its run.

    What the model knows is located on the weights that the case was erased from, so that the same
    questions are asked; once they are gone, on those in service, which may know nothing any more.
    """
    if given.protocol is None:
        return inconclusive("no test plan was logged for this case")
    subject = Subject(given.name, given.aliases, tuple(Fact(q, a) for q, a in facts), ())
    earlier = guarded.base if given.trained_on == guarded.base.sha256 else kept_weights(given)
    try:
        located = erasure.locate(earlier or guarded.base, subject)
    except NothingMeasurable as nothing:
        return inconclusive(str(nothing) if earlier else gone(given, given.trained_on))
    replaced = earlier is not None and earlier is not guarded.base
    found = measured_again(
        guarded,
        located,
        given.protocol,
        control=control_model(given.model_name),
        case_id=case_id,
        before=GuardedModel.without_adapters(earlier) if earlier and replaced else None,
        attempt=given.attempt,
    )
    if earlier is None and found["verdict"] == INCONCLUSIVE:
        return {**found, "reasons": [gone(given, given.trained_on), *found["reasons"]]}
    return found


def measured_again(
    guarded: GuardedModel,
    located: Located,
    protocol: Mapping[str, Any],
    *,
    control: BaseModel | None,
    case_id: str,
    before: GuardedModel | None,
    attempt: int,
) -> dict[str, Any]:
    """The primary probes in the wordings that the run was judged by. The protocol's thresholds
    decide, as they did then."""
    return erasure.verify(
        guarded,
        located,
        protocol,
        control=control,
        case_id=case_id,
        before=before,
        attempt=attempt,
        probes=PRIMARY,
    )


def inconclusive(reason: str) -> dict[str, Any]:
    return {"verdict": INCONCLUSIVE, "reasons": [reason]}


def numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The estimates alone, as decimal strings: no texts, and no lists of single answers' scores."""
    found: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, Mapping):
            found[key] = numbers(value)
        elif isinstance(value, int | float):
            found[key] = recorded(value)
    return found


# --- The release as a whole ---------------------------------------------------------------------
def release_again(guarded: GuardedModel, given: RecheckInput) -> tuple[dict[str, Any], str]:
    """What the release costs everybody else against the original model, and what is missing."""
    same = given.original == guarded.base.sha256
    original = guarded.base if same else kept_weights(given, given.original)
    if original is None:
        return {}, gone(given, given.original)
    found = utility.measure(guarded, GuardedModel.without_adapters(original))
    return numbers(found.figures), "; ".join(found.missing)


def kept_weights(given: RecheckInput, sha256: str = "") -> BaseModel | None:
    """Earlier weights of the model, from service or quarantine; None once they are gone."""
    root = Path(settings.RTBF_RELEASE_DIR)
    try:
        return load_kept(given.model_name, sha256 or given.trained_on, root, placement())
    except ModelError:
        return None


def gone(given: RecheckInput, sha256: str) -> str:
    """Why nothing can be compared with weights that are not there."""
    if sha256 in given.destroyed:
        return "not measured: the original weights were destroyed"
    return "not measured: the original weights are not on this machine"
