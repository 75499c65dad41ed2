"""The report of a case, for lawyers, screen readers and archives, and the JSON inside it."""

import json
import re
import shutil
import subprocess
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from django.utils import timezone
from jsonschema import Draft202012Validator

from requests_app import dossier, exports, report
from requests_app.actors import SUBJECT
from requests_app.exports import evidence_json
from requests_app.models import Case, ErasureRun
from requests_app.models.people import Role
from requests_app.models.runs import Verdict
from requests_app.services import cases, intake, manifests, releases, runs
from requests_app.services.decisions import ScopeResult
from requests_app.services.letter_texts import spell_date
from requests_app.verifier import archive
from tests import factories
from tests.requests_app import bundles
from tests.requests_app.test_exports import CASES

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def pdf_of(case: Case) -> bytes:
    return exports.load("report_pdf").render(dossier.gather(case))


def told_of(case: Case) -> dict[str, Any]:
    return report.tell(dossier.gather(case))


AGAIN = timezone.localdate() + timedelta(days=90)


def partly_granted_case() -> Case:
    """One model erased, one data store kept for legal claims."""
    case = factories.case_in_review(scope=("model:demo", "data_store:invoices"))
    results = {
        item.pk: ScopeResult("erase")
        if item.kind == "model"
        else ScopeResult("keep", "17-3-e", "A canary claim is pending.", review_on=AGAIN)
        for item in case.scope_items.all()
    }
    cases.propose_decision(
        case_id=case.id,
        outcome="partly_granted",
        grounds=["17-1-b", "17-1-d"],
        reasoning="Invoices are kept for the canary claim.",
        scope_results=results,
        actor_member=factories.make_staff(Role.OFFICER),
    )
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff(Role.APPROVER))
    factories.work_off(case.runs.get())
    return Case.objects.get(pk=case.pk)


# --- The PDF ------------------------------------------------------------------------------------
def test_the_pdf_says_that_it_is_built_to_pdf_a_3a_and_pdf_ua_1() -> None:
    case = factories.completed_case()
    with pikepdf.open(BytesIO(pdf_of(case))) as pdf:
        with pdf.open_metadata() as xmp:
            assert (xmp["pdfaid:part"], xmp["pdfaid:conformance"]) == ("3", "A")
            assert xmp["pdfuaid:part"] == "1"
            assert case.reference in xmp["dc:title"]
        assert pdf.Root.MarkInfo.Marked
        assert str(pdf.Root.Lang) == "en"
        assert pdf.Root.ViewerPreferences.DisplayDocTitle


def test_the_pdf_has_headings_tables_lists_and_a_described_figure_as_tags() -> None:
    with pikepdf.open(BytesIO(pdf_of(factories.completed_case()))) as pdf:
        found = tags(pdf.Root.StructTreeRoot)
        assert {"/Title", "/H1", "/H2", "/P", "/L", "/LI", "/Table", "/TH", "/TD"} <= set(found)
        assert [str(figure.Alt) for figure in found["/Figure"]] == [
            "The one value with a threshold is within it"
        ]


@pytest.mark.parametrize("kind", CASES)
def test_the_json_inside_the_pdf_is_the_evidence_export_byte_for_byte(kind: str) -> None:
    gathered = dossier.gather(CASES[kind]())
    with pikepdf.open(BytesIO(exports.load("report_pdf").render(gathered))) as pdf:
        (attached,) = pdf.attachments.values()
        assert attached.filename == "evidence.json"
        assert attached.relationship == pikepdf.Name.Data
        assert attached.get_file().mime_type == "application/json"
        assert attached.get_file().read_bytes() == evidence_json.render(gathered)
        assert len(pdf.Root.AF) == 1  # associated with the document, as PDF/A-3 asks


def test_the_pdf_is_the_same_for_the_same_record() -> None:
    case = factories.responding_case()
    assert pdf_of(case) == pdf_of(case)


@pytest.mark.parametrize("kind", CASES)
def test_the_first_page_is_a_summary_in_plain_words(kind: str) -> None:
    """Without a text extractor: the outline says on which page each heading stands."""
    with pikepdf.open(BytesIO(pdf_of(CASES[kind]()))) as pdf, pdf.open_outline() as outline:
        places = [item.destination[0] for item in outline.root]
        titles = [item.title for item in outline.root]
        pages = [pikepdf.Page(place).index for place in places]
    assert titles[0] == "In short"
    assert len(titles) == 9
    assert pages[:2] == [0, 1]


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="poppler's tools are not installed")
@pytest.mark.parametrize("kind", ["succeeded", "not_met", "refused"])
def test_the_text_of_the_pdf_can_be_read_and_claims_no_more_than_suppression(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(pdf_of(CASES[kind]()))

    def text(*pages: str) -> str:
        command = ["pdftotext", "-enc", "UTF-8", *pages, str(path), "-"]
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
        return " ".join(done.stdout.decode().split())

    first, whole = text("-l", "1"), text()
    assert "In short" in first
    assert "What this does not show" in first
    assert "What this document shows" not in first
    assert "7. What this document does not show" in whole
    assert "(L3) It does not show that the recorded inputs were truthful" in whole
    assert "Art. 17(1)" in whole
    for word in ("guaranteed", "certified", "compliant", "deleted", "irreversible"):
        assert word not in whole.lower()
    for canary in factories.CANARIES:
        assert canary.lower() not in whole.lower()


# --- What it tells ------------------------------------------------------------------------------
def test_the_report_gives_grounds_and_exemptions_by_article() -> None:
    told = told_of(partly_granted_case())
    decided = told["decided"]
    assert decided["grounds"] == [
        "Art. 17(1)(b) consent withdrawn",
        "Art. 17(1)(d) unlawful processing",
    ]
    assert {(item["name"], item["result"], item["exemption"]) for item in decided["scope"]} == {
        ("Model “demo”", "Erase", ""),
        (
            "Data store “invoices”",
            "Keep, exemption applies",
            f"Art. 17(3)(e) legal claims, looked at again on {spell_date(AGAIN)}",
        ),
    }
    assert decided["outcome"] == "Partly granted"
    assert told["asked"]["scope"] == ["Model “demo”", "Data store “invoices”"]
    assert told["asked"]["answered_on"] == ""


@pytest.mark.parametrize(
    ("outcome", "article"), [("cannot_identify", "Art. 11(2)"), ("excessive", "Art. 12(5) GDPR: ")]
)
def test_the_report_names_the_article_where_nothing_was_decided_about_the_data(
    outcome: str, article: str
) -> None:
    case = factories.propose(factories.case_in_review(), outcome=outcome)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff(Role.APPROVER))
    told = told_of(case)
    assert told["decided"]["basis"].startswith(article)
    assert told["runs"] == []


def test_the_report_speaks_of_the_law_that_the_case_was_opened_under() -> None:
    opened = intake.open_case(
        intake=factories.make_intake(),
        received_at=timezone.now(),
        channel="form",
        actor=SUBJECT,
        region="CA",
    )
    told = told_of(opened.case)
    assert told["asked"]["law"] == "11 CCR § 7021"
    assert "Attorney General" in dict(told["in_short"])["Rights of the person"]
    assert pdf_of(opened.case).startswith(b"%PDF")


def test_staff_are_told_by_role_and_nobody_by_pseudonym() -> None:
    case = factories.completed_case()
    text = exports.load("report_html").render(dossier.gather(case)).decode()
    assert "Case officer, " in text
    actors = {event.body["actor"] for event in dossier.gather(case).events}
    pseudonyms = [actor.partition(":")[2] for actor in actors if actor.startswith("o")]
    assert pseudonyms
    assert not [pseudonym for pseudonym in pseudonyms if pseudonym in text]


def test_the_summary_has_no_figures_about_others_and_says_what_is_not_shown() -> None:
    parts = dict(told_of(factories.completed_case())["in_short"])
    measured = parts["What was measured"]
    assert "of 48 questions" in measured
    assert "93.8\u00a0% before and 2.1\u00a0% after" in measured
    assert "96" not in measured
    assert "Suppressed is not removed" in parts["What this does not show"]
    assert "Art. 77" in parts["Rights of the person"]


def test_the_summary_has_the_last_attempt_only_and_names_the_articles() -> None:
    parts = dict(told_of(CASES["not_met"]())["in_short"])
    assert parts["What was measured"].count("of 48 questions") == 1
    assert "It rests on: Art. 17(1)(a) no longer necessary." in parts["What was decided"]
    refusal = dict(told_of(CASES["refused"]())["in_short"])["What was decided"]
    assert "It rests on: Art. 17(3)(e) legal claims" in refusal


def test_every_fingerprint_of_the_report_is_in_its_list() -> None:
    told = told_of(factories.completed_case())
    listed = {digest for _, digest in told["fingerprints"]}
    (run,) = told["runs"]
    assert {run["adapter"][key] for key in ("sha256", "gate_sha256", "base_sha256")} <= listed
    assert {run["protocol"]["sha256"], run["release"]} <= listed


def test_what_could_not_be_measured_is_listed_with_its_reason() -> None:
    case = factories.completed_case()
    ErasureRun.objects.update(
        evidence={"reasons": ["too few"], "not_measured": {"leak": "the base gives no numbers"}}
    )
    text = exports.load("report_html").render(dossier.gather(case)).decode()
    assert "Could not be measured: leak: the base gives no numbers." in text
    assert pdf_of(case).startswith(b"%PDF")


def test_a_long_figure_stays_on_its_page() -> None:
    """Thirty deciding probes are drawn in one figure that must not be cut off at the page's end."""
    case = factories.executing_case()
    lease = factories.take_lease(case.runs.get())
    runs.record_protocol(lease, protocol=factories.PROTOCOL)
    rows = [
        runs.ProbeRow(f"probe_{i}", "Does it tell?", 40, "1", "0", "0", "0.1", "0.2", holds=True)
        for i in range(30)
    ]
    runs.record_evidence(lease, evidence={}, verdict=Verdict.INCONCLUSIVE, probes=rows)
    with pikepdf.open(BytesIO(pdf_of(case))) as pdf:
        (figure,) = tags(pdf.Root.StructTreeRoot)["/Figure"]
        (bottom,) = [float(each.BBox[1]) for each in figure.A if "/BBox" in each]
    assert bottom > 50  # points above the edge of the paper


def tags(node: pikepdf.Object) -> dict[str, list[pikepdf.Object]]:
    """The structure elements of a tagged PDF by their kind."""
    found: dict[str, list[pikepdf.Object]] = {}
    children = [node] if isinstance(node, pikepdf.Dictionary) else list(node)
    for child in children:
        if not isinstance(child, pikepdf.Dictionary):
            continue
        if "/S" in child:
            found.setdefault(str(child.S), []).append(child)
        if isinstance(below := child.get("/K"), pikepdf.Dictionary | pikepdf.Array):
            for kind, elements in tags(below).items():
                found.setdefault(kind, []).extend(elements)
    return found


# --- Schemas ------------------------------------------------------------------------------------
def schema(name: str) -> Draft202012Validator:
    content = json.loads((exports.load("bundle").SCHEMAS / f"{name}.json").read_text())  # type: ignore[attr-defined]
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content, format_checker=Draft202012Validator.FORMAT_CHECKER)


def merged_case() -> Case:
    case = factories.completed_case()
    live = manifests.live_manifest("demo")
    assert live is not None
    releases.register_consolidation(
        model_name="demo",
        manifest=factories.manifest_of(
            [], merged=[case.id], base=factories.digest("new"), parent=live.digest
        ),
        plan_sha256=factories.digest("plan"),
        retained="registered",
        cases={case.id: releases.CaseFigures(Verdict.WITHIN, factories.PROBES)},
        actor_member=factories.make_staff(Role.ENGINEER),
    )
    return case


def revoked_case() -> Case:
    case = factories.completed_case()
    releases.propose_revocation(
        case_id=case.id, cause="appeal", actor_member=factories.make_staff(Role.OFFICER)
    )
    releases.revoke_case(case_id=case.id, actor_member=factories.make_staff(Role.APPROVER))
    return case


KINDS = {**CASES, "partly": partly_granted_case, "merged": merged_case, "revoked": revoked_case}


@pytest.mark.parametrize("kind", KINDS)
def test_real_exports_fit_the_schemas_that_go_with_them(kind: str) -> None:
    files = archive.read_archive(bundles.export(KINDS[kind]()))
    case = Case.objects.get()
    content = json.loads(exports.load("evidence_json").render(dossier.gather(case)))
    schema(content["schema"]).validate(content)
    predicate = bundles.statement_of(files, "statement.dsse.json")["predicate"]
    schema("unlearning-evidence.v1").validate(predicate)
    for name, data in files.items():
        if re.fullmatch(r"events/\d+\.json", name):
            schema("audit-entry.v1").validate(json.loads(data))


@pytest.mark.parametrize(
    "broken",
    [
        {"schema": "evidence-export.v2"},
        {"due": "soon"},
        {"events": []},
        {"claim": {"name": "proven", "says": "It is gone."}},
        {"more": 1},
    ],
)
def test_the_schema_of_the_evidence_refuses_what_is_none(broken: dict[str, object]) -> None:
    content = json.loads(exports.load("evidence_json").render(dossier.gather(refused())))
    assert schema("evidence-export.v1").is_valid(content)
    assert not schema("evidence-export.v1").is_valid({**content, **broken})


def refused() -> Case:
    return CASES["refused"]()
