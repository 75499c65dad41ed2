"""Every export of a case, for every kind of case: honest, complete, without personal data."""

import json

import pytest
from django.core.management import CommandError, call_command

from requests_app import dossier, exports, report
from requests_app.actors import SYSTEM
from requests_app.models import AuditEntry, Case, ProbeResult
from requests_app.models.runs import Verdict
from requests_app.services import cases, clock, runs
from requests_app.verifier import archive
from tests import factories
from tests.requests_app import bundles

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("entries_last")]


def failed_case() -> Case:
    case = factories.executing_case()
    run = case.runs.get()
    lease = factories.take_lease(run)
    runs.record_protocol(lease, protocol=factories.protocol(run))
    runs.fail_run(lease, error="out_of_memory")
    return case


def case_with_nothing_to_measure() -> Case:
    case = factories.executing_case()
    run = case.runs.get()
    lease = factories.take_lease(run)
    nothing = {"nothing_measurable": True, "run": str(run.id), "environment": {}}
    runs.record_evidence(lease, evidence=nothing, verdict=Verdict.INCONCLUSIVE, probes=())
    runs.finish_run(lease)
    return case


def refused_case() -> Case:
    case = factories.propose(factories.case_in_review(), outcome="refused")
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    return case


CASES = {
    "succeeded": factories.completed_case,
    "not_met": lambda: factories.responding_case(verdict=Verdict.NOT_MET),
    "failed": failed_case,
    "nothing": case_with_nothing_to_measure,
    "refused": refused_case,
}


def test_the_first_bundle_is_ready_with_the_next_checkpoint() -> None:
    """The attest key is new here; making it known must not need a checkpoint of its own."""
    case = factories.completed_case()
    bundles.prepare(case)
    bundles.sign()
    assert exports.load("bundle").render(dossier.gather(case))


@pytest.mark.parametrize("name", exports.names("case"))
@pytest.mark.parametrize("kind", CASES)
def test_an_export_holds_the_record_of_the_case_and_no_personal_data(name: str, kind: str) -> None:
    case = CASES[kind]()
    bundles.export(case)
    module = exports.load(name)
    data = module.render(dossier.gather(case))
    assert module.TITLE
    assert "/" in module.CONTENT_TYPE
    assert str(case.id).encode() in data or case.reference.encode() in data
    for canary in factories.CANARIES:
        assert canary.lower().encode() not in data.lower()
    assert data == module.render(dossier.gather(case))
    assert exports.file_name(name, dossier.gather(case)).startswith(case.reference)


@pytest.mark.parametrize("name", exports.names("case"))
def test_no_export_claims_more_than_suppression(name: str) -> None:
    case = factories.completed_case()
    bundles.export(case)
    data = exports.load(name).render(dossier.gather(case)).lower()
    for word in (b"guaranteed", b"certified", b"compliant", b"deleted", b"irreversible"):
        assert word not in data


def test_an_unknown_export_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        exports.UnknownExport, match="bundle, evidence_json, report_html, report_pdf"
    ):
        exports.load("nothing")


def test_the_json_export_carries_the_figures_as_they_were_logged() -> None:
    case = factories.completed_case()
    content = json.loads(exports.load("evidence_json").render(dossier.gather(case)))
    (run,) = content["runs"]
    assert content["claim"]["name"] == "suppression-measured"
    assert run["figures"]["estimates"]["unseen"]["after"] == "0.0208"
    assert run["evidence"]["probes"]["unseen"]["after"] == "0.0208"
    assert run["protocol"]["logged_at"] < run["adapter"]["logged_at"] < run["figures"]["logged_at"]
    assert [event["case_seq"] for event in content["events"]] == list(range(len(content["events"])))


def test_the_report_names_the_limits_and_what_was_measured() -> None:
    case = factories.completed_case()
    text = exports.load("report_html").render(dossier.gather(case)).decode()
    assert "Does it tell in new wording?" in text
    assert "0.1253" in text
    assert "<figcaption>The one value with a threshold is within it</figcaption>" in text
    assert 'data-probe="unseen"' in text
    assert "style=" not in text
    assert "(L1) It is not proof" in text
    assert "Measured suppression within thresholds" in text


@pytest.mark.parametrize("holds", [True, False, None])
def test_the_figure_of_a_report_can_be_typeset_whatever_was_found(holds: bool | None) -> None:
    case = factories.completed_case()
    ProbeResult.objects.update(holds=holds)
    pdf = exports.load("report_pdf").render(dossier.gather(case))
    assert pdf.startswith(b"%PDF")


def test_a_bundle_waits_for_its_export_entry_and_for_the_signer() -> None:
    case = factories.completed_case()
    with pytest.raises(dossier.BundleNotReady, match="Prepare"):
        exports.load("bundle").render(dossier.gather(case))
    bundles.prepare(case)
    with pytest.raises(dossier.BundleNotReady, match="signer"):
        exports.load("bundle").render(dossier.gather(case))
    bundles.sign()
    assert exports.load("bundle").render(dossier.gather(case)).startswith(b"PK")


def test_no_bundle_carries_a_proof_that_does_not_lead_to_the_signed_root() -> None:
    case = factories.completed_case()
    bundles.export(case)
    AuditEntry.objects.filter(seq=7).update(nodes=b"\x01" * 96)
    with pytest.raises(dossier.BundleNotReady, match="verify_log"):
        dossier.as_exported(dossier.gather(case))
    AuditEntry.objects.filter(seq=7).update(nodes=None)
    with pytest.raises(dossier.BundleNotReady, match="verify_log"):
        dossier.as_exported(dossier.gather(case))


def test_a_bundle_has_the_same_bytes_after_more_has_happened() -> None:
    case = factories.responding_case()
    first = bundles.export(case)
    cases.send_answer(case_id=case.id, actor_member=factories.make_staff("officer"))
    bundles.sign()
    assert exports.load("bundle").render(dossier.gather(case)) == first
    assert bundles.export(case) != first


def test_a_bundle_keeps_the_due_date_of_its_day_when_the_period_is_extended_later() -> None:
    case = factories.case_in_review()
    first = bundles.export(case)
    clock.extend_case(
        case_id=case.id,
        cause="complexity",
        reasons="Three models have to be searched, each of them by an erasure run of its own.",
        done="The customer records were found and are no longer used for training.",
        actor_member=factories.make_staff("officer"),
    )
    bundles.sign()
    extended = Case.objects.get(pk=case.pk)
    assert extended.due > case.due
    gathered = dossier.gather(extended)
    assert exports.load("bundle").render(gathered) == first
    due = json.loads(exports.load("evidence_json").render(gathered))["due"]
    assert due == extended.due.isoformat()
    assert report.tell(gathered)["asked"]["extended"].endswith("the complexity of the request")


def test_a_bundle_holds_the_listed_files_and_no_weights() -> None:
    files = archive.read_archive(bundles.export(factories.completed_case()))
    assert {
        "README.txt",
        "report.html",
        "statement.dsse.json",
        "test-result.dsse.json",
        "events/0000.json",
        "events/0000.tlog-proof",
        "log/checkpoint",
        "log/consistency.json",
        "eval/protocol.json",
        "eval/metrics.json",
        "eval/config.json",
        "eval/environment.json",
        "keys/trust.txt",
        "schemas/audit-entry.v1.json",
        "schemas/unlearning-evidence.v1.json",
    } <= set(files)
    assert not [name for name in files if name.endswith((".safetensors", ".bin", ".pt"))]
    assert json.loads(files["eval/metrics.json"])["probes"]["unseen"]["after"] == "0.0208"


def test_earlier_runs_of_a_case_stay_in_its_bundle() -> None:
    case = factories.executing_case()
    earlier = case.runs.get()
    factories.work_off(earlier, verdict=Verdict.NOT_MET)
    factories.work_off(case.runs.get(number=2))
    files = archive.read_archive(bundles.export(case))
    assert f"eval/{earlier.id}/metrics.json" in files
    assert f"eval/{earlier.id}/test-result.dsse.json" in files
    assert "eval/metrics.json" in files


def test_the_command_writes_the_bundle_and_says_when_it_cannot(tmp_path) -> None:
    case = factories.completed_case()
    with pytest.raises(CommandError, match="There is no case"):
        call_command("bundle", "ERQ-0000-000000", str(tmp_path / "x.zip"))
    with pytest.raises(CommandError, match="Prepare"):
        call_command("bundle", case.reference, str(tmp_path / "x.zip"))
    expected = bundles.export(case)
    call_command("bundle", case.reference, str(tmp_path / "x.zip"))
    assert (tmp_path / "x.zip").read_bytes() == expected


def test_a_sealed_case_still_has_its_bundle() -> None:
    case = factories.completed_case()
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    bundles.sign()
    with pytest.raises(dossier.BundleNotReady):  # the attest key was made known only now
        exports.load("bundle").render(dossier.gather(case))
    bundles.sign()
    data = exports.load("bundle").render(dossier.gather(case))
    assert b'"type":"case.sealed"' in data
