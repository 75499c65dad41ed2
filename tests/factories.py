"""The same few people in every test, and cases brought to each status by the real services."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import count
from queue import Empty
from typing import Any
from uuid import UUID

from django.core import mail
from django.test import TestCase
from django.utils import timezone

from requests_app.actors import SUBJECT, staff_actor
from requests_app.models import Adapter, Case, ErasureRun, StaffMember
from requests_app.models.people import Role
from requests_app.models.record import Channel
from requests_app.models.runs import Verdict
from requests_app.services import cases, intake, letters, manifests, run_rows, runs
from requests_app.services.decisions import ScopeResult
from requests_app.services.runs import Lease, ProbeRow
from requests_app.verifier import canonical
from rtbf import celery_app

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


def digest(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def take_lease(run: ErasureRun, owner: str = "worker-1") -> Lease:
    lease = runs.lease_run(run_id=run.id, owner=owner)
    assert lease is not None, "the run could not be leased"
    return lease


def expire_lease(run_id: UUID) -> None:
    """As if the worker had been silent for longer than its lease."""
    ErasureRun.objects.filter(pk=run_id).update(
        lease_expires_at=timezone.now() - timedelta(seconds=1)
    )


RECIPE = {"rank": 8, "rate": "0.01"}
PROTOCOL: dict[str, Any] = {
    "form": 3,
    "profile": "fast",
    "level": "gated",
    "seed": 7,
    "model": {"sha256": digest("base"), "tokenizer_sha256": digest("tokenizer")},
    "control": {"sha256": digest("control")},
    "probes": {
        "trained": {
            "question": "Does it tell in known wording?",
            "sides": ["before", "after", "control"],
            "rules": [],
        },
        "unseen": {
            "question": "Does it tell in new wording?",
            "sides": ["before", "after", "control"],
            "rules": [
                {"figure": "after", "is": "at_most", "limit": "control_upper95"},
                {"figure": "bound", "is": "at_most", "limit": "0.2"},
            ],
        },
    },
    "not_tested": {"relearned": "Does a little training bring it back?"},
    "attempts": [{"attempt": i + 1, "seed": 7 + i, **RECIPE} for i in range(3)],
    "samples": {"facts": 2, "draws": 2000},
}
PROBES = (
    ProbeRow("trained", "Does it tell in known wording?", 96, "0.99", "0.00", "0.01"),
    ProbeRow(
        "unseen",
        "Does it tell in new wording?",
        48,
        before="0.9375",
        after="0.0208",
        control="0.0417",
        bound="0.1253",
        threshold="0.1253",
        holds=True,
    ),
)
SHORT = {"after": "0.5", "bound": "0.62", "holds": False}
UNDECIDED = {"bound": "0.3", "holds": None}
OUTCOMES = {True: "holds", False: "short", None: "undecided"}


def protocol(run: ErasureRun) -> dict[str, Any]:
    """The test plan that all attempts of a run's case share, from the seed of the first."""
    first = run_rows.not_met_runs(run.case, run.model_name, before=run.number)
    seed = first[0].seed if first else run.seed
    attempts = [{**each, "seed": seed + i} for i, each in enumerate(PROTOCOL["attempts"])]
    return {**PROTOCOL, "seed": seed, "attempts": attempts}


def attempt(run: ErasureRun) -> int:
    return len(run_rows.not_met_runs(run.case, run.model_name, before=run.number)) + 1


def probes(verdict: str = Verdict.WITHIN) -> tuple[ProbeRow, ...]:
    """What was measured where a run ends with that verdict."""
    differing: dict[str, dict[str, Any]] = {
        Verdict.NOT_MET: SHORT,
        Verdict.INCONCLUSIVE: UNDECIDED,
    }
    changes = differing.get(Verdict(verdict), {})
    return (PROBES[0], replace(PROBES[1], **changes))


def evidence(
    run: ErasureRun,
    *,
    verdict: str = Verdict.WITHIN,
    rows: Sequence[ProbeRow] = (),
    release: str = "",
) -> dict[str, Any]:
    """The figures of a run as a worker records them."""
    adapter = Adapter.objects.get(run=run)
    return {
        "run": str(run.id),
        "adapter": {"sha256": adapter.sha256, "gate_sha256": adapter.gate_sha256},
        "release": release or hashlib.sha256(manifest(run, adapter.sha256)).hexdigest(),
        "protocol": protocol(run),
        "model": {"name": "demo", "sha256": digest("base"), "tokenizer": digest("tokenizer")},
        "control": {"sha256": digest("control")},
        "attempt": {"number": attempt(run), "of_at_most": 3},
        "probes": {row.probe: _figures(row) for row in rows or probes(verdict)},
        "not_measured": {},
        "verdict": str(verdict),
        "reasons": ["as the figures say"],
        "environment": {"code_sha256": digest("code"), "python": "3.11"},
    }


def _figures(row: ProbeRow) -> dict[str, Any]:
    found = {key: getattr(row, key) or None for key in ("before", "after", "control", "bound")}
    told = {"n": row.n, **found, "control_upper95": row.threshold or None}
    if not row.threshold:
        return told
    return {**told, "limits": [row.threshold, "0.2"], "outcome": OUTCOMES[row.holds]}


def manifest(run: ErasureRun, sha256: str) -> bytes:
    """A manifest that names the adapters in force and this run's, in the place of an earlier one of
    its case."""
    live = manifests.live_manifest(run.model_name)
    kept = [a for a in live.adapters if a.case_id != run.case_id] if live else []
    gate = Adapter.objects.get(sha256=sha256).gate_sha256
    own = manifests.ManifestAdapter(run.case_id, sha256, gate)
    return manifest_of(
        [*kept, own],
        merged=[each for each in live.merged if each != run.case_id] if live else (),
        base=live.base_sha256 if live else digest("base"),
        parent=live.digest if live else None,
    )


def manifest_of(
    adapters: Sequence[manifests.ManifestAdapter],
    *,
    merged: Sequence[UUID] = (),
    base: str,
    parent: str | None,
) -> bytes:
    """The manifest of a release, in the form in which the model side writes it."""
    return canonical.dumps(
        {
            "form": 2,
            "base": {
                "name": "demo",
                "sha256": base,
                "tokenizer_sha256": digest("tokenizer"),
                "settings": digest("settings"),
            },
            "adapters": [
                {"case": str(a.case_id), "adapter": a.sha256, "gate": a.gate_sha256}
                for a in adapters
            ],
            "merged": sorted(map(str, merged)),
            "parent": parent,
        }
    )


def adapter_settings(run: ErasureRun) -> dict[str, Any]:
    """How an adapter was made, as a worker records it."""
    made_by = {"method": "npo", "modifier": "None", "code_sha256": digest("code")}
    return {**RECIPE, **made_by, "attempt": attempt(run)}


def record_adapter(lease: Lease, run: ErasureRun) -> str:
    """A made-up adapter of the run's own; returns its digest."""
    sha256 = digest("adapter", run.id)
    runs.record_adapter(
        lease,
        sha256=sha256,
        config_sha256=digest("config", run.id),
        gate_sha256=digest("gate", run.id),
        base_sha256=digest("base"),
        overlap="0.0000001",
        settings=adapter_settings(run),
    )
    return sha256


def work_off(run: ErasureRun, *, verdict: str = Verdict.WITHIN, lease: Lease | None = None) -> None:
    """Everything a worker records for a run, with made-up digests, up to its end."""
    lease = lease or take_lease(run)
    runs.record_protocol(lease, protocol=protocol(run))
    sha256 = record_adapter(lease, run)
    runs.record_evidence(
        lease, evidence=evidence(run, verdict=verdict), verdict=verdict, probes=probes(verdict)
    )
    runs.register_release(lease, manifest=manifest(run, sha256))
    runs.finish_run(lease)


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
