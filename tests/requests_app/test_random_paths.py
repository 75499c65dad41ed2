"""Random people do random things in random order, and the law holds after each of them.

RTBF_SEQUENCES says how many sequences are tried (sixty by default). Checked is that no move is
made that the lifecycle lacks, that nothing is erased without identity, a ground, two people and
evidence, that no refusal leaves the house without remedies, that deadlines are those of the law on
every day, that a refused act changes nothing, and that the log verifies.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st

from requests_app import audit, vault
from requests_app.actors import SUBJECT, staff_actor
from requests_app.deadlines import deadlines
from requests_app.jurisdictions import profile
from requests_app.lifecycle import CASE_MOVES, CaseStatus
from requests_app.models import (
    ApiClient,
    AuditEntry,
    AuditOpening,
    Case,
    CaseKey,
    Decision,
    Letter,
    Recheck,
    StaffMember,
    VaultItem,
)
from requests_app.models.people import Role
from requests_app.models.runs import Verdict
from requests_app.services import (
    agent_requests,
    api_requests,
    cases,
    clock,
    decisions,
    duplicates,
    exemptions,
    holds,
    intake,
    letters,
    mandates,
    rechecks,
    retention,
    runs,
)
from requests_app.services.errors import ServiceError
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.database]

SEQUENCES = int(os.environ.get("RTBF_SEQUENCES", "60"))
ERASING = (
    CaseStatus.EXECUTING,
    CaseStatus.EVIDENCE_REVIEW,
    CaseStatus.RESPONDING,
    CaseStatus.COMPLETED,
)
FIGURES = {"probes": {"recall_unseen": {"after": 0.02, "control_upper95": 0.05}}}
ANSWERS = ("completion", "partial", "refusal", "cannot_identify")
OUTCOMES = ("granted", "refused", "cannot_identify", "excessive")
Action = Callable[[Case, StaffMember, int], object]


def confirm(case: Case, _: StaffMember, noise: int) -> object:
    code = vault.get(case, "code", default="") if noise % 4 else "0000-0000"
    return intake.confirm_email(reference=case.reference, code=code)


def propose(case: Case, member: StaffMember, noise: int) -> object:
    return factories.propose(case, by=member, outcome=OUTCOMES[noise % 7 % 4])


def work(case: Case, _: StaffMember, noise: int) -> object:
    verdict = (Verdict.WITHIN, Verdict.NOT_MET, Verdict.INCONCLUSIVE)[noise % 5 % 3]
    run = case.runs.filter(state="queued").order_by("number").first()
    return factories.work_off(run, verdict=verdict) if run else None


def repeat(case: Case, member: StaffMember, noise: int) -> object:
    found = list(cases.latest_runs(case))
    return found and cases.repeat_run(
        case_id=case.id, run_id=found[noise % len(found)].id, actor_member=member
    )


def measure_again(case: Case, _: StaffMember, noise: int) -> object:
    """A case in force is measured on a later release: falling short, the record reopens it."""
    rechecks.queue_due_rechecks()
    row = Recheck.objects.filter(case=case, state="queued").first()
    if row is None:
        return None
    lease = rechecks.lease_recheck(recheck_id=row.id, owner="worker-1")
    verdict = (Verdict.NOT_MET, Verdict.WITHIN)[noise % 2]
    return lease and rechecks.record_recheck(
        lease, verdict=verdict, figures=FIGURES, why="measured"
    )


def look_again(case: Case, member: StaffMember, noise: int) -> object:
    """What is kept is renewed or ended, of a sealed case without a text."""
    item = exemptions.kept_items().filter(case=case).first()
    goes_on = noise % 3
    return item and exemptions.review_exemption(
        case_id=case.id,
        item_id=item.pk,
        reason="claim_pending" if goes_on else "claim_settled",
        text="" if case.sealed_at and noise % 2 else "Looked at again.",
        renew_until=timezone.localdate() + timedelta(days=30) if goes_on else None,
        actor_member=member,
    )


def ask_by_agent(case: Case, _: StaffMember, noise: int) -> object:
    """An agent asks for the same person, whatever it says of them: a case of its own, and no other
    is touched."""
    agent = ApiClient.objects.first() or make_agent()
    before = list(Case.objects.exclude(api_request__client=agent).order_by("pk").values())
    order = agent_requests.Exercise(
        message={"number": noise % 5},
        issued_at=timezone.now(),
        name=factories.NAME,
        email=factories.EMAIL,
        verified=["email"],
    )
    row = agent_requests.exercise_deletion(agent, order)
    assert list(Case.objects.exclude(api_request__client=agent).order_by("pk").values()) == before
    assert (row.case.status, row.case.on_behalf) == (CaseStatus.IDENTITY_CHECK, True)
    return row


def make_agent() -> ApiClient:
    agent, _ = api_requests.create_client(
        name="Agent",
        controller_id="AGENT",
        role="agent",
        scopes=["write:requests"],
        verify_key=base64.b64encode(bytes(32)).decode(),
    )
    return agent


NATURAL: dict[str, Action] = {
    CaseStatus.AWAITING_CONFIRMATION: confirm,
    CaseStatus.IDENTITY_CHECK: lambda c, m, n: cases.record_identity(
        case_id=c.id, method="held_attributes", note="", actor=staff_actor(m)
    ),
    CaseStatus.IN_REVIEW: propose,
    CaseStatus.AWAITING_APPROVAL: lambda c, m, n: decisions.approve_decision(
        case_id=c.id, actor_member=m
    ),
    CaseStatus.EXECUTING: work,
    CaseStatus.EVIDENCE_REVIEW: lambda c, m, n: cases.accept_evidence(case_id=c.id, actor_member=m),
    CaseStatus.RESPONDING: lambda c, m, n: cases.send_answer(case_id=c.id, actor_member=m),
    CaseStatus.COMPLETED: lambda c, m, n: cases.seal_case(case_id=c.id, actor=staff_actor(m)),
    CaseStatus.WITHDRAWN: lambda c, m, n: cases.seal_case(case_id=c.id, actor=staff_actor(m)),
    CaseStatus.SEALED: lambda c, m, n: cases.export_case(case_id=c.id, actor=staff_actor(m)),
}


def natural(case: Case, member: StaffMember, noise: int) -> object:
    """The next step, mostly by somebody who may: or hardly any case would ever be answered."""
    status = CaseStatus(case.status)
    if noise % 5:
        role = Role.APPROVER if status == CaseStatus.AWAITING_APPROVAL else Role.OFFICER
        member = StaffMember.objects.filter(role=role).order_by("id")[noise % 2]
    return NATURAL[status](case, member, noise)


ACTIONS: tuple[Action, ...] = (
    *[natural] * 30,
    *NATURAL.values(),
    repeat,
    measure_again,
    look_again,
    ask_by_agent,
    lambda c, m, n: cases.attach_facts(
        case_id=c.id, facts=factories.FACTS, aliases=(), actor=staff_actor(m)
    ),
    lambda c, m, n: decisions.return_decision(case_id=c.id, reason="Again.", actor_member=m),
    lambda c, m, n: intake.withdraw_case(case_id=c.id, actor=SUBJECT if n % 2 else staff_actor(m)),
    lambda c, m, n: intake.resend_code(reference=c.reference),
    lambda c, m, n: clock.extend_case(
        case_id=c.id,
        cause="complexity",
        reasons="The erasure runs on two models that have to be measured anew.",
        done="The records in the customer database are erased already.",
        actor_member=m,
    ),
    lambda c, m, n: clock.suspend_case(
        case_id=c.id,
        reason="identity",
        asked_on=timezone.localdate(),
        text="Two people of that name are held and cannot be told apart.",
        actor_member=m,
    ),
    lambda c, m, n: clock.resume_case(
        case_id=c.id, answered_on=timezone.localdate(), actor_member=m
    ),
    lambda c, m, n: holds.place_hold(
        case_id=c.id,
        reason="A claim",
        until=timezone.localdate() + timedelta(days=n % 90),
        actor_member=m,
    ),
    lambda c, m, n: holds.release_hold(case_id=c.id, actor_member=m),
    lambda c, m, n: mandates.record_mandate(
        case_id=c.id,
        kind="agent",
        sender="An agent",
        note="Seen",
        covers_answers=bool(n % 2),
        actor=staff_actor(m),
    ),
    lambda c, m, n: duplicates.join_cases(
        case_id=c.id,
        reference=Case.objects.order_by("reference")[n % 2].reference,
        actor=staff_actor(m),
    ),
    lambda c, m, n: (
        runs.cancel_run(run_id=c.runs.first().id, actor_member=m) if c.runs.exists() else None
    ),
    lambda c, m, n: letters.send_pending_letters(),
    lambda c, m, n: retention.apply_retention(),
)


class Clock:
    """Days pass only when a sequence says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.start = timezone.now()
        self.days = 0
        patch.setattr(timezone, "now", self.now)

    def now(self) -> datetime:
        return self.start + timedelta(days=self.days)


steps = st.lists(
    st.tuples(
        st.integers(0, len(ACTIONS) - 1),  # what
        st.integers(0, 1),  # on which case
        st.integers(0, 11),  # by whom
        st.integers(0, 83),  # any choice within
        st.sampled_from((0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 5, 30)),  # days that pass first
    ),
    min_size=10,
    max_size=28,
)


@settings(
    max_examples=SEQUENCES,
    deadline=None,
    phases=(
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ),  # shrinking replays hundreds of whole sequences
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps, on_behalf=st.booleans(), scope=st.sampled_from((("model",), ("data_store",))))
def test_whatever_people_do_the_law_holds(
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[int, int, int, int, int]],
    on_behalf: bool,
    scope: tuple[str, ...],
) -> None:
    before = transaction.savepoint()
    with monkeypatch.context() as patch:
        passing = Clock(patch)
        try:
            walk(passing, steps, on_behalf=on_behalf, scope=scope)
        finally:
            transaction.savepoint_rollback(before)


def walk(passing: Clock, steps: list[tuple[int, int, int, int, int]], **changes: Any) -> None:
    roles = (Role.OFFICER, Role.APPROVER, Role.INTAKE, Role.AUDITOR, Role.ENGINEER)
    staff = [factories.make_staff(role) for role in (*roles, Role.OFFICER, Role.APPROVER)]
    known = [factories.open_case(**changes).case, factories.open_case(scope=("model",)).case]
    for what, which, who, noise, days in steps:
        passing.days += days
        note(f"after {passing.days} days: action {what} on case {which} by {who}, choice {noise}")
        member = staff[who % len(staff)]
        seen = [Case.objects.get(pk=case.pk) for case in known]
        case, other = seen[which], seen[1 - which]
        entries = AuditEntry.objects.count()
        try:
            ACTIONS[what](case, member, noise)
        except (ServiceError, vault.VaultError):
            assert [Case.objects.get(pk=c.pk).status for c in seen] == [c.status for c in seen]
            assert AuditEntry.objects.count() == entries
            if not days:
                continue  # as after the step before; what it may have left is met with the next
        for earlier in (case, other):
            check(earlier, Case.objects.get(pk=earlier.pk))
    for case in known:
        ended = Case.objects.get(pk=case.pk)
        check(ended, ended)
        event(f"a case ended {ended.status}")
    audit.verify_log()


def check(before: Case, case: Case) -> None:
    """What must be true of a case after any act."""
    status = CaseStatus(case.status)
    assert status == before.status or reachable(CaseStatus(before.status), status)
    check_dates(case)
    decided = Decision.objects.filter(case=case, state=Decision.State.APPROVED).first()
    if status in ERASING:
        assert decided is not None
    if decided is not None:
        assert case.identity_checked_at is not None
        assert decided.approved_by_id not in (None, decided.proposed_by_id)
        assert decided.approved_by is not None
        assert decided.approved_by.role == Role.APPROVER
        if decided.outcome == "granted":
            assert decided.grounds
    if case.runs.exists():
        assert decided is not None
        assert decided.outcome in ("granted", "partly_granted")
    if case.completed_at is not None:
        assert decided is not None
        for run in case.runs.all() if status == CaseStatus.COMPLETED else ():
            assert run.finished_at is not None
    if status == CaseStatus.SEALED:
        assert CaseKey.objects.get(case=case).wrapped is None
        assert not VaultItem.objects.filter(case=case).exists()
        assert not AuditOpening.objects.filter(case=case).exists()
        assert case.access_digest == case.code_digest == case.contact_digest == ""
    else:
        for letter in Letter.objects.filter(case=case, kind__in=ANSWERS):
            text = vault.get(case, f"letter/{letter.pk}")
            assert "complaint with a supervisory authority" in " ".join(text.split())
            assert "go to court" in text


def reachable(start: CaseStatus, end: CaseStatus) -> bool:
    """By one move, or by the few that one act makes: a run's end, or a mail sweep in between."""
    return end in CASE_MOVES[start] or any(end in CASE_MOVES[n] for n in CASE_MOVES[start])


def check_dates(case: Case) -> None:
    law = profile(case.jurisdiction)
    counted = deadlines(case.received_on, profile=law, calendar=case.calendar)
    assert (case.base_due, case.extension_due) == (counted.base_due, counted.extension_due)
    assert case.due == (case.extension_due if case.extended_on else case.base_due)
    extended: date | None = case.extended_on
    assert extended is None or extended <= case.base_due
    assert Letter.objects.filter(case=case, kind="extension").count() == (extended is not None)
    assert case.internal_due <= case.due
