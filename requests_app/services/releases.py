"""Releases beyond a run's own: revoking one case, consolidating; rolling back is in `roll_backs`.

None of them may cost a fulfilled case its erasure (`manifests.put_live` sees to that), and none
happens while a run works on the model, since a run is verified against the adapters in force. What
was not measured on the new release is measured again once it is live.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.audit import Entry
from requests_app.lifecycle import RunState
from requests_app.models import (
    Case,
    Consolidation,
    ErasureRun,
    Recheck,
    Release,
    Revocation,
    StaffMember,
)
from requests_app.models.people import Role
from requests_app.models.runs import Verdict
from requests_app.services import lineage
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from requests_app.services.locking import lock_case, require_role
from requests_app.services.manifests import (
    GATED,
    MERGED,
    Manifest,
    ManifestAdapter,
    destroyed_key,
    live_manifest,
    put_live,
    read_manifest,
    references,
    without_case,
)
from requests_app.services.rechecks import queue_rechecks
from requests_app.services.run_values import ProbeRow, canonical_bytes
from requests_app.services.suppression import sync_tags

ACTIVE = (RunState.QUEUED, RunState.RUNNING)
WEIGHTS = frozenset({"quarantined", "brought_back", "destroyed"})


# --- Revoking one case --------------------------------------------------------------------------
@transaction.atomic
def propose_revocation(*, case_id: UUID, cause: str, actor_member: StaffMember) -> Revocation:
    """Propose to take a case's adapter out of force again: a successful appeal, a wrong person."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    if cause not in Revocation.Cause.values:
        raise Invalid(
            _("There is no cause “%(cause)s”. Known: %(known)s.")
            % {"cause": cause, "known": ", ".join(Revocation.Cause.values)}
        )
    case = lock_case(case_id)
    if Revocation.objects.filter(case=case).exists():
        raise WrongState(
            _("A revocation of %(reference)s was proposed already.") % {"reference": case.reference}
        )
    _gated_on(case)
    revocation = Revocation.objects.create(
        case=case, cause=cause, proposed_by=actor_member, proposed_at=timezone.now()
    )
    audit.append_entry(
        type="revocation.proposed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"revocation": revocation.pk, "cause": cause},
    )
    return revocation


@transaction.atomic
def revoke_case(*, case_id: UUID, actor_member: StaffMember) -> list[Release]:
    """Approve the proposed revocation, as an approver who is not its proposer: on every model a
    release without this case's adapter goes live, all others in it as they are, digest by digest.

    What was merged into weights cannot be given back to them: Invalid. The adapter's files stay
    until their retention ends; no release in force names them.
    """
    require_role(actor_member, Role.APPROVER)
    case = lock_case(case_id)
    revocation = Revocation.objects.filter(case=case, approved_at=None).first()
    if revocation is None:
        raise WrongState(
            _("%(reference)s has no revocation waiting for a second person.")
            % {"reference": case.reference}
        )
    if revocation.proposed_by_id == actor_member.pk:
        raise NotAllowed(_("You proposed this revocation: another person has to approve it."))
    models = _gated_on(case)
    for model_name in models:
        lock_model(model_name)
    revocation.approved_by, revocation.approved_at = actor_member, timezone.now()
    revocation.save()
    found = []
    for model_name in models:
        live = locked_live(model_name)
        found.append(put_live(model_name, read_manifest(without_case(live, case.id))))
    queued = [queue_rechecks(release, Recheck.Reason.RELEASE) for release in found]
    audit.append_entries(sync_tags(case, actor=staff_actor(actor_member)))
    audit.append_entry(
        type="case.revoked",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "revocation": revocation.pk,
            "cause": revocation.cause,
            "releases": {release.model_name: release.digest for release in found},
        },
    )
    audit.append_entries(queued)
    return found


def _gated_on(case: Case) -> list[str]:
    """The models on which an adapter of the case is in force, by name."""
    found = []
    for release in Release.objects.filter(is_live=True).order_by("model_name"):
        live = read_manifest(bytes(release.manifest))
        if case.id in live.merged:
            raise Invalid(
                _(
                    "%(reference)s is merged into the weights of %(model_name)s: what they no"
                    " longer hold cannot be given back. Only training on the data again could."
                )
                % {"reference": case.reference, "model_name": release.model_name}
            )
        if case.id in live.cases:
            found.append(release.model_name)
    if not found:
        raise WrongState(
            _("No adapter of %(reference)s is in force.") % {"reference": case.reference}
        )
    return found


# --- Consolidating ------------------------------------------------------------------------------
def base_of(digest: str) -> str:
    """SHA-256 of the weights that a release is on. NotFound if there is no such release."""
    release = Release.objects.filter(pk=digest).first()
    if release is None:
        raise NotFound(_("There is no such release."))
    return read_manifest(bytes(release.manifest)).base_sha256


@dataclass(frozen=True)
class CaseInForce:
    """A case in force on a model. `facts` is None once the case is sealed: its data is gone."""

    case_id: UUID
    reference: str
    adapter: ManifestAdapter
    name: str = field(repr=False)
    aliases: tuple[str, ...] = field(repr=False)
    facts: tuple[tuple[str, str], ...] | None = field(repr=False)


@dataclass(frozen=True)
class CaseFigures:
    """What was measured of one case on the consolidated release."""

    verdict: str
    probes: tuple[ProbeRow, ...]


def cases_in_force(model_name: str) -> tuple[Manifest, tuple[CaseInForce, ...]]:
    """The live manifest and its gated cases with their data, decrypted: keep it in memory only."""
    live = live_manifest(model_name)
    if live is None:
        raise NotFound(
            _("No release of %(model_name)s is in force: there is nothing to consolidate.")
            % {"model_name": model_name}
        )
    rows = Case.objects.in_bulk([each.case_id for each in live.adapters])
    return live, tuple(_case_in_force(rows[each.case_id], each) for each in live.adapters)


def _case_in_force(case: Case, adapter: ManifestAdapter) -> CaseInForce:
    try:
        name, aliases = vault.get(case, "name"), tuple(vault.get(case, "aliases"))
        stored = vault.get(case, "facts", default=[])
        facts = tuple((fact["question"], fact["answer"]) for fact in stored)
    except vault.VaultSealed:
        return CaseInForce(case.id, case.reference, adapter, "", (), None)
    return CaseInForce(case.id, case.reference, adapter, name, aliases, facts)


@transaction.atomic
def plan_consolidation(
    *, model_name: str, parent: str, plan: Mapping[str, Any], actor_member: StaffMember
) -> str:
    """Log the plan before training: every case's protocol, recipe, seed and which data holds the
    others in place. Returns the SHA-256 of its RFC 8785 bytes."""
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    _refuse_running(model_name)
    digest = hashlib.sha256(canonical_bytes(plan, what="The plan")).hexdigest()
    audit.append_entry(
        type="consolidation.planned",
        actor=staff_actor(actor_member).name,
        data={
            "model": model_name,
            "parent": parent,
            "sha256": digest,
            "cases": len(plan["protocols"]),
            "retained": {**plan["retained"]},
        },
    )
    return digest


@transaction.atomic
def register_consolidation(
    *,
    model_name: str,
    manifest: bytes,
    plan_sha256: str,
    retained: str,
    cases: Mapping[UUID, CaseFigures],
    actor_member: StaffMember,
    job: Consolidation | None = None,
) -> Release:
    """Put a consolidated release in force: on new weights, or with one cluster adapter for several
    cases on the same ones. Each of `cases` was measured on it within thresholds.

    The release that was live at the plan must still be, or WrongState. On new weights all cases
    were measured, and one that stays gated keeps its adapter; its gate may be a new one. With a
    cluster adapter all others stay as they are. The log of each case says what was measured.
    `job`: the locked row that this came of, which is saved with the release.
    """
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    new = read_manifest(manifest)
    rows = locked_cases(list(cases))
    lock_model(model_name)
    live = locked_live(model_name)
    if new.parent != live.digest:
        raise WrongState(_("Another release went live meanwhile. Consolidate again."))
    gated = {each.case_id: each for each in new.adapters}
    if new.base_sha256 == live.base_sha256:
        _check_cluster(live, new, frozenset(cases))
    else:
        adapters = {each.case_id: each.sha256 for each in live.adapters}
        if any(adapters.get(case_id) != each.sha256 for case_id, each in gated.items()):
            raise Invalid(_("A case that stays gated keeps its own adapter."))
        if set(new.merged) - live.cases or new.cases != set(cases):
            raise Invalid(_("Give what was measured of exactly the cases of the release."))
    if any(found.verdict != Verdict.WITHIN for found in cases.values()):
        raise Invalid(_("A case fell short of its thresholds: it cannot be released so."))
    moved = new.base_sha256 != live.base_sha256
    if moved:
        lineage.register_consolidated(
            model_name=model_name, sha256=new.base_sha256, replaced=live.base_sha256
        )
    release = put_live(model_name, new)
    queued = queue_rechecks(release, Recheck.Reason.RELEASE, measured=list(cases))
    if job is not None:
        job.release = release
        job.save()
    actor, replaced = staff_actor(actor_member), list[Entry]()
    if moved:
        replaced = lineage.quarantine_replaced(sha256=live.base_sha256, actor=actor)
    common = {"model": model_name, "release": release.digest, "plan_sha256": plan_sha256}
    audit.append_entry(
        type="release.consolidated",
        actor=actor.name,
        data={
            **common,
            "parent": live.digest,
            "base_sha256": new.base_sha256,
            "replaced_sha256": live.base_sha256,
            "merged": len(new.merged),
            "gated": len(new.adapters),
            "retained": retained,
        },
    )
    for case in rows:
        found = cases[case.id]
        audit.append_entry(
            type="case.reverified" if case.id in gated else "case.merged",
            actor=actor.name,
            case=case,
            data={
                **common,
                "level": GATED if case.id in gated else MERGED,
                "base_sha256": new.base_sha256,
                "adapter_sha256": gated[case.id].sha256 if case.id in gated else "",
                "gate_sha256": gated[case.id].gate_sha256 if case.id in gated else "",
                "retained": retained,
                "verdict": found.verdict,
                "estimates": {probe.probe: probe.as_estimates() for probe in found.probes},
            },
        )
    audit.append_entries([*replaced, queued])
    return release


@transaction.atomic
def record_weights(
    *, model_name: str, sha256: str, what: str, files: int = 0, actor_member: StaffMember
) -> None:
    """Log that replaced weights were `quarantined`, `brought_back` or (once) `destroyed`."""
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    if what not in WEIGHTS:
        raise Invalid(_("Weights are %(known)s.") % {"known": ", ".join(sorted(WEIGHTS))})
    if what == "destroyed":
        lineage.record_destroyed(sha256=sha256)
    audit.append_entry(
        type=f"weights.{what}",
        actor=staff_actor(actor_member).name,
        data={"model": model_name, "sha256": sha256, "files": files},
        idem_key=destroyed_key(sha256) if what == "destroyed" else None,
    )


# --- Inside -------------------------------------------------------------------------------------
def _check_cluster(live: Manifest, new: Manifest, clustered: frozenset[UUID]) -> None:
    """Invalid unless `new` differs from `live` in one adapter that is shared by `clustered`."""
    before = {each.case_id: each for each in live.adapters}
    after = {each.case_id: each for each in new.adapters}
    changed = {case_id for case_id in after if after[case_id] != before.get(case_id)}
    shared = {after[case_id].sha256 for case_id in changed}
    if before.keys() != after.keys() or live.merged != new.merged or len(shared) != 1:
        raise Invalid(
            _("A consolidation has new weights, or one adapter that several cases share.")
        )
    if changed != clustered or len(changed) < 2:
        raise Invalid(_("Give what was measured of exactly the cases that share the adapter."))


def lock_model(model_name: str) -> None:
    """Lock the active runs of a model, so that none starts meanwhile; WrongState if one works."""
    rows = ErasureRun.objects.select_for_update().filter(model_name=model_name, state__in=ACTIVE)
    list(rows.order_by("id"))
    _refuse_running(model_name)


def _refuse_running(model_name: str) -> None:
    working = ErasureRun.objects.filter(model_name=model_name, state=RunState.RUNNING)
    if working.exists():
        cases = references(working.values_list("case_id", flat=True))
        raise WrongState(
            _("The run of %(reference)s works on %(model_name)s: wait until it has ended.")
            % {"reference": cases, "model_name": model_name}
        )


def locked_live(model_name: str) -> Manifest:
    live = Release.objects.select_for_update().filter(model_name=model_name, is_live=True).first()
    if live is None:
        raise NotFound(_("No release of %(model_name)s is in force.") % {"model_name": model_name})
    return read_manifest(bytes(live.manifest))


def locked_cases(case_ids: Sequence[UUID]) -> list[Case]:
    rows = Case.objects.select_for_update(no_key=True).filter(pk__in=case_ids)
    return list(rows.order_by("id"))
