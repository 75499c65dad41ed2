"""The case's checklist: each step, how it stands, and where this member of staff does it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from requests_app import vault
from requests_app.lifecycle import CaseStatus as S
from requests_app.lifecycle import NoticeState
from requests_app.models import Case, Decision, ErasureRun, RecipientNotice, StaffMember
from requests_app.models.people import Role
from requests_app.permissions import DECIDE, SEE_PERSONAL_DATA
from requests_app.views.common import why_not_approve

ORDER = [S.AWAITING_CONFIRMATION, S.IDENTITY_CHECK, S.IN_REVIEW, S.AWAITING_APPROVAL, S.EXECUTING]
ORDER += [S.EVIDENCE_REVIEW, S.RESPONDING, S.COMPLETED]


@dataclass(frozen=True)
class Task:
    """One line: `word` and `tone` say how it stands, `link` is empty where it cannot be done now
    or by this person, and `hint` says why."""

    key: str
    label: str
    word: str
    tone: str = ""
    link: str = ""
    hint: str = ""


def checklist(
    case: Case,
    staff: StaffMember,
    *,
    decision: Decision | None,
    runs: Sequence[ErasureRun],
    fell_back: Collection[UUID],
    notices: Sequence[RecipientNotice],
) -> list[Task]:
    """The steps in their order; empty once nothing is left to do.

    `decision` is the latest, `runs` are those of the case, newest first, and `fell_back` the ids of
    those that, measured again, no longer hold.
    """
    if case.status in (S.WITHDRAWN, S.SEALED):
        return []
    at = ORDER.index(S(case.status))
    is_proposal = decision is not None and decision.state == Decision.State.PROPOSED

    def task(key: str, label: str, *, own: range, roles: frozenset[Role], hint: str = "") -> Task:
        """Open in the statuses `own`, done after them; linked for `roles`."""
        if at in own:
            may = staff.role in roles
            url = reverse(key, args=[case.reference]) if may else ""
            return Task(key, label, _("To do"), "warn", url, hint if may else _for(roles))
        return Task(key, label, _("Done"), "ok") if at >= own.stop else Task(key, label, _("Later"))

    propose = task("case_decision", _("Propose a decision"), own=range(2, 3), roles=DECIDE)
    approval = task(
        "case_approval",
        _("Second person approves or returns"),
        own=range(3, 4),
        roles=DECIDE,
        hint=why_not_approve(decision, staff) if decision and is_proposal else "",
    )
    identity = task("case_identity", _("Check identity"), own=range(1, 2), roles=SEE_PERSONAL_DATA)
    if case.status == S.AWAITING_CONFIRMATION:
        identity = Task("case_identity", identity.label, _("Waiting for the e-mail code"))
    run = runs[0] if runs else None
    again = run is not None and run.pk in fell_back
    tasks = [identity, _facts_task(case, staff, at), propose, approval, _run_task(run, at, again)]
    if case.status == S.EVIDENCE_REVIEW:
        hint = _("Measured again, the erasure no longer holds.") if fell_back else ""
        label = _("Review the evidence")
        tasks.append(task("case_evidence_review", label, own=range(5, 6), roles=DECIDE, hint=hint))
    if notices:
        tasks.append(_notices_task(notices))
    return [*tasks, task("case_answer", _("Send the answer"), own=range(6, 7), roles=DECIDE)]


def _for(roles: frozenset[Role]) -> str:
    names = [str(role.label).lower() for role in Role if role in roles]
    return _("For: %(roles)s") % {"roles": _(" or ").join(names)}


def _facts_task(case: Case, staff: StaffMember, at: int) -> Task:
    label = _("Attach what we hold about the person")
    count = len(vault.get(case, "facts", default=[]))
    held = ngettext("%(count)d fact", "%(count)d facts", count) % {"count": count}
    word, tone = (held, "ok") if count else (_("To do"), "warn")
    if at not in (1, 2):
        return Task(
            "case_facts", label, word if count else _("None attached"), tone if count else ""
        )
    if staff.role not in DECIDE:
        return Task("case_facts", label, word, tone, hint=_for(DECIDE))
    hint = _("The models are asked about these facts, before and after.")
    return Task("case_facts", label, word, tone, reverse("case_facts", args=[case.reference]), hint)


def _notices_task(notices: Sequence[RecipientNotice]) -> Task:
    """The answer waits until each recipient was told, or it is recorded why not (Art. 19 GDPR)."""
    label = _("Tell the recipients")
    left = sum(notice.state == NoticeState.TO_SEND for notice in notices)
    if not left:
        return Task("notices", label, _("Done"), "ok", "#h-notices")
    words = ngettext("%(count)d to be told", "%(count)d to be told", left) % {"count": left}
    return Task("notices", label, words, "warn", "#h-notices")


def _run_task(run: ErasureRun | None, at: int, again: bool) -> Task:
    label = _("Erase and verify")
    if run is None:
        return Task("run", label, _("No run needed") if at > 4 else _("Later"))
    url = reverse("run", args=[run.pk])
    if at == 4:
        return Task("run", label, _("Running"), "info", url)
    word = _("No longer holds") if again else str(run.get_verdict_display())
    return Task("run", label, word, "ok" if at > 5 else "warn", url)
