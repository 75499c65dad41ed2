"""Exports of the whole record and of releases: what each level may show, and what it must not."""

import csv
import hashlib
import json
import re
from datetime import date, timedelta
from io import StringIO
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from requests_app import dossier, exports, extract, spreadsheets
from requests_app.extract import Extract
from requests_app.models import AuditEntry, Case, LogHead, Release, StaffMember
from requests_app.models.exports import Level
from requests_app.models.people import Role
from requests_app.services import cases
from requests_app.verifier import merkle, notes
from tests import factories
from tests.requests_app import bundles
from tests.requests_app.trees import Tree

pytestmark = [pytest.mark.django_db, pytest.mark.database]

OFFERED = [
    (name, level)
    for name in exports.names(exports.RECORD, exports.RELEASE)
    for level in exports.load_job(name).LEVELS
]
SOME_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def taken(level: Level = Level.AUTHORITY, **changes: Any) -> Extract:
    """An extract of everything there is."""
    today = timezone.localdate()
    values: dict[str, Any] = {
        "level": level,
        "first": today - timedelta(days=400),
        "last": today,
        "made_on": today,
    }
    live = Release.objects.filter(is_live=True).first()
    release = extract.release_parts(live) if live else None
    return Extract(**{**values, "release": release, **changes})


def made(name: str, source: Extract) -> bytes:
    return b"".join(exports.load_job(name).render(source))


def told(name: str, source: Extract) -> Any:
    return json.loads(made(name, source))


def pseudonyms() -> list[str]:
    return [str(each) for each in StaffMember.objects.values_list("pseudonym", flat=True)]


# --- Every export, at every level ---------------------------------------------------------------
@pytest.mark.parametrize(("name", "level"), OFFERED)
def test_no_export_of_the_record_holds_personal_data_or_more_than_its_level_allows(
    name: str, level: Level
) -> None:
    case = factories.completed_case()
    factories.propose(factories.case_in_review(), outcome="refused")
    module = exports.load_job(name)
    text = made(name, taken(level)).decode()
    assert module.TITLE
    assert "/" in module.CONTENT_TYPE
    for canary in factories.CANARIES:
        assert canary.lower() not in text.lower()
    if level != Level.INTERNAL:
        assert not [each for each in pseudonyms() if each in text]
    if level == Level.PUBLIC:
        assert case.reference not in text
        assert str(case.id) not in text
        assert not SOME_DAY.findall(text)


@pytest.mark.parametrize(("name", "level"), OFFERED)
def test_an_export_of_an_empty_period_is_whole_and_says_so(name: str, level: Level) -> None:
    factories.completed_case()
    long_ago = date(2001, 1, 1)
    text = made(name, taken(level, first=long_ago, last=long_ago)).decode()
    assert text.endswith(("\n", ">"))
    if name.endswith("json"):
        json.loads(text)


@pytest.mark.parametrize("name", exports.names(exports.RECORD, exports.RELEASE))
def test_no_export_of_the_record_claims_more_than_suppression(name: str) -> None:
    factories.completed_case()
    for level in exports.load_job(name).LEVELS:
        text = made(name, taken(level)).lower()
        for word in (b"guaranteed", b"certified", b"compliant", b"irreversible", b"proven"):
            assert word not in text


def test_an_export_of_a_case_is_none_of_the_record() -> None:
    with pytest.raises(exports.UnknownExport, match="statistics_json"):
        exports.load_job("bundle")
    with pytest.raises(exports.UnknownExport, match="bundle"):
        exports.load("register_csv")


# --- Register -----------------------------------------------------------------------------------
def refused_case() -> Case:
    case = factories.propose(factories.case_in_review(), outcome="refused")
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff(Role.APPROVER))
    return cases.send_answer(case_id=case.id, actor_member=factories.make_staff(Role.OFFICER)).case


def test_the_register_has_one_line_a_case_with_date_manner_answer_and_basis() -> None:
    granted, refused = factories.completed_case(), refused_case()
    rows = {row["reference"]: row for row in told("register_json", taken())}
    assert list(rows) == [granted.reference, refused.reference]
    row = rows[refused.reference]
    today = timezone.localdate().isoformat()
    assert (row["received_on"], row["channel"], row["answered_on"]) == (today, "form", today)
    assert (row["outcome"], row["exemptions"]) == ("refused", ["17-3-e"])
    assert (row["proposed_by"], row["approved_by"]) == ("officer", "approver")
    assert (row["days_to_answer"], row["late"]) == (0, False)
    assert rows[granted.reference]["verdicts"] == ["demo: within_thresholds"]
    assert rows[granted.reference]["grounds"] == ["17-1-a"]


def test_staff_are_named_by_pseudonym_inside_the_house_only() -> None:
    factories.completed_case()
    inside = told("register_json", taken(Level.INTERNAL))[0]
    assert inside["proposed_by"].partition(":")[2] in pseudonyms()


def test_the_csv_says_what_the_json_says() -> None:
    factories.completed_case()
    refused_case()
    lines = list(csv.DictReader(StringIO(made("register_csv", taken()).decode(), newline="")))
    for line, row in zip(lines, told("register_json", taken()), strict=True):
        assert line["reference"] == row["reference"]
        assert line["days_to_answer"] == str(row["days_to_answer"])
        assert line["late"] == "no"
        assert line["exemptions"] == "; ".join(row["exemptions"])
    assert lines[1]["scope"].startswith("model demo keep 17-3-e 20")


def test_only_cases_received_in_the_period_are_in_the_register() -> None:
    old = factories.open_case(received_at=timezone.now() - timedelta(days=70)).case
    factories.open_case()
    first, last = old.received_on, old.received_on
    assert [r["reference"] for r in told("register_json", taken(first=first, last=last))] == [
        old.reference
    ]


def test_a_reopened_case_keeps_the_day_of_its_first_answer() -> None:
    case = factories.completed_case()
    Case.objects.filter(pk=case.pk).update(completed_at=timezone.now() + timedelta(days=50))
    assert told("register_json", taken())[0]["days_to_answer"] == 0


def test_the_register_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        factories.open_case()
    monkeypatch.setattr(extract, "PAGE", 2)
    heard: list[tuple[int, int]] = []
    source = taken(watch=lambda done, total: heard.append((done, total)))
    references = [row["reference"] for row in told("register_json", source)]
    assert references == sorted(Case.objects.values_list("reference", flat=True))
    assert heard == [(2, 5), (4, 5), (5, 5)]


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_no_cell_is_read_as_a_formula_and_no_text_makes_a_further_cell(cells: list[str]) -> None:
    line = spreadsheets.line(cells).decode()
    (found,) = csv.reader(StringIO(line, newline=""))
    assert [cell.removeprefix("'") for cell in found] == [cell.removeprefix("'") for cell in cells]
    for cell in found:
        assert not cell.lstrip().startswith(tuple("=+-@＝＋－＠\t\r\n\0"))  # noqa: RUF001
        assert not cell.startswith(("\t", "\r", "\n"))
    assert line.startswith('"')
    assert line.endswith('"\r\n')


def test_a_system_named_like_a_formula_is_inert_in_the_register() -> None:
    case = factories.open_case().case
    case.scope_items.update(target='=HYPERLINK("http://evil.example")', kind="-1+1")
    line = made("register_csv", taken()).decode().splitlines()[1]
    (cells,) = csv.reader([line])
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert any(cell.startswith("'-1+1 =HYPERLINK") for cell in cells)


# --- Audit log ----------------------------------------------------------------------------------
def lines_of(source: Extract) -> list[dict[str, Any]]:
    return [json.loads(line) for line in made("audit_log", source).decode().splitlines()]


def test_inside_the_exact_entries_make_the_signed_root() -> None:
    factories.completed_case()
    bundles.sign()
    head, *entries = lines_of(taken(Level.INTERNAL))
    assert head["exact"] is True
    leaves = [merkle.leaf_hash(entry["body"].encode()) for entry in entries]
    assert [leaf.hex() for leaf in leaves] == [entry["leaf"] for entry in entries]
    assert [entry["seq"] for entry in entries] == list(range(LogHead.objects.get().size))
    size, root = head["checkpoint"].splitlines()[1:3]
    assert notes.encode(Tree(leaves[: int(size)]).root()) == root


def test_an_authority_sees_roles_and_the_leaf_of_the_exact_entry() -> None:
    factories.completed_case()
    _, *entries = lines_of(taken(Level.AUTHORITY))
    actors = {json.loads(entry["body"])["actor"] for entry in entries}
    assert {"officer", "approver", "subject", "system:worker"} <= actors
    stored = dict(AuditEntry.objects.values_list("seq", "leaf_hash"))
    for entry in entries:
        assert entry["leaf"] == bytes(stored[entry["seq"]]).hex()
        exact = hashlib.sha256(b"\0" + entry["body"].encode()).hexdigest() == entry["leaf"]
        assert exact == (json.loads(entry["body"])["actor"] not in ("officer", "approver"))


def test_the_public_sees_leaf_hashes_alone() -> None:
    factories.completed_case()
    _, *entries = lines_of(taken(Level.PUBLIC))
    assert {tuple(entry) for entry in entries} == {("seq", "leaf")}


def test_only_entries_of_the_period_are_exported() -> None:
    factories.completed_case()
    yesterday = timezone.now().date() - timedelta(days=1)
    assert len(lines_of(taken(Level.INTERNAL, last=yesterday))) == 1


# --- Record of processing -----------------------------------------------------------------------
def test_the_record_of_processing_names_what_article_30_asks_for() -> None:
    text = made("record_of_processing", taken()).decode()
    for part in ("(a) Controller", "(b) Purposes", "(c) Personal data", "(d) Recipients"):
        assert part in text
    for part in ("(e) Third countries", "(f) Time limits", "(g) Security", "to be completed"):
        assert part in text
    assert "Example Controller Ltd" in text
    assert "24 hours" in text
    assert "15 minutes" in text
    assert "7 days" in text
    assert "90 days after its end" in text
    assert "at least 36 months (European Union)" in text


def test_every_table_with_personal_data_is_in_the_record_of_processing() -> None:
    text = made("record_of_processing", taken()).decode()
    for name in ("Staff member", "Vault item", "Draft", "Adapter", "Audit opening"):
        assert f'<th scope="row">{name}</th>' in text
    assert "Checkpoint" not in text


# --- Bill of materials --------------------------------------------------------------------------
def test_the_bill_of_materials_names_base_adapters_and_gates_by_digest() -> None:
    first, second = factories.completed_case(), factories.completed_case()
    bom = told("model_bom", taken())
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    live = Release.objects.get(is_live=True)
    whole = bom["metadata"]["component"]
    assert (whole["type"], whole["name"]) == ("machine-learning-model", "demo")
    assert whole["hashes"] == [{"alg": "SHA-256", "content": live.digest}]
    models = [each for each in bom["components"] if each["type"] == "machine-learning-model"]
    adapters = {run.adapter.sha256 for case in (first, second) for run in case.runs.all()}
    assert {each["hashes"][0]["content"] for each in models} == adapters | {
        factories.digest("base")
    }
    assert {each["name"] for each in models} == {"demo", *(f"sha256:{each}" for each in adapters)}
    gates = {run.adapter.gate_sha256 for case in (first, second) for run in case.runs.all()}
    assert gates <= {each["hashes"][0]["content"] for each in bom["components"]}
    for case in (first, second):
        assert case.reference not in json.dumps(bom)
        assert str(case.id) not in json.dumps(bom)


def test_every_reference_of_a_bill_of_materials_leads_to_one_component() -> None:
    factories.completed_case()
    factories.completed_case()
    bom = told("model_bom", taken())
    refs = [each["bom-ref"] for each in (bom["metadata"]["component"], *bom["components"])]
    assert len(refs) == len(set(refs))
    used = {each["ref"] for each in bom["dependencies"]}
    used |= {ref for each in bom["dependencies"] for ref in each["dependsOn"]}
    used |= {ref for each in bom["compositions"] for ref in each["assemblies"]}
    assert used <= set(refs)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom["serialNumber"])


def test_a_bill_of_materials_is_the_same_for_the_same_release_and_states_its_limits() -> None:
    factories.completed_case()
    assert made("model_bom", taken()) == made("model_bom", taken())
    limits = told("model_bom", taken())["metadata"]["component"]["modelCard"]["considerations"]
    assert any("may still be present" in each for each in limits["technicalLimitations"])
    with pytest.raises(ValueError, match="of a release"):
        made("model_bom", taken(release=None))


def test_the_register_and_the_evidence_tell_the_same_of_a_case() -> None:
    case = factories.completed_case()
    evidence = json.loads(exports.load("evidence_json").render(dossier.gather(case)))
    (row,) = told("register_json", taken())
    assert (row["reference"], row["due"]) == (evidence["reference"], evidence["due"])
    assert row["outcome"] == evidence["decision"]["outcome"]
