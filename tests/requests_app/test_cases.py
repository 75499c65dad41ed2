"""The path of a case: identity, facts, two people, answer, export, seal."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit, vault
from requests_app.actors import SUBJECT, SYSTEM, staff_actor
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import (
    AuditEntry,
    AuditOpening,
    Case,
    CaseKey,
    Decision,
    ErasureRun,
    ScopeItem,
    StaffMember,
    VaultItem,
)
from requests_app.models.people import Role
from requests_app.models.runs import Verdict
from requests_app.services import cases, letters
from requests_app.services.decisions import ScopeResult
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from requests_app.verifier import canonical
from tests import factories
from tests.factories import (
    ERASED,
    KEPT,
    case_in_review,
    completed_case,
    confirmed_case,
    executing_case,
    on_commit,
    propose,
    responding_case,
    take_messages,
)
from tests.threads import run_together

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("entries_last")]


def last_data(case: Case, entry_type: str) -> dict[str, Any]:
    """Type and data of the case's last entry."""
    entry = audit.case_entries(case.id)[-1]
    assert entry.type == entry_type
    body: Any = canonical.loads(bytes(entry.body))
    data: dict[str, Any] = body["data"]
    return data


# --- Identity and facts -------------------------------------------------------------------------
def test_the_identity_check_is_recorded_and_its_note_stays_in_the_vault(
    officer: StaffMember,
) -> None:
    case = confirmed_case()
    cases.record_identity(
        case_id=case.id, method="document_seen", note="canary note", actor=staff_actor(officer)
    )
    case.refresh_from_db()
    assert case.status == CaseStatus.IN_REVIEW
    assert case.identity_checked_by == officer
    assert vault.get(case, "identity/note") == "canary note"
    data = last_data(case, "case.identity_recorded")
    assert data["method"] == "document_seen"
    assert set(data["note"]) == {"commitment"}


def test_who_may_check_the_identity_and_how(engineer: StaffMember, officer: StaffMember) -> None:
    case = confirmed_case()
    for actor in (staff_actor(engineer), SUBJECT, SYSTEM):
        with pytest.raises(NotAllowed):
            cases.record_identity(case_id=case.id, method="mailbox", note="", actor=actor)
    with pytest.raises(Invalid, match="palm_reading"):
        cases.record_identity(
            case_id=case.id, method="palm_reading", note="", actor=staff_actor(officer)
        )
    with pytest.raises(NotFound):
        cases.record_identity(
            case_id=uuid4(), method="mailbox", note="", actor=staff_actor(officer)
        )


def test_no_identity_is_recorded_before_the_mailbox_is_confirmed(officer: StaffMember) -> None:
    case = factories.open_case().case
    with pytest.raises(WrongState, match="Waiting for e-mail confirmation"):
        cases.record_identity(
            case_id=case.id, method="mailbox", note="", actor=staff_actor(officer)
        )


def test_facts_go_to_the_vault_and_the_log_holds_only_their_number(officer: StaffMember) -> None:
    case = case_in_review()
    cases.attach_facts(
        case_id=case.id,
        facts=[("  Where  born? ", factories.ANSWER)],
        aliases=["Zz", factories.ALIAS],
        actor=staff_actor(officer),
    )
    assert vault.get(case, "facts") == [{"question": "Where born?", "answer": factories.ANSWER}]
    assert vault.get(case, "aliases") == [factories.ALIAS, "Zz"]
    data = last_data(case, "case.facts_attached")
    assert (data["facts"], data["aliases"]) == (1, 2)
    assert set(data["content"]) == {"commitment"}


def test_facts_that_do_not_fit_are_refused(officer: StaffMember, intake_clerk: StaffMember) -> None:
    case, actor = case_in_review(), staff_actor(officer)
    with pytest.raises(Invalid, match="answer to question 2 is missing"):
        cases.attach_facts(case_id=case.id, facts=[("a", "b"), ("c", " ")], aliases=(), actor=actor)
    with pytest.raises(Invalid, match="At most 500"):
        cases.attach_facts(case_id=case.id, facts=[("a", "b")] * 501, aliases=(), actor=actor)
    with pytest.raises(Invalid, match="At most 20"):
        cases.attach_facts(case_id=case.id, facts=(), aliases=map(str, range(20)), actor=actor)  # type: ignore[arg-type]
    with pytest.raises(NotAllowed):
        cases.attach_facts(case_id=case.id, facts=(), aliases=(), actor=staff_actor(intake_clerk))
    with pytest.raises(WrongState):
        cases.attach_facts(case_id=propose(case).id, facts=(), aliases=(), actor=actor)


# --- Proposing ----------------------------------------------------------------------------------
def test_a_proposal_waits_for_a_second_person(officer: StaffMember) -> None:
    case = propose(case_in_review(), by=officer)
    decision = Decision.objects.get()
    assert case.status == CaseStatus.AWAITING_APPROVAL
    assert decision.state == Decision.State.PROPOSED
    assert decision.proposed_by == officer
    assert [item.result for item in case.scope_items.all()] == ["erase"]
    assert "canary" in vault.get(case, f"decision/{decision.pk}/reasoning")
    data = last_data(case, "decision.proposed")
    assert data["outcome"] == "granted"
    item = {"kind": "model", "target": "demo", "result": "erase", "exemption": "", "review_on": ""}
    assert data["scope"] == [item]
    assert data["models_are_personal_data"] == "yes"


def test_a_proposal_is_not_undone_by_recording_the_identity_again(officer: StaffMember) -> None:
    case = propose(case_in_review(), by=officer)
    with pytest.raises(WrongState):
        cases.record_identity(
            case_id=case.id, method="mailbox", note="", actor=staff_actor(officer)
        )
    case.refresh_from_db()
    assert case.status == CaseStatus.AWAITING_APPROVAL


def test_what_is_kept_says_why_and_until_when_it_is_looked_at_again() -> None:
    case = propose(case_in_review(), outcome="refused")
    item = case.scope_items.get()
    assert vault.get(case, f"scope/{item.pk}/reasoning") == KEPT.necessity
    assert item.review_on == KEPT.review_on
    data = last_data(case, "decision.proposed")
    assert set(data["necessity"]) == {"commitment"}
    assert KEPT.necessity not in str(data)


def test_a_request_refused_as_such_names_which_and_keeps_the_proof_in_the_vault() -> None:
    case = propose(case_in_review(), outcome="excessive")
    decision = Decision.objects.get()
    assert decision.abuse == "excessive"
    assert vault.get(case, f"decision/{decision.pk}/proof") == "Forty requests a week, to harm."
    assert set(last_data(case, "decision.proposed")["proof"]) == {"commitment"}
    with pytest.raises(IntegrityError), transaction.atomic():
        Decision.objects.update(abuse="")
    with pytest.raises(IntegrityError), transaction.atomic():
        Decision.objects.update(outcome="refused")


def test_the_database_refuses_to_keep_without_a_day_of_review() -> None:
    case = propose(case_in_review(), outcome="refused")
    with pytest.raises(IntegrityError), transaction.atomic():
        case.scope_items.update(review_on=None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"outcome": "perhaps"}, "no outcome"),
        ({"grounds": []}, "at least one ground"),
        ({"grounds": ["17-1-z"]}, "Not a ground"),
        ({"reasoning": "  "}, "reasoning is missing"),
        ({"result": replace(KEPT, exemption="")}, "needs an exemption"),
        ({"result": KEPT}, "needs the results “Erase"),
        ({"result": ScopeResult("erase", "17-3-a")}, "has an exemption but"),
        ({"result": ScopeResult("burn")}, "no result “burn”"),
        ({"scope_results": {}}, "needs the results “Erase"),
        ({"scope_results": {10**9: ERASED}}, "do not belong"),
        ({"outcome": "refused", "result": replace(KEPT, necessity=" ")}, "Why .* is missing"),
        ({"outcome": "refused", "result": replace(KEPT, review_on=None)}, "within a year"),
        ({"outcome": "refused", "result": replace(KEPT, review_on=date(2020, 1, 1))}, "within a"),
        ({"result": replace(ERASED, necessity="Why not")}, "is not kept"),
        ({"abuse": "excessive", "proof": "Forty"}, "Only a request refused under Art. 12"),
        ({"outcome": "excessive", "result": ScopeResult("open")}, "unfounded or excessive"),
        (
            {"outcome": "excessive", "abuse": "unfounded", "result": ScopeResult("open")},
            "proof for Art. 12.5. GDPR is missing",
        ),
        ({"outcome": "refused", "result": ERASED}, "needs the results “Keep"),
        ({"outcome": "partly_granted"}, "needs the results"),
        ({"outcome": "excessive", "abuse": "excessive", "proof": "x"}, "results “Not decided”"),
    ],
)
def test_a_proposal_that_does_not_hold_together_is_refused(
    officer: StaffMember, changes: dict[str, Any], message: str
) -> None:
    case = case_in_review()
    item = case.scope_items.get()
    entries = AuditEntry.objects.count()
    values: dict[str, Any] = {
        "outcome": "granted",
        "grounds": ["17-1-a"],
        "reasoning": "Reasons.",
        "scope_results": {item.pk: changes.pop("result", ERASED)},
        **changes,
    }
    with pytest.raises(Invalid, match=message):
        cases.propose_decision(case_id=case.id, actor_member=officer, **values)
    case.refresh_from_db()
    item.refresh_from_db()
    assert (case.status, item.result) == (CaseStatus.IN_REVIEW, "open")
    assert not Decision.objects.exists()
    assert AuditEntry.objects.count() == entries


@pytest.mark.parametrize("role", [Role.INTAKE, Role.ENGINEER, Role.AUDITOR])
def test_only_officers_and_approvers_propose(role: Role) -> None:
    with pytest.raises(NotAllowed, match="Case officer or Approver"):
        propose(case_in_review(), by=factories.make_staff(role))


def test_a_member_who_left_can_decide_nothing(officer: StaffMember) -> None:
    officer.is_active = False
    with pytest.raises(NotAllowed):
        propose(case_in_review(), by=officer)


def test_nothing_is_proposed_before_the_identity_is_checked() -> None:
    with pytest.raises(WrongState):
        propose(confirmed_case())


def test_a_proposal_sent_back_opens_the_scope_again(officer: StaffMember) -> None:
    case = propose(case_in_review())
    cases.return_decision(case_id=case.id, reason="Check the store.", actor_member=officer)
    case.refresh_from_db()
    assert case.status == CaseStatus.IN_REVIEW
    assert [item.result for item in case.scope_items.all()] == ["open"]
    assert set(last_data(case, "decision.returned")["reason"]) == {"commitment"}
    assert propose(case).status == CaseStatus.AWAITING_APPROVAL
    assert Decision.objects.count() == 2


# --- Approving ----------------------------------------------------------------------------------
def test_approval_queues_a_run_for_each_model_and_wakes_the_worker_after_commit(
    approver: StaffMember, settings: Settings
) -> None:
    settings.RTBF_MODELS = ["demo", "second"]
    case = propose(case_in_review())
    with on_commit() as callbacks:
        cases.approve_decision(case_id=case.id, actor_member=approver)
        assert take_messages("model") == []
    assert len(callbacks) == 2
    runs = list(ErasureRun.objects.order_by("model_name"))
    assert [(r.model_name, r.state, r.number) for r in runs] == [
        ("demo", RunState.QUEUED, 1),
        ("second", RunState.QUEUED, 1),
    ]
    case.refresh_from_db()
    assert case.status == CaseStatus.EXECUTING
    messages = take_messages("model")
    assert {m["task"] for m in messages} == {"workers.run_erasure"}
    assert sorted(m["args"][0] for m in messages) == sorted(str(r.id) for r in runs)
    assert last_data(case, "run.queued")["seed"] == runs[1].seed


def test_nobody_approves_their_own_proposal(approver: StaffMember) -> None:
    case = propose(case_in_review(), by=approver)
    with pytest.raises(NotAllowed, match="another person"):
        cases.approve_decision(case_id=case.id, actor_member=approver)
    assert not ErasureRun.objects.exists()
    assert Case.objects.get().status == CaseStatus.AWAITING_APPROVAL


def test_the_database_itself_refuses_one_person_for_both(approver: StaffMember) -> None:
    propose(case_in_review(), by=approver)
    with pytest.raises(IntegrityError), transaction.atomic():
        Decision.objects.update(approved_by=approver)


def test_the_database_itself_refuses_an_approval_by_nobody() -> None:
    propose(case_in_review())
    with pytest.raises(IntegrityError), transaction.atomic():
        Decision.objects.update(state="approved", approved_at=timezone.now())


def test_the_database_itself_refuses_keeping_without_an_exemption() -> None:
    case = case_in_review()
    with pytest.raises(IntegrityError), transaction.atomic():
        ScopeItem.objects.filter(case=case).update(result="keep")


@pytest.mark.parametrize("role", [Role.OFFICER, Role.INTAKE, Role.ENGINEER, Role.AUDITOR])
def test_only_approvers_approve(role: Role) -> None:
    case = propose(case_in_review())
    with pytest.raises(NotAllowed, match="Approver"):
        cases.approve_decision(case_id=case.id, actor_member=factories.make_staff(role))


def test_what_was_not_proposed_cannot_be_approved_or_returned(approver: StaffMember) -> None:
    case = case_in_review()
    with pytest.raises(WrongState):
        cases.approve_decision(case_id=case.id, actor_member=approver)
    with pytest.raises(WrongState):
        cases.return_decision(case_id=case.id, reason="x", actor_member=approver)


@pytest.mark.parametrize(
    "outcome, kind",
    [("refused", "refusal"), ("cannot_identify", "cannot_identify"), ("excessive", "excessive")],
)
def test_a_decision_without_erasure_goes_straight_to_the_answer(
    approver: StaffMember, outcome: str, kind: str
) -> None:
    case = propose(case_in_review(), outcome=outcome)
    cases.approve_decision(case_id=case.id, actor_member=approver)
    case.refresh_from_db()
    assert case.status == CaseStatus.RESPONDING
    assert not ErasureRun.objects.exists()
    assert cases.send_answer(case_id=case.id, actor_member=approver).kind == kind


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_two_approvals_at_once_start_one_run() -> None:
    case = propose(case_in_review())
    approvers = [factories.make_staff(Role.APPROVER) for _ in range(3)]
    refused: list[str] = []

    def approve() -> None:
        try:
            cases.approve_decision(case_id=case.id, actor_member=approvers.pop())
        except WrongState as problem:
            refused.append(str(problem))

    run_together(approve, 3)
    assert ErasureRun.objects.count() == 1
    assert len(refused) == 2
    assert Decision.objects.get().state == Decision.State.APPROVED


# --- Evidence and answer ------------------------------------------------------------------------
def test_a_run_that_decided_nothing_is_reviewed_and_may_be_repeated_twice(
    officer: StaffMember, approver: StaffMember
) -> None:
    case = responding_case(verdict=Verdict.INCONCLUSIVE)
    for number in (2, 3):
        assert case.status == CaseStatus.EVIDENCE_REVIEW
        last = case.runs.order_by("number").last()
        assert last is not None
        run = cases.repeat_run(case_id=case.id, run_id=last.id, actor_member=officer)
        assert run.number == number
        factories.work_off(run, verdict=Verdict.INCONCLUSIVE)
        case.refresh_from_db()
    with pytest.raises(Invalid, match="3 runs were made"):
        cases.repeat_run(case_id=case.id, run_id=run.id, actor_member=officer)
    cases.accept_evidence(case_id=case.id, actor_member=approver)
    case.refresh_from_db()
    assert case.status == CaseStatus.RESPONDING
    accepted = last_data(case, "case.evidence_accepted")
    assert accepted == {"verdicts": {"demo": "inconclusive"}, "fell_back": []}


def test_three_attempts_that_are_not_met_end_the_case_as_not_met(officer: StaffMember) -> None:
    case = responding_case(verdict=Verdict.NOT_MET)
    assert case.status == CaseStatus.EVIDENCE_REVIEW
    last = case.runs.order_by("number").last()
    assert last is not None
    with pytest.raises(Invalid, match="3 runs were made"):
        cases.repeat_run(case_id=case.id, run_id=last.id, actor_member=officer)
    cases.accept_evidence(case_id=case.id, actor_member=officer)
    accepted = last_data(case, "case.evidence_accepted")
    assert accepted == {"verdicts": {"demo": "not_met"}, "fell_back": []}


def test_only_the_latest_run_that_fell_short_is_repeated(
    officer: StaffMember, settings: Settings, engineer: StaffMember
) -> None:
    settings.RTBF_MODELS = ["demo", "second"]
    case = executing_case()
    fine, short = case.runs.order_by("model_name")
    factories.work_off(fine)
    factories.work_off(short, verdict=Verdict.INCONCLUSIVE)
    with pytest.raises(Invalid, match="nothing to repeat"):
        cases.repeat_run(case_id=case.id, run_id=fine.id, actor_member=officer)
    with pytest.raises(Invalid, match="latest run"):
        cases.repeat_run(case_id=case.id, run_id=uuid4(), actor_member=officer)
    with pytest.raises(NotAllowed):
        cases.repeat_run(case_id=case.id, run_id=short.id, actor_member=engineer)


def test_good_evidence_needs_no_acceptance(officer: StaffMember) -> None:
    case = responding_case()
    with pytest.raises(WrongState):
        cases.accept_evidence(case_id=case.id, actor_member=officer)


def test_the_answer_completes_the_case_and_counts_its_entries(officer: StaffMember) -> None:
    case = responding_case()
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    case.refresh_from_db()
    assert case.status == CaseStatus.COMPLETED
    assert case.completed_at is not None
    data = last_data(case, "case.completed")
    assert data["events"] == len(audit.case_entries(case.id))
    assert data["letter"] == letter.pk
    with pytest.raises(WrongState):
        cases.send_answer(case_id=case.id, actor_member=officer)


def test_no_answer_is_sent_while_the_erasure_runs(
    officer: StaffMember, auditor: StaffMember
) -> None:
    with pytest.raises(WrongState):
        cases.send_answer(case_id=executing_case().id, actor_member=officer)
    with pytest.raises(NotAllowed):
        cases.send_answer(case_id=responding_case().id, actor_member=auditor)


# --- Export and seal ----------------------------------------------------------------------------
def test_each_export_closes_the_chain_with_its_length(
    auditor: StaffMember, engineer: StaffMember
) -> None:
    case = completed_case()
    for _ in range(2):
        cases.export_case(case_id=case.id, actor=staff_actor(auditor))
        data = last_data(case, "bundle.exported")
        assert data == {"events": len(audit.case_entries(case.id))}
    with pytest.raises(NotAllowed):
        cases.export_case(case_id=case.id, actor=staff_actor(engineer))


def test_after_the_seal_nothing_can_be_decrypted_and_the_log_still_verifies(
    officer: StaffMember,
) -> None:
    case = completed_case()
    letter = case.letters.latest("id")
    cases.seal_case(case_id=case.id, actor=staff_actor(officer))
    case.refresh_from_db()
    assert case.status == CaseStatus.SEALED
    assert (case.access_digest, case.code_digest) == ("", "")
    assert not VaultItem.objects.filter(case=case).exists()
    assert not AuditOpening.objects.filter(case=case).exists()
    for name in ("name", "email", "facts", f"letter/{letter.pk}"):
        with pytest.raises(vault.VaultSealed):
            vault.get(case, name)
    assert set(case.letters.values_list("sha256", flat=True)) == {""}
    assert last_data(case, "case.sealed") == {"events": len(audit.case_entries(case.id))}
    assert audit.read_log().root == audit.root(AuditEntry.objects.count())


@pytest.mark.skipif(connection.vendor != "sqlite", reason="about the files of SQLite")
@pytest.mark.django_db(transaction=True)
def test_after_the_seal_key_and_ciphertext_are_in_no_file_of_the_database() -> None:
    case = completed_case()
    secrets = [bytes(CaseKey.objects.get(case=case).wrapped or b"")]
    secrets += [bytes(item.ciphertext) for item in VaultItem.objects.filter(case=case)]
    secrets = [secret[:48] for secret in secrets]  # longer ones may be spread over pages
    assert all(secret in database_files() for secret in secrets)
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    assert not any(secret in database_files() for secret in secrets)


def database_files() -> bytes:
    """Every byte that SQLite keeps: the database and its write-ahead log."""
    path = Path(connection.settings_dict["NAME"])
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_the_command_seals_a_case_and_says_when_it_cannot(
    officer: StaffMember, engineer: StaffMember
) -> None:
    case, other, early = completed_case(), completed_case(), confirmed_case()
    with pytest.raises(CommandError, match="There is no case ERQ-0000-000000"):
        call_command("seal_case", "ERQ-0000-000000")
    with pytest.raises(CommandError, match="not possible"):
        call_command("seal_case", early.reference)
    with pytest.raises(CommandError, match="There is no member of staff"):
        call_command("seal_case", case.reference, by="nobody")
    with pytest.raises(CommandError, match="needs the role"):
        call_command("seal_case", case.reference, by=engineer.username)
    call_command("seal_case", case.reference.lower(), by=officer.username)
    call_command("seal_case", other.reference)
    for sealed, actor in ((case, staff_actor(officer)), (other, SYSTEM)):
        sealed.refresh_from_db()
        assert sealed.status == CaseStatus.SEALED
        body: Any = canonical.loads(bytes(audit.case_entries(sealed.id)[-1].body))
        assert (body["type"], body["actor"]) == ("case.sealed", actor.name)


def test_a_case_is_sealed_only_when_it_is_over_and_its_letters_went_out(
    officer: StaffMember, engineer: StaffMember
) -> None:
    case = responding_case()
    with pytest.raises(WrongState):
        cases.seal_case(case_id=case.id, actor=SYSTEM)
    cases.send_answer(case_id=case.id, actor_member=officer)
    with pytest.raises(WrongState, match="not sent yet"):
        cases.seal_case(case_id=case.id, actor=SYSTEM)
    letters.send_pending_letters()
    with pytest.raises(NotAllowed):
        cases.seal_case(case_id=case.id, actor=staff_actor(engineer))
    assert cases.seal_case(case_id=case.id, actor=SYSTEM).status == CaseStatus.SEALED


def test_a_whole_case_leaves_no_personal_data_outside_the_vault(
    officer: StaffMember, settings: Settings
) -> None:
    case = completed_case()
    cases.export_case(case_id=case.id, actor=staff_actor(officer))
    for entry in AuditEntry.objects.all():
        assert not any(word in bytes(entry.body).decode() for word in factories.CANARIES)
    rows = [
        *Case.objects.values(),
        *Decision.objects.values(),
        *ErasureRun.objects.values(),
        *ScopeItem.objects.values(),
        *case.letters.values(),
    ]
    assert not any(word in repr(row) for word in factories.CANARIES for row in rows)
