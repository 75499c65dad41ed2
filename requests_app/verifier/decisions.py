"""Four eyes: what two people have to decide was decided by two, before it was carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import Invalid
from .runs import LoggedEvent

ERASING = frozenset({"granted", "partly_granted"})


def check_decisions(events: Sequence[LoggedEvent]) -> None:
    """Invalid unless decision, revocation and annex were approved by another person than the one
    who proposed them, and models were erased from only as approved."""
    proposals: dict[str, LoggedEvent] = {}
    allowed: set[str] = set()
    for event in events:
        kind, data = event.body["type"], event.body["data"]
        if kind in ("decision.proposed", "revocation.proposed", "annex.asked"):
            proposals[kind.partition(".")[0]] = event
        elif kind == "decision.returned":
            proposals.pop("decision", None)
        elif kind == "decision.approved":
            allowed = _models(_second_person(proposals, "decision", event), event)
        elif kind == "case.revoked":
            _second_person(proposals, "revocation", event)
        elif kind == "annex.approved":
            _second_person(proposals, "annex", event)
        elif kind == "run.queued" and data.get("model") not in allowed:
            raise Invalid("A model was erased from without a decision.", file=event.file)


def _second_person(
    proposals: dict[str, LoggedEvent], what: str, approval: LoggedEvent
) -> Mapping[str, Any]:
    """Data of the proposal that is approved, which another person made; it is used up."""
    proposal = proposals.pop(what, None)
    data = approval.body["data"]
    if proposal is None or proposal.body["data"].get(what) != data.get(what):
        raise Invalid(f"What was approved is not the {what} proposed last.", file=approval.file)
    if _person(proposal) == _person(approval):
        raise Invalid(f"One person proposed and approved the {what}.", file=approval.file)
    found: Mapping[str, Any] = proposal.body["data"]
    return found


def _models(proposal: Mapping[str, Any], approval: LoggedEvent) -> set[str]:
    """The models that an approved decision erases from."""
    outcome = proposal.get("outcome")
    if approval.body["data"].get("outcome") != outcome:
        raise Invalid("Another outcome was approved than proposed.", file=approval.file)
    scope = proposal.get("scope")
    if outcome not in ERASING or not isinstance(scope, list):
        return set()
    found = set()
    for item in scope:
        match item:
            case {"kind": "model", "result": "erase", "target": str(target)}:
                found.add(target)
    return found


def _person(event: LoggedEvent) -> str:
    """The pseudonym, whatever role the person acted in."""
    actor = event.body["actor"]
    return actor.partition(":")[2] if isinstance(actor, str) else ""
