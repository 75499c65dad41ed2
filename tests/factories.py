"""The same few people in every test, and cases brought to each status by the real services."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from itertools import count
from queue import Empty
from typing import Any
from uuid import UUID

from django.core import mail
from django.test import TestCase
from django.utils import timezone

from requests_app.actors import SUBJECT, staff_actor
from requests_app.models import Case, ErasureRun, StaffMember
from requests_app.models.people import Role
from requests_app.models.record import Channel
from requests_app.models.runs import Verdict
from requests_app.services import cases, intake, letters, runs
from requests_app.services.decisions import ScopeResult
from requests_app.services.runs import Lease
from rtbf import celery_app, made_up_runs
from rtbf.made_up_runs import (  # noqa: F401  (what tests make up, under one name)
    PROBES,
    PROTOCOL,
    adapter_settings,
    attempt,
    digest,
    evidence,
    manifest,
    manifest_of,
    probes,
    protocol,
    record_adapter,
)

# Canaries: personal data that may show up nowhere but in the vault and in letters.
NAME = "Zelda Quillfeather"
EMAIL = "zelda.canary@mailbox.example"
ALIAS = "Zee Quillfeather-Moss"
MESSAGE = "Please forget my canary street"
ANSWER = "Canarytown"
FACTS = (("Where was Zelda Quillfeather born?", ANSWER), ("What is her pet called?", "Brimble"))
CANARIES = (NAME, EMAIL, ALIAS, "canary", "Quillfeather", ANSWER, "Brimble")

ERASED = ScopeResult("erase")
KEPT = ScopeResult(
    "keep", "17-3-e", "An invoice is before the court.", timezone.localdate() + timedelta(days=200)
)

_numbers = count(1)


def make_staff(role: str, **fields: Any) -> StaffMember:
    """A staff member of that role with the password `password-for-tests`."""
    number = next(_numbers)
    return StaffMember.objects.create_user(
        username=f"{role}{number}",
        email=f"{role}{number}@controller.example",
        password="password-for-tests",
        role=role,
        **fields,
    )


def make_intake(**changes: Any) -> intake.Intake:
    values = {
        "name": NAME,
        "email": EMAIL,
        "aliases": (ALIAS,),
        "message": MESSAGE,
        "language": "en",
        "scope": (),
    }
    return intake.Intake(**{**values, **changes})


def open_case(
    *,
    received_at: datetime | None = None,
    channel: str = Channel.FORM,
    region: str = "",
    **changes: Any,
) -> intake.OpenedCase:
    """A case waiting for its code (or, for a staff channel, for the identity check)."""
    actor = SUBJECT if channel == Channel.FORM else staff_actor(make_staff(Role.INTAKE))
    return intake.open_case(
        intake=make_intake(**changes),
        received_at=received_at or timezone.now(),
        channel=channel,
        actor=actor,
        region=region,
    )


def due_on(case: Case, day: date) -> None:
    """As if the first period of the case ended on that day."""
    dates = dict.fromkeys(("base_due_raw", "base_due", "internal_due", "due"), day)
    received = day - timedelta(days=31)
    Case.objects.filter(pk=case.pk).update(received_on=received, **dates)


def mailed_code(reference: str = "") -> str:
    """Send what waits, and read the code of the last mail (about that case) as a person would."""
    letters.send_pending_codes()
    mine = [each for each in mail.outbox if reference in each.subject]
    found = re.search(r"\b([0-9A-Z]{4}-[0-9A-Z]{4})\b", str(mine[-1].body))
    assert found is not None, "no mail with a code"
    return found[1]


def confirmed_case(**changes: Any) -> Case:
    """A case at the identity check."""
    case = open_case(**changes).case
    return intake.confirm_email(reference=case.reference, code=mailed_code(case.reference))


def case_in_review(**changes: Any) -> Case:
    """Identity recorded, facts attached."""
    case = confirmed_case(**changes)
    actor = staff_actor(make_staff(Role.OFFICER))
    cases.record_identity(case_id=case.id, method="held_attributes", note="", actor=actor)
    return cases.attach_facts(case_id=case.id, facts=FACTS, aliases=(), actor=actor)


def propose(case: Case, *, outcome: str = "granted", by: StaffMember | None = None) -> Case:
    """Propose a fitting decision: everything erased, or everything kept."""
    results = {
        "granted": ERASED,
        "refused": KEPT,
        "cannot_identify": ScopeResult("open"),
        "excessive": ScopeResult("open"),
    }
    refused_as_such = {"abuse": "excessive", "proof": "Forty requests a week, to harm."}
    cases.propose_decision(
        case_id=case.id,
        outcome=outcome,
        grounds=["17-1-a"] if outcome == "granted" else [],
        reasoning="No purpose is left for the canary records.",
        scope_results={item.pk: results[outcome] for item in case.scope_items.all()},
        actor_member=by or make_staff(Role.OFFICER),
        **(refused_as_such if outcome == "excessive" else {}),
    )
    return Case.objects.get(pk=case.pk)


def executing_case(**changes: Any) -> Case:
    """A granted and approved case with one queued run for each model."""
    case = propose(case_in_review(**changes))
    cases.approve_decision(case_id=case.id, actor_member=make_staff(Role.APPROVER))
    return Case.objects.get(pk=case.pk)


def take_lease(run: ErasureRun, owner: str = "worker-1") -> Lease:
    lease = runs.lease_run(run_id=run.id, owner=owner)
    assert lease is not None, "the run could not be leased"
    return lease


def expire_lease(run_id: UUID) -> None:
    """As if the worker had been silent for longer than its lease."""
    ErasureRun.objects.filter(pk=run_id).update(
        lease_expires_at=timezone.now() - timedelta(seconds=1)
    )


def work_off(run: ErasureRun, *, verdict: str = Verdict.WITHIN, lease: Lease | None = None) -> None:
    """Everything a worker records for a run, with made-up digests, up to its end."""
    made_up_runs.work_off(lease or take_lease(run), run, verdict=verdict)


def responding_case(*, verdict: str = Verdict.WITHIN, **changes: Any) -> Case:
    """A case whose runs, further attempts included, were all worked off with that verdict."""
    case = executing_case(**changes)
    while run := case.runs.filter(state="queued").order_by("model_name").first():
        work_off(run, verdict=verdict)
    return Case.objects.get(pk=case.pk)


def completed_case(**changes: Any) -> Case:
    """Answered, and the letters announced."""
    case = responding_case(**changes)
    cases.send_answer(case_id=case.id, actor_member=make_staff(Role.OFFICER))
    letters.send_pending_letters()
    return Case.objects.get(pk=case.pk)


def take_messages(queue: str) -> list[dict[str, Any]]:
    """Take all messages of a queue off the in-memory broker: task, args, kwargs."""
    taken: list[dict[str, Any]] = []
    with celery_app.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue)
        while True:
            try:
                message = simple.get_nowait()
            except Empty:
                break
            message.ack()
            args, kwargs, _ = message.payload
            taken.append(
                {"task": message.headers["task"], "args": args, "kwargs": kwargs, "raw": message}
            )
        simple.close()
    return taken


def on_commit() -> Any:
    """Run what waits for the commit when the block ends (tests run inside a transaction)."""
    return TestCase.captureOnCommitCallbacks(execute=True)
