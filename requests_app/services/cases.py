"""The path of a case after intake: identity, facts, repeating, answering, exporting, sealing.

Proposing and approving live in `decisions` and are offered here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import CharField
from django.db.models.functions import Cast
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, keys, outbox, vault
from requests_app.actors import Actor, staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import (
    ApiRequest,
    AuditEntry,
    Case,
    DataSubject,
    Decision,
    ErasureRun,
    Letter,
    StaffMember,
)
from requests_app.models.people import Role
from requests_app.services import saved_steps
from requests_app.services.answers import answer_letter
from requests_app.services.clock import require_answered
from requests_app.services.decisions import (
    approve_decision,
    propose_decision,
    return_decision,
)
from requests_app.services.duplicates import note_contact
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.holds import refuse_while_held
from requests_app.services.intake import ALIASES, NAME_LENGTH
from requests_app.services.letter_texts import Wording
from requests_app.services.letters import word_letter, write_letter
from requests_app.services.locking import (
    advance,
    clean_text,
    lock_case,
    one_line,
    require_actor,
    require_role,
    require_status,
)
from requests_app.services.mandates import require_mandate
from requests_app.services.recipients import require_recipients_told
from requests_app.services.run_rows import attempts_of, fell_back, is_within, queue_run
from requests_app.services.run_values import ATTEMPTS

__all__ = [
    "accept_evidence",
    "approve_decision",
    "attach_facts",
    "export_case",
    "preview_answer",
    "preview_proposal",
    "propose_decision",
    "record_identity",
    "repeat_run",
    "return_decision",
    "seal_case",
    "send_answer",
    "why_not_repeat",
]

IDENTITY_METHODS = frozenset({"mailbox", "held_attributes", "logged_in", "document_seen"})
FACTS = 500
FACT_LENGTH = 500
NOTE_LENGTH = 2000


@transaction.atomic
def record_identity(*, case_id: UUID, method: str, note: str, actor: Actor) -> Case:
    """Record how the identity was checked (GDPR Art. 12(6)); the case goes into review."""
    require_actor(actor, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    if method not in IDENTITY_METHODS:
        raise Invalid(
            _("There is no identity check “%(method)s”. Known: %(known)s.")
            % {"method": method, "known": ", ".join(sorted(IDENTITY_METHODS))}
        )
    note = clean_text(note, what=_("The note"), longest=NOTE_LENGTH, required=False)
    case = lock_case(case_id)
    require_mandate(case)
    require_answered(case)
    require_status(case, CaseStatus.IDENTITY_CHECK)
    advance(case, CaseStatus.IN_REVIEW)
    note_contact(case)
    case.identity_method = method
    case.identity_checked_at = timezone.now()
    case.identity_checked_by = StaffMember.objects.get(pseudonym=actor.pseudonym)
    case.save()
    if note:
        vault.put(case, "identity/note", note)
    audit.append_entry(
        type="case.identity_recorded",
        actor=actor.name,
        case=case,
        data={"method": method},
        commitments={"note": note} if note else None,
    )
    return case


@transaction.atomic
def attach_facts(
    *, case_id: UUID, facts: Sequence[tuple[str, str]], aliases: Sequence[str], actor: Actor
) -> Case:
    """Store what the controller holds of the person: question/answer pairs, and other names.

    Facts replace the earlier ones, names are added to those the person gave. They lie in the vault;
    the log holds their number and a commitment.
    """
    require_actor(actor, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    require_status(case, CaseStatus.IDENTITY_CHECK, CaseStatus.IN_REVIEW)
    if len(facts) > FACTS:
        raise Invalid(_("At most %(count)d facts can be attached.") % {"count": FACTS})
    pairs = [
        {
            "question": one_line(
                question, what=_("Question %(number)d") % {"number": i}, longest=FACT_LENGTH
            ),
            "answer": one_line(
                answer,
                what=_("The answer to question %(number)d") % {"number": i},
                longest=FACT_LENGTH,
            ),
        }
        for i, (question, answer) in enumerate(facts, start=1)
    ]
    names = [one_line(alias, what=_("Another name"), longest=NAME_LENGTH) for alias in aliases]
    known = list(dict.fromkeys([*vault.get(case, "aliases"), *names]))
    if len(known) > ALIASES:
        raise Invalid(_("At most %(count)d other names can be stored.") % {"count": ALIASES})
    vault.put(case, "facts", pairs)
    vault.put(case, "aliases", known)
    audit.append_entry(
        type="case.facts_attached",
        actor=actor.name,
        case=case,
        data={"facts": len(pairs), "aliases": len(known)},
        commitments={"content": {"facts": pairs, "aliases": known}},
    )
    return case


@transaction.atomic
def accept_evidence(*, case_id: UUID, actor_member: StaffMember) -> Case:
    """Go on to the answer although thresholds were not met or nothing could be measured.

    The answer will say so.
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    require_status(case, CaseStatus.EVIDENCE_REVIEW)
    advance(case, CaseStatus.RESPONDING)
    case.save()
    audit.append_entry(
        type="case.evidence_accepted",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "verdicts": {run.model_name: run.verdict for run in latest_runs(case)},
            "fell_back": [run.model_name for run in latest_runs(case) if fell_back(run)],
        },
    )
    return case


@transaction.atomic
def repeat_run(*, case_id: UUID, run_id: UUID, actor_member: StaffMember) -> ErasureRun:
    """Run again on one model: its latest run, only if it fell short or, measured again later, fell
    back. At most three attempts, counted anew after a run within thresholds."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    require_status(case, CaseStatus.EVIDENCE_REVIEW)
    run = next((run for run in latest_runs(case) if run.id == run_id), None)
    if run is None:
        raise Invalid(_("Only the latest run of a model of this case can be repeated."))
    if refusal := why_not_repeat(run):
        raise Invalid(refusal)
    advance(case, CaseStatus.EXECUTING)
    case.save()
    return queue_run(case, run.model_name, actor=staff_actor(actor_member).name)


def why_not_repeat(run: ErasureRun) -> str:
    """Why the latest run of a model cannot be repeated, for staff; empty if it can be."""
    if is_within(run) and not fell_back(run):
        return _("This run is within its thresholds: there is nothing to repeat.")
    made = len(attempts_of(run.case, run.model_name))
    if made >= ATTEMPTS:
        return _("%(count)d runs were made. Accept the evidence and say so in the answer.") % {
            "count": made
        }
    return ""


@transaction.atomic
def send_answer(*, case_id: UUID, actor_member: StaffMember) -> Letter:
    """Write the answer of Art. 12(3) or 12(4) with exactly the recorded figures; case complete.

    WrongState while a recipient of what is erased was not told (Art. 19).
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    require_recipients_told(case)
    advance(case, CaseStatus.COMPLETED)
    case.completed_at = timezone.now()
    case.save()
    decision = Decision.objects.get(case=case, state=Decision.State.APPROVED)
    kind, fill = answer_letter(case, decision, latest_runs(case))
    letter = write_letter(case, kind, fill)
    audit.append_entry(
        type="case.completed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "outcome": decision.outcome,
            "letter": letter.pk,
            "letter_kind": kind,
            "events": events_with_next(case),
        },
    )
    return letter


def preview_answer(case: Case) -> Wording:
    """The answer as it would be written now, with the slots that are still empty."""
    decision = Decision.objects.get(case=case, state=Decision.State.APPROVED)
    return word_letter(case, *answer_letter(case, decision, latest_runs(case)))


def preview_proposal(case: Case, proposal: Decision) -> Wording:
    """The answer that would follow a proposal by which no model is erased from, dated today."""
    return word_letter(case, *answer_letter(case, proposal, []))


@transaction.atomic
def export_case(*, case_id: UUID, actor: Actor) -> AuditEntry:
    """Close the case's chain for an export; the entry counts all entries including itself.

    The key that will sign the statement becomes known first, so that the next checkpoint covers
    both and the bundle is ready with it.
    """
    require_actor(actor, Role.OFFICER, Role.APPROVER, Role.AUDITOR)
    case = lock_case(case_id)
    keys.attest_key()
    return audit.append_entry(
        type="bundle.exported",
        actor=actor.name,
        case=case,
        data={"events": events_with_next(case)},
    )


@transaction.atomic
def seal_case(*, case_id: UUID, actor: Actor, rule: str = "") -> Case:
    """Close a case for good: its key, ciphertext and commitment salts are destroyed.

    `rule` is the retention rule that asks for it; a request never confirmed has no other end.

    The log entry is written in the same transaction. Letters must have been sent, and no
    restriction be in force, which would end with the name that it is about.
    """
    if actor.kind != "system":
        require_actor(actor, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    if not rule and case.status == CaseStatus.AWAITING_CONFIRMATION:
        raise WrongState(
            _("%(reference)s may still be confirmed; it goes when its time is over.")
            % {"reference": case.reference}
        )
    advance(case, CaseStatus.SEALED)
    refuse_while_held(case, _("it cannot be sealed"))
    if case.letters.filter(sent_at=None).exists():
        raise WrongState(
            _("%(reference)s has a letter that was not sent yet.") % {"reference": case.reference}
        )
    if case.restrictions.filter(lifted_at=None).exists():
        raise WrongState(
            _("%(reference)s is restricted: lift the restriction first.")
            % {"reference": case.reference}
        )
    case.sealed_at = timezone.now()
    case.save()
    destroy_personal_data(case)
    audit.append_entry(
        type="case.sealed",
        actor=actor.name,
        case=case,
        data={"events": events_with_next(case), **({"rule": rule} if rule else {})},
    )
    if not rule:  # retention does it once for all its cases
        transaction.on_commit(vault.overwrite_freed_pages, robust=True)
    return case


def destroy_personal_data(case: Case) -> None:
    """Destroy all that singles the person of a locked case out: salts, key, ciphertext, digests.

    What lies beside the database, saved steps of training and the mails of the embedded
    installation, goes after the commit. The caller then has the pages overwritten in which the
    destroyed bytes still stand (`vault.overwrite_freed_pages`).
    """
    case.code_digest = case.access_digest = case.contact_digest = ""
    case.subject = DataSubject.objects.create()  # no longer joined to others of the same person
    case.save()
    case.letters.update(sha256="")  # a digest of a guessable text would outlive the text
    case.matches.update(record=Cast("pk", CharField()))  # and one of a record's id, the record
    audit.erase_openings(case)
    ApiRequest.objects.filter(case=case).update(once="")  # of an id that may name the person
    case.code_mails.all().delete()
    vault.destroy_key(case)
    vault.erase_items(case)
    runs = list(case.runs.values_list("id", flat=True))
    # robust: sealed it is in any case
    transaction.on_commit(partial(saved_steps.drop_steps, *runs), robust=True)
    transaction.on_commit(partial(outbox.forget, case.reference), robust=True)


def latest_runs(case: Case) -> list[ErasureRun]:
    """The last run of each model of the case, by model name."""
    runs = ErasureRun.objects.filter(case=case).order_by("model_name", "number")
    return list({run.model_name: run for run in runs}.values())


def events_with_next(case: Case) -> int:
    """How many entries the chain of a locked case will have with the one written next."""
    return len(audit.case_entries(case.id)) + 1
