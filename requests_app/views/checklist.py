"""The case's checklist: each step, how it stands, and where this member of staff does it."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import reverse

from requests_app import vault
from requests_app.lifecycle import CaseStatus as S
from requests_app.models import Case, Decision, StaffMember
from requests_app.models.people import Role
from requests_app.permissions import DECIDE, SEE_PERSONAL_DATA
from requests_app.services.run_rows import fell_back

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


def checklist(case: Case, staff: StaffMember) -> list[Task]:
    """The steps in their order; empty once nothing is left to do."""
    if case.status in (S.WITHDRAWN, S.SEALED):
        return []
    at = ORDER.index(S(case.status))
    proposal = case.decisions.filter(state=Decision.State.PROPOSED).first()

    def task(key: str, label: str, *, own: range, roles: frozenset[str], hint: str = "") -> Task:
        """Open in the statuses `own`, done after them; linked for `roles`."""
        if at in own:
            may = staff.role in roles
            names = " or ".join(Role(role).label.lower() for role in sorted(roles))
            url = reverse(key, args=[case.reference]) if may else ""
            return Task(key, label, "To do", "warn", url, hint if may else f"For: {names}")
        return Task(key, label, "Done", "ok") if at >= own.stop else Task(key, label, "Later")

    decision = task("case_decision", "Propose a decision", own=range(2, 3), roles=DECIDE)
    approval = task(
        "case_approval",
        "Second person approves or returns",
        own=range(3, 4),
        roles=DECIDE,
        hint=_approval_hint(proposal, staff),
    )
    identity = task("case_identity", "Check identity", own=range(1, 2), roles=SEE_PERSONAL_DATA)
    if case.status == S.AWAITING_CONFIRMATION:
        identity = Task("case_identity", identity.label, "Waiting for the e-mail code")
    tasks = [identity, _facts_task(case, staff, at), decision, approval, _run_task(case, at)]
    if case.status == S.EVIDENCE_REVIEW:
        again = any(fell_back(run) for run in case.runs.all())
        hint = "Measured again, the erasure no longer holds." if again else ""
        label = "Review the evidence"
        tasks.append(task("case_evidence_review", label, own=range(5, 6), roles=DECIDE, hint=hint))
    return [*tasks, task("case_answer", "Send the answer", own=range(6, 7), roles=DECIDE)]


def _approval_hint(proposal: Decision | None, staff: StaffMember) -> str:
    if proposal is not None and proposal.proposed_by_id == staff.pk:
        return "You proposed it, so another person has to approve it."
    return ""


def _facts_task(case: Case, staff: StaffMember, at: int) -> Task:
    label = "Attach what we hold about the person"
    count = len(vault.get(case, "facts", default=[]))
    word, tone = (f"{count} fact{'s' * (count != 1)}", "ok") if count else ("To do", "warn")
    if at not in (1, 2):
        return Task("case_facts", label, word if count else "None attached", tone if count else "")
    may = staff.role in DECIDE
    url = reverse("case_facts", args=[case.reference]) if may else ""
    hint = "The models are asked about these facts, before and after." if may else ""
    return Task("case_facts", label, word, tone, url, hint or "For: approver or case officer")


def _run_task(case: Case, at: int) -> Task:
    label = "Erase and verify"
    run = case.runs.order_by("-created_at").first()
    if run is None:
        return Task("run", label, "No run needed" if at > 4 else "Later")
    url = reverse("run", args=[run.pk])
    if at == 4:
        return Task("run", label, "Running", "info", url)
    word = "No longer holds" if fell_back(run) else run.get_verdict_display()
    return Task("run", label, word, "ok" if at > 5 else "warn", url)
