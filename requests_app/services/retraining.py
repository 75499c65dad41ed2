"""Level *exact*: weights that were trained anew take the place of those that held the data.

What makes it exact is on what they were trained, so the record must hold it: a training gate's
report of that build, clear, with every case of the release on the suppression list before. The
weights of before go into quarantine. Nothing here can see a training; the limits say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import staff_actor
from requests_app.models import AuditEntry, Recheck, Release, StaffMember, SuppressionTag
from requests_app.models.people import Role
from requests_app.models.runs import Verdict
from requests_app.services import lineage
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.locking import require_role
from requests_app.services.manifests import EXACT, put_live, read_manifest, references
from requests_app.services.rechecks import queue_rechecks
from requests_app.services.releases import CaseFigures, lock_model, locked_cases, locked_live
from requests_app.verifier import canonical


@dataclass(frozen=True)
class TrainedOn:
    """What weights were trained on: SHA-256 of the training gate's report and of the build that it
    let pass, and of the registered weights that the training started from, empty for none."""

    gate_report: str
    build: str
    started_from: str = ""


@transaction.atomic
def register_retrained(
    *,
    model_name: str,
    manifest: bytes,
    plan_sha256: str,
    trained_on: TrainedOn,
    cases: Mapping[UUID, CaseFigures],
    actor_member: StaffMember,
) -> Release:
    """Put weights trained anew in force: every case in force before goes to the level exact, each
    measured on them within thresholds, without an adapter.

    The release that was live at the plan must still be, or WrongState. Raises Invalid when the
    report was not logged as clear, when a case is not on the suppression list, or when the training
    started from weights that had seen the data.
    """
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    new = read_manifest(manifest)
    rows = locked_cases(list(cases))
    lock_model(model_name)
    live = locked_live(model_name)
    if new.parent != live.digest:
        raise WrongState(_("Another release went live meanwhile. Measure again."))
    if new.adapters or set(new.merged) != live.cases or set(cases) != live.cases:
        raise Invalid(_("Give what was measured of exactly the cases in force, without adapters."))
    if any(found.verdict != Verdict.WITHIN for found in cases.values()):
        raise Invalid(_("A case fell short of its thresholds: it cannot be released so."))
    _check_training(trained_on, frozenset(cases))
    actor = staff_actor(actor_member)
    lineage.register_retrained(
        model_name=model_name,
        sha256=new.base_sha256,
        replaced=live.base_sha256,
        started_from=trained_on.started_from,
    )
    release = put_live(model_name, new)
    queued = queue_rechecks(release, Recheck.Reason.RELEASE, measured=list(cases))
    replaced = lineage.quarantine_replaced(sha256=live.base_sha256, actor=actor)
    common = {
        "model": model_name,
        "release": release.digest,
        "plan_sha256": plan_sha256,
        "base_sha256": new.base_sha256,
        "gate_report_sha256": trained_on.gate_report,
        "build_sha256": trained_on.build,
    }
    audit.append_entry(
        type="release.retrained",
        actor=actor.name,
        data={
            **common,
            "parent": live.digest,
            "replaced_sha256": live.base_sha256,
            "started_from_sha256": trained_on.started_from,
            "cases": len(cases),
        },
    )
    for case in rows:
        found = cases[case.id]
        audit.append_entry(
            type="case.retrained",
            actor=actor.name,
            case=case,
            data={
                **common,
                "level": EXACT,
                "adapter_sha256": "",
                "gate_sha256": "",
                "verdict": found.verdict,
                "estimates": {probe.probe: probe.as_estimates() for probe in found.probes},
            },
        )
    audit.append_entries([*replaced, queued])
    return release


def _check_training(trained_on: TrainedOn, cases: frozenset[UUID]) -> None:
    """Invalid unless the log holds a clear report about this very build, and all cases were on the
    list, with all their identifiers, before it was made."""
    report = AuditEntry.objects.filter(idem_key=f"training.gated/{trained_on.gate_report}").first()
    said = _data(report) if report else {}
    if report is None or said["verdict"] != "clear":
        raise Invalid(
            _(
                "The log holds no clear report of the training gate with this digest: run"
                " manage.py training_gate on the build, with --report."
            )
        )
    if said.get("build") != trained_on.build:
        raise Invalid(_("The report of the training gate is about another build."))
    listed = SuppressionTag.objects.filter(case_id__in=cases).values_list("case_id", flat=True)
    later = AuditEntry.objects.filter(
        type="suppression.changed", case_id__in=cases, seq__gt=report.seq
    )
    added = {row.case_id for row in later if row.case_id and _data(row)["added"]}
    if unknown := (cases - {*listed}) | added:
        raise Invalid(
            _(
                "Not on the suppression list when the gate looked: %(cases)s. It could not have"
                " found them: record their identifiers, run the gate again and train on what it"
                " lets pass."
            )
            % {"cases": references(unknown)}
        )


def _data(entry: AuditEntry) -> Mapping[str, Any]:
    body: Any = canonical.loads(bytes(entry.body), file="entry")
    found: Mapping[str, Any] = body["data"]
    return found
