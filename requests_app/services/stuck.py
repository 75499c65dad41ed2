"""Work that used up its attempts: nothing takes it up again until staff have it tried again.

Runs, rechecks and exports are stuck after RTBF_MAX_LEASES leases; letters, notices and callbacks
after RTBF_SEND_TRIES tries. What is listed goes from the list by being tried again, or by its end
in another way: a letter that was posted, a case whose evidence was accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, Model, OuterRef, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import staff_actor
from requests_app.lifecycle import (
    CaseStatus,
    ExportState,
    NoticeState,
    RecheckState,
    RunState,
    move_export,
    move_recheck,
)
from requests_app.models import (
    ApiRequest,
    ErasureRun,
    ExportJob,
    Letter,
    Recheck,
    RecipientNotice,
    StaffMember,
)
from requests_app.models.people import Role
from requests_app.services import tries, wake
from requests_app.services.cases import why_not_repeat
from requests_app.services.errors import NotFound, WrongState
from requests_app.services.export_jobs import EXPORT_TASK
from requests_app.services.leases import TOO_MANY
from requests_app.services.locking import advance, lock_case, require_role
from requests_app.services.rechecks import RECHECK_TASK
from requests_app.services.run_rows import locked_run, queue_run

AnyRow = TypeVar("AnyRow", bound=Model)
LeasedRow = TypeVar("LeasedRow", Recheck, ExportJob)
SentRow = TypeVar("SentRow", Letter, RecipientNotice, ApiRequest)
OPERATORS = (Role.ENGINEER, Role.ADMINISTRATOR)
LISTED = timedelta(days=7)  # an export that failed is forgotten when its file would be
EXPORT_ENDS = (TOO_MANY, "cannot_write")


@dataclass(frozen=True)
class Stuck:
    """One piece of work: its kind, the id of its row, what it is (no case, no person), attempts."""

    kind: str
    id: str
    what: str
    attempts: int
    since: datetime


# --- What is stuck ------------------------------------------------------------------------------
def stuck_runs() -> QuerySet[ErasureRun]:
    later = ErasureRun.objects.filter(
        case=OuterRef("case"), model_name=OuterRef("model_name"), number__gt=OuterRef("number")
    )
    rows = ErasureRun.objects.filter(state=RunState.FAILED, error=TOO_MANY)
    return rows.filter(~Exists(later), case__status=CaseStatus.EVIDENCE_REVIEW)


def stuck_rechecks() -> QuerySet[Recheck]:
    rows = Recheck.objects.filter(state=RecheckState.FAILED, why=TOO_MANY, release__is_live=True)
    return rows.filter(~Exists(_later_occasions()))


def stuck_exports() -> QuerySet[ExportJob]:
    since = timezone.now() - LISTED
    return ExportJob.objects.filter(
        state=ExportState.FAILED, error__in=EXPORT_ENDS, finished_at__gt=since
    )


def stuck_letters() -> QuerySet[Letter]:
    return Letter.objects.filter(tries.used_up(), sent_at=None)


def stuck_notices() -> QuerySet[RecipientNotice]:
    waiting = RecipientNotice.objects.filter(tries.used_up(), state=NoticeState.TO_SEND)
    return waiting.filter(case__sealed_at=None)


def stuck_callbacks() -> QuerySet[ApiRequest]:
    rows = ApiRequest.objects.filter(tries.used_up(), client__revoked_at=None)
    return rows.filter(case__sealed_at=None)


def list_stuck() -> list[Stuck]:
    """All of it, oldest first."""
    found = [
        *(_leased("run", row, row.model_name) for row in stuck_runs()),
        *(_leased("recheck", row, row.release.model_name) for row in _with_release()),
        *(_leased("export", row, row.export) for row in stuck_exports()),
        *(Stuck("letter", str(r.pk), r.kind, r.tries, r.created_at) for r in stuck_letters()),
        *(Stuck("notice", str(r.pk), r.problem, r.tries, r.created_at) for r in stuck_notices()),
        *(
            Stuck("callback", str(r.pk), str(r.client), r.tries, r.received_at)
            for r in stuck_callbacks().select_related("client")
        ),
    ]
    return sorted(found, key=lambda each: each.since)


def count_stuck() -> dict[str, int]:
    """How much is stuck of each kind."""
    return {
        "run": stuck_runs().count(),
        "recheck": stuck_rechecks().count(),
        "export": stuck_exports().count(),
        "letter": stuck_letters().count(),
        "notice": stuck_notices().count(),
        "callback": stuck_callbacks().count(),
    }


def _with_release() -> QuerySet[Recheck]:
    return stuck_rechecks().select_related("release")


def _later_occasions() -> QuerySet[Recheck]:
    """What was drawn of the same release after a row; the whole release is drawn each time."""
    return Recheck.objects.filter(
        release=OuterRef("release"), occasion__gt=OuterRef("occasion"), case=None
    )


def _leased(kind: str, row: ErasureRun | Recheck | ExportJob, what: str) -> Stuck:
    return Stuck(kind, str(row.pk), what, row.leases, row.created_at)


# --- Trying again -------------------------------------------------------------------------------
@transaction.atomic
def retry_work(*, kind: str, row_id: str, actor_member: StaffMember) -> None:
    """Have one piece of stuck work tried again, with all its attempts.

    It decides nothing and shows nothing, so that who runs the installation may do it. NotFound for
    what there is not, WrongState for what is not stuck (any more).
    """
    require_role(actor_member, *OPERATORS)
    retry = RETRIES.get(kind)
    if retry is None:
        raise NotFound(_("There is no such work."))
    try:
        retry(row_id, staff_actor(actor_member).name)
    except (ValueError, OverflowError):  # no id of such a row
        raise NotFound(_("There is no such work.")) from None


def _retry_run(row_id: str, actor: str) -> None:
    """A further run of the case, as an officer's repetition would be; at most three in all."""
    case, run = locked_run(UUID(row_id))
    _require_stuck(stuck_runs().filter(pk=run.pk))
    if refusal := why_not_repeat(run):
        raise WrongState(refusal)
    advance(case, CaseStatus.EXECUTING)
    case.save()
    queue_run(case, run.model_name, actor=actor)


def _retry_recheck(row_id: str, actor: str) -> None:
    row = _locked(stuck_rechecks(), UUID(row_id))
    move_recheck(row, RecheckState.QUEUED)
    row.verdict, row.why = "", ""
    _begin_again(row)
    data = {"recheck": str(row.id), "release": row.release_id, "model": row.release.model_name}
    audit.append_entry(type="recheck.retried", actor=actor, data=data)
    wake.send_after_commit(RECHECK_TASK, row.id, queue="model")


def _retry_export(row_id: str, actor: str) -> None:
    job = _locked(stuck_exports(), UUID(row_id))
    move_export(job, ExportState.QUEUED)
    job.error = ""
    _begin_again(job)
    data = {"job": str(job.id), "export": job.export}
    audit.append_entry(type="export.retried", actor=actor, data=data)
    wake.send_after_commit(EXPORT_TASK, job.id)


def _begin_again(row: Recheck | ExportJob) -> None:
    row.finished_at = None
    row.leases = 0  # the fence stays, so that no earlier holder can write
    row.save()


def _retry_letter(row_id: str, actor: str) -> None:
    letter = _freed(stuck_letters(), int(row_id))
    audit.append_entry(
        type="letter.retried",
        actor=actor,
        case=letter.case,
        data={"letter": letter.pk, "kind": letter.kind},
    )
    wake.send_after_commit("requests_app.send_letters")


def _retry_notice(row_id: str, actor: str) -> None:
    notice = _freed(stuck_notices(), int(row_id))
    data = {"notice": notice.pk, "recipient": notice.recipient_id}
    audit.append_entry(type="notice.retried", actor=actor, case=notice.case, data=data)
    wake.send_after_commit("requests_app.tell_recipients")


def _retry_callback(row_id: str, actor: str) -> None:
    row = _freed(stuck_callbacks(), int(row_id))
    audit.append_entry(
        type="api.callback_retried",
        actor=actor,
        case=row.case,
        data={"client": row.client_id, "request": str(row.subject_request_id)},
    )
    wake.send_after_commit("requests_app.send_callbacks")


def _locked(rows: QuerySet[LeasedRow], row_id: UUID) -> LeasedRow:
    """The locked row, if it is (still) stuck."""
    rows.model._default_manager.select_for_update().filter(pk=row_id).first()
    return _require_stuck(rows.filter(pk=row_id))


def _freed(rows: QuerySet[SentRow], row_id: int) -> SentRow:
    """The row with all its tries before it, its case locked."""
    lock_case(_require_stuck(rows.filter(pk=row_id)).case_id)
    row = _require_stuck(rows.filter(pk=row_id))
    row.tries, row.next_try_at = 0, None
    row.save(update_fields=["tries", "next_try_at"])
    return row


def _require_stuck(rows: QuerySet[AnyRow]) -> AnyRow:
    row = rows.first()
    if row is None:
        raise WrongState(_("This waits for nobody any more: see the list again."))
    return row


RETRIES: Mapping[str, Callable[[str, str], None]] = {
    "run": _retry_run,
    "recheck": _retry_recheck,
    "export": _retry_export,
    "letter": _retry_letter,
    "notice": _retry_notice,
    "callback": _retry_callback,
}
