"""The dossier of a case: what exports are made from, read once and then immutable.

Personal data: none. It holds the case's reference and random id, log entries and figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any
from uuid import UUID

from django.utils.translation import gettext_lazy as _

from requests_app import audit, keys, marks
from requests_app.jurisdictions import Profile, current, profile
from requests_app.models import Case, Checkpoint, ErasureRun
from requests_app.verifier import merkle, statements
from requests_app.verifier.runs import claim_of, run_facts


class BundleNotReady(Exception):
    """No signed checkpoint covers the export yet; the message says what to do."""


@dataclass(frozen=True)
class Event:
    """One entry of the case: its index in the log and its exact bytes."""

    seq: int
    case_seq: int
    raw: bytes

    @property
    def file(self) -> str:
        return statements.event_file(self.case_seq)

    @property
    def leaf(self) -> bytes:
        return merkle.leaf_hash(self.raw)

    @cached_property
    def body(self) -> Mapping[str, Any]:
        body: Mapping[str, Any] = json.loads(self.raw)
        return body


@dataclass(frozen=True)
class Probe:
    """One probe of a run; `holds` is None when it decides nothing."""

    name: str
    question: str
    holds: bool | None
    n: int
    before: str
    after: str
    control: str
    bound: str
    threshold: str


@dataclass(frozen=True)
class Run:
    """What an erasure run stored besides its log entries."""

    id: str
    protocol: bytes | None
    settings: Mapping[str, Any] | None
    evidence: Mapping[str, Any] | None
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class LogProofs:
    """A signed checkpoint with the marks of others on it, and the proofs that hang on it."""

    note: bytes
    stamp: marks.Stamp | None
    origin: str
    size: int
    root: bytes
    inclusion: tuple[tuple[bytes, ...], ...]  # one path for each event of the case
    first: int  # size of the log that the consistency path starts from
    first_root: bytes
    consistency: tuple[bytes, ...]
    trust: str  # the public keys that were known by then


@dataclass(frozen=True)
class Dossier:
    """A case for exports; `log` is there only in `as_exported`."""

    case_id: UUID
    reference: str
    received_on: date
    events: tuple[Event, ...]
    runs: tuple[Run, ...]
    log: LogProofs | None = None

    @property
    def due(self) -> date:
        """The last day of the period as the events tell it: an export of an earlier day keeps its
        own, whatever was extended since."""
        extended = self.last("case.extended")
        return date.fromisoformat(extended["due"] if extended else self._received["base_due"])

    @property
    def base_due(self) -> date:
        """The last day before any extension."""
        return date.fromisoformat(self._received["base_due"])

    @property
    def law(self) -> Profile:
        """The jurisdiction profile that the case was opened under."""
        name: str = self._received["jurisdiction"]
        return profile(name) if "/" in name else current(name)  # before profiles had versions

    @property
    def _received(self) -> Mapping[str, Any]:
        received: Mapping[str, Any] = self.events[0].body["data"]
        return received

    @cached_property
    def run_facts(self) -> list[dict[str, Any]]:
        """The runs as the events tell them (verifier.runs)."""
        return run_facts(self.events)

    @property
    def claim(self) -> str:
        return claim_of(self.run_facts)

    def run(self, run_id: str) -> Run:
        return next(run for run in self.runs if run.id == run_id)

    def last(self, kind: str) -> Mapping[str, Any] | None:
        """Data of the last event of a type, None if there is none."""
        found = [event.body["data"] for event in self.events if event.body["type"] == kind]
        return found[-1] if found else None


def gather(case: Case) -> Dossier:
    """The dossier of a case as it stands now."""
    events = tuple(
        Event(seq=row.seq, case_seq=row.case_seq or 0, raw=bytes(row.body))
        for row in audit.case_entries(case.id)
    )
    rows = ErasureRun.objects.filter(case=case).select_related("adapter")
    return Dossier(
        case_id=case.id,
        reference=case.reference,
        received_on=case.received_on,
        events=events,
        runs=tuple(_run(row) for row in rows.order_by("created_at", "id")),
    )


def as_exported(dossier: Dossier, *, since: int | None = None) -> Dossier:
    """The dossier as of the case's last closing entry, with proofs against the first checkpoint
    that covers it and gets no more marks. The same entry gives the same dossier, whatever happens
    later, unless a key is taken out of use: a new attest key signs anew, and against a checkpoint
    that knows it; a checkpoint for which its log key was revoked is passed over.

    `since` is a log size an auditor holds a checkpoint of; the consistency proof starts there
    instead of at the start of the case. Raises BundleNotReady, ValueError for an impossible size.
    """
    closing = [e.case_seq for e in dossier.events if e.body["type"] in statements.CLOSING]
    if not closing:
        raise BundleNotReady(
            _("Prepare the bundle first: the export is an entry of the log itself.")
        )
    events = dossier.events[: closing[-1] + 1]
    covered = max(events[-1].seq, keys.known_since(keys.attest_key()))
    checkpoint = marks.closed_after(covered)
    if checkpoint is None:
        raise BundleNotReady(
            _(
                "The signer has not signed the log since this export was prepared, or witnesses"
                " are still being asked. That takes seconds while the signer (manage.py"
                " sign_checkpoints) and the legal queue run, and two minutes if a witness does"
                " not answer."
            )
        )
    return replace(dossier, events=events, log=_proofs(events, checkpoint, since=since))


def _proofs(events: tuple[Event, ...], checkpoint: Checkpoint, *, since: int | None) -> LogProofs:
    """Proofs from the stored nodes, which are not trusted: each is held against the signed root."""
    size, root = checkpoint.size, bytes(checkpoint.root)
    first = events[0].seq if since is None else since
    try:
        consistency = audit.consistency_proof(first, size)
        first_root = audit.root(first)
        merkle.verify_consistency(
            first=first, second=size, path=consistency, first_root=first_root, second_root=root
        )
        inclusion = [audit.inclusion_proof(event.seq, size) for event in events]
        for event, path in zip(events, inclusion, strict=True):
            merkle.verify_inclusion(event.leaf, index=event.seq, size=size, path=path, root=root)
    except (audit.LogError, merkle.ProofError) as problem:
        raise BundleNotReady(
            _("The stored log does not fit its checkpoint: %(problem)s. Run manage.py verify_log.")
            % {"problem": problem}
        ) from None
    return LogProofs(
        note=marks.cosigned_note(checkpoint),
        stamp=marks.stamp_of(checkpoint),
        origin=checkpoint.note.partition("\n")[0],
        size=size,
        root=root,
        inclusion=tuple(tuple(path) for path in inclusion),
        first=first,
        first_root=first_root,
        consistency=tuple(consistency),
        trust=keys.trust_text(known_at=size),
    )


def _run(row: ErasureRun) -> Run:
    adapter = getattr(row, "adapter", None)
    return Run(
        id=str(row.id),
        protocol=bytes(row.protocol) if row.protocol is not None else None,
        settings=adapter.settings if adapter else None,
        evidence=row.evidence,
        probes=tuple(
            Probe(
                name=probe.probe,
                question=probe.question,
                holds=probe.holds,
                n=probe.n,
                before=probe.before,
                after=probe.after,
                control=probe.control,
                bound=probe.bound,
                threshold=probe.threshold,
            )
            for probe in row.probe_results.order_by("probe")
        ),
    )
