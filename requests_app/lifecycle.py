"""The lifecycle of a case, run, recheck, consolidation, export and notice: an enum and a table of
moves each.

Legal status (what the law asks next) and technical state (what the queue does) never mix. Overdue,
extended, restricted and paused are computed from dates and flags; they are not states. Services are
the only callers: `move_case`, `move_run` and their like are the only places that assign these
fields; a new case gets `first_status`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from requests_app.models import (
        Case,
        Consolidation,
        ErasureRun,
        ExportJob,
        Recheck,
        RecipientNotice,
    )


class CaseStatus(models.TextChoices):
    AWAITING_CONFIRMATION = "awaiting_confirmation", _("Waiting for e-mail confirmation")
    IDENTITY_CHECK = "identity_check", _("Identity check")
    IN_REVIEW = "in_review", _("Needs decision")
    AWAITING_APPROVAL = "awaiting_approval", _("Needs second person")
    EXECUTING = "executing", _("Erasing")
    EVIDENCE_REVIEW = "evidence_review", _("Evidence review")
    RESPONDING = "responding", _("Answer to be sent")
    COMPLETED = "completed", _("Complete")
    WITHDRAWN = "withdrawn", _("Withdrawn")
    SEALED = "sealed", _("Sealed")


class RunState(models.TextChoices):
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    SUCCEEDED = "succeeded", _("Finished")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


class RecheckState(models.TextChoices):
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    DONE = "done", _("Measured")
    FAILED = "failed", _("Failed")


class ConsolidationState(models.TextChoices):
    PROPOSED = "proposed", _("Needs second person")
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    DONE = "done", _("Finished")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


class NoticeState(models.TextChoices):
    TO_SEND = "to_send", _("To be told")
    SENT = "sent", _("Told")
    ACKNOWLEDGED = "acknowledged", _("Told, and acknowledged")
    IMPOSSIBLE = "impossible", _("Impossible or out of proportion")


class ExportState(models.TextChoices):
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Being made")
    DONE = "done", _("Ready")
    FAILED = "failed", _("Failed")


C, R, K, E = CaseStatus, RunState, RecheckState, ExportState
CLOSED = (C.COMPLETED, C.WITHDRAWN, C.SEALED)  # no answer is owed any more

CASE_MOVES: dict[CaseStatus, frozenset[CaseStatus]] = {
    # Never confirmed and kept long enough, a request is sealed as it is.
    C.AWAITING_CONFIRMATION: frozenset({C.IDENTITY_CHECK, C.WITHDRAWN, C.SEALED}),
    C.IDENTITY_CHECK: frozenset({C.IN_REVIEW, C.WITHDRAWN}),
    C.IN_REVIEW: frozenset({C.AWAITING_APPROVAL, C.WITHDRAWN}),
    C.AWAITING_APPROVAL: frozenset({C.IN_REVIEW, C.EXECUTING, C.RESPONDING, C.WITHDRAWN}),
    C.EXECUTING: frozenset({C.EVIDENCE_REVIEW, C.RESPONDING}),
    C.EVIDENCE_REVIEW: frozenset({C.EXECUTING, C.RESPONDING}),  # thresholds not met: repeat or say
    # A case that no longer holds on a later release is reopened: repeat, or say so.
    C.RESPONDING: frozenset({C.COMPLETED, C.EVIDENCE_REVIEW}),
    C.COMPLETED: frozenset({C.SEALED, C.EVIDENCE_REVIEW}),
    C.WITHDRAWN: frozenset({C.SEALED}),
    C.SEALED: frozenset(),
}

RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    R.QUEUED: frozenset({R.RUNNING, R.CANCELLED, R.FAILED}),
    R.RUNNING: frozenset({R.SUCCEEDED, R.FAILED, R.CANCELLED}),
    R.SUCCEEDED: frozenset(),
    R.FAILED: frozenset(),
    R.CANCELLED: frozenset(),
}

RECHECK_MOVES: dict[RecheckState, frozenset[RecheckState]] = {
    K.QUEUED: frozenset({K.RUNNING, K.FAILED}),
    K.RUNNING: frozenset({K.DONE, K.FAILED}),
    K.DONE: frozenset(),
    K.FAILED: frozenset({K.QUEUED}),  # staff have it tried again
}

CONSOLIDATION_MOVES: dict[ConsolidationState, frozenset[ConsolidationState]] = {
    ConsolidationState.PROPOSED: frozenset(
        {ConsolidationState.QUEUED, ConsolidationState.CANCELLED}
    ),
    ConsolidationState.QUEUED: frozenset(
        {ConsolidationState.RUNNING, ConsolidationState.FAILED, ConsolidationState.CANCELLED}
    ),
    ConsolidationState.RUNNING: frozenset(
        {ConsolidationState.DONE, ConsolidationState.FAILED, ConsolidationState.CANCELLED}
    ),
    ConsolidationState.DONE: frozenset(),
    ConsolidationState.FAILED: frozenset(),  # it is proposed anew
    ConsolidationState.CANCELLED: frozenset(),
}

EXPORT_MOVES: dict[ExportState, frozenset[ExportState]] = {
    E.QUEUED: frozenset({E.RUNNING, E.FAILED}),
    E.RUNNING: frozenset({E.DONE, E.FAILED}),
    E.DONE: frozenset(),
    E.FAILED: frozenset({E.QUEUED}),  # staff have it tried again
}

NOTICE_MOVES: dict[NoticeState, frozenset[NoticeState]] = {
    NoticeState.TO_SEND: frozenset(
        {NoticeState.SENT, NoticeState.ACKNOWLEDGED, NoticeState.IMPOSSIBLE}
    ),
    NoticeState.SENT: frozenset({NoticeState.ACKNOWLEDGED}),
    NoticeState.ACKNOWLEDGED: frozenset(),
    # possible after all
    NoticeState.IMPOSSIBLE: frozenset({NoticeState.SENT, NoticeState.ACKNOWLEDGED}),
}


class MoveNotAllowed(ValueError):
    """The lifecycle has no such move."""


def first_status(*, mailbox_unconfirmed: bool) -> CaseStatus:
    """Where a case begins: a request by form waits for its e-mail code, others for the identity."""
    return C.AWAITING_CONFIRMATION if mailbox_unconfirmed else C.IDENTITY_CHECK


def move_case(case: Case, to: CaseStatus) -> None:
    """Assign the next status (the caller saves); MoveNotAllowed if the table has no such move."""
    if to not in CASE_MOVES[CaseStatus(case.status)]:
        raise MoveNotAllowed(f"A case cannot go from “{case.status}” to “{to}”.")
    case.status = to


def seal_again(case: Case) -> None:
    """Assign what the log says of a case that an older backup shows before its sealing."""
    case.status = C.SEALED


def move_run(run: ErasureRun, to: RunState) -> None:
    """Assign the next run state (the caller saves); MoveNotAllowed if there is no such move."""
    if to not in RUN_MOVES[RunState(run.state)]:
        raise MoveNotAllowed(f"A run cannot go from “{run.state}” to “{to}”.")
    run.state = to


def move_recheck(recheck: Recheck, to: RecheckState) -> None:
    """Assign the next recheck state (the caller saves); MoveNotAllowed if there is no such move."""
    if to not in RECHECK_MOVES[RecheckState(recheck.state)]:
        raise MoveNotAllowed(f"A recheck cannot go from “{recheck.state}” to “{to}”.")
    recheck.state = to


def move_consolidation(row: Consolidation, to: ConsolidationState) -> None:
    """Assign the next state (the caller saves); MoveNotAllowed if there is no such move."""
    if to not in CONSOLIDATION_MOVES[ConsolidationState(row.state)]:
        raise MoveNotAllowed(f"A consolidation cannot go from “{row.state}” to “{to}”.")
    row.state = to


def move_export(job: ExportJob, to: ExportState) -> None:
    """Assign the next state of an export (the caller saves); MoveNotAllowed if there is none."""
    if to not in EXPORT_MOVES[ExportState(job.state)]:
        raise MoveNotAllowed(f"An export cannot go from “{job.state}” to “{to}”.")
    job.state = to


def move_notice(notice: RecipientNotice, to: NoticeState) -> None:
    """Assign the next notice state (the caller saves); MoveNotAllowed if there is no such move."""
    if to not in NOTICE_MOVES[NoticeState(notice.state)]:
        raise MoveNotAllowed(f"A notice cannot go from “{notice.state}” to “{to}”.")
    notice.state = to
