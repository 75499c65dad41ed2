"""Level exact: weights trained anew take the place of others, if the log says on what."""

import hashlib
from typing import Any

import pytest

from requests_app import keys, vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import (
    AuditEntry,
    Case,
    ModelNode,
    Release,
    StaffMember,
    SuppressionTag,
)
from requests_app.models.runs import Verdict
from requests_app.services import cases, lineage, manifests, retraining, roll_backs
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.releases import CaseFigures
from requests_app.services.retraining import TrainedOn
from requests_app.services.training import record_gate
from requests_app.verifier import archive, canonical
from requests_app.verifier.checks import verify
from requests_app.verifier.trust import parse_trust
from tests import factories
from tests.requests_app import bundles

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("entries_last")]
BUILD = factories.digest("build")
NEW = factories.digest("new weights")
WITHIN = CaseFigures(Verdict.WITHIN, factories.PROBES)


def gate_report(envelope: bytes = b"clear", *, clear: bool = True) -> str:
    """A report of the training gate in the log, by its digest."""
    record_gate(envelope=envelope, training_set="", clear=clear, build=BUILD)
    return hashlib.sha256(envelope).hexdigest()


def retrained(engineer: StaffMember, **changes: Any) -> Release:
    """All cases in force carried to weights trained anew."""
    before = manifests.live_manifest("demo")
    assert before is not None
    values: dict[str, Any] = {
        "model_name": "demo",
        "manifest": factories.manifest_of(
            [], merged=[*before.cases], base=changes.pop("base", NEW), parent=before.digest
        ),
        "plan_sha256": factories.digest("plan"),
        "trained_on": changes.pop("trained_on", None) or TrainedOn(gate_report(), BUILD),
        "cases": dict.fromkeys(before.cases, WITHIN),
        "actor_member": engineer,
    }
    return retraining.register_retrained(**{**values, **changes})


def stated(case: Case) -> tuple[str, str, str, bool, str]:
    data = bundles.export(case)
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    result = verify(data, trust=trust)
    said = bundles.statement_of(archive.read_archive(data), "statement.dsse.json")
    claim = said["predicate"]["claim"]
    limits = " ".join(result.limitations)
    return (
        result.claim,
        claim["level"],
        claim["scope"],
        claim["baseModelUnchanged"],
        "what the weights were trained on" if "what the weights were trained on" in limits else "",
    )


def test_cases_go_to_exact_and_bundle_and_log_say_on_what_the_weights_were_trained(
    engineer: StaffMember,
) -> None:
    case = factories.completed_case()
    before = manifests.live_manifest("demo")
    assert before is not None
    release = retrained(engineer)
    assert manifests.level_of(case.id, "demo") == "exact"
    assert manifests.live_base("demo") == NEW
    entry = AuditEntry.objects.get(type="case.retrained")
    said: Any = canonical.loads(bytes(entry.body))
    said = said["data"]
    assert (said["level"], said["build_sha256"]) == ("exact", BUILD)
    assert said["gate_report_sha256"] == gate_report()
    node = ModelNode.objects.get(pk=NEW)
    assert (node.kind, list(node.parents.all())) == ("retrained", [])
    assert node.replaces is not None
    assert node.replaces.pk == before.base_sha256
    assert node.replaces.quarantine_reason == "replaced"
    assert stated(case) == (
        "exact-by-construction",
        "exact",
        "served-weights",
        False,
        "what the weights were trained on",
    )
    roll_backs.roll_back_release(
        digest=before.digest, reason="fault", actor_member=factories.make_staff("approver")
    )
    assert stated(case)[:2] == ("suppression-measured", "gated")
    assert release.digest != before.digest


def test_the_answer_names_the_level_and_what_it_rests_on(
    engineer: StaffMember, officer: StaffMember
) -> None:
    case = factories.responding_case()
    retrained(engineer)
    case.refresh_from_db()
    assert case.status == CaseStatus.RESPONDING
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    text = " ".join(vault.get(case, f"letter/{letter.pk}").split())
    assert "Level of this measure: exact." in text
    assert "as far as the records that we found were all there were" in text


def test_a_later_case_is_gated_on_the_new_weights(engineer: StaffMember) -> None:
    first = factories.responding_case()
    retrained(engineer)
    second = factories.responding_case()
    assert manifests.level_of(first.id, "demo") == "exact"
    assert manifests.level_of(second.id, "demo") == "gated"


def test_what_is_not_shown_is_not_released(engineer: StaffMember) -> None:
    case, other = factories.responding_case(), factories.responding_case()
    before = manifests.live_manifest("demo")
    assert before is not None
    lineage.register_model(
        name="copy",
        kind="quantised",
        sha256=factories.digest("copy"),
        parents=[before.base_sha256],
        actor_member=engineer,
    )
    clear, found = gate_report(), gate_report(b"found", clear=False)
    short = CaseFigures(Verdict.NOT_MET, factories.PROBES)
    alone = factories.manifest_of([], merged=[case.id], base=NEW, parent=before.digest)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"trained_on": TrainedOn(found, BUILD)}, "no clear report"),
        ({"trained_on": TrainedOn("0" * 64, BUILD)}, "no clear report"),
        ({"trained_on": TrainedOn(clear, "build.jsonl")}, "about another build"),
        ({"trained_on": TrainedOn(clear, factories.digest("other"))}, "about another build"),
        ({"trained_on": TrainedOn(clear, BUILD, before.base_sha256)}, "had seen the data"),
        ({"trained_on": TrainedOn(clear, BUILD, factories.digest("copy"))}, "had seen the data"),
        ({"trained_on": TrainedOn(clear, BUILD, "1" * 64)}, "not registered"),
        ({"base": before.base_sha256}, "not new"),
        ({"cases": {case.id: WITHIN, other.id: short}}, "fell short"),
        ({"manifest": alone, "cases": {case.id: WITHIN}}, "exactly the cases in force"),
    ]
    for changes, why in refused:
        with pytest.raises(Invalid, match=why):
            retrained(engineer, **changes)
    SuppressionTag.objects.filter(case_id=other.id).delete()
    with pytest.raises(Invalid, match=f"when the gate looked: {other.reference}"):
        retrained(engineer)
    late = factories.responding_case()
    with pytest.raises(Invalid, match=late.reference):  # listed after the gate looked
        retrained(engineer, trained_on=TrainedOn(clear, BUILD))
    before = manifests.live_manifest("demo")
    assert before is not None
    stale = factories.manifest_of([], merged=[*before.cases], base=NEW, parent="c" * 64)
    with pytest.raises(WrongState, match="Another release"):
        retrained(engineer, manifest=stale)
    assert manifests.live_manifest("demo") == before
    assert not AuditEntry.objects.filter(type="release.retrained").exists()
