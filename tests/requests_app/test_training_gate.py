"""The training gate: nobody on the list comes back, nobody else is taken, a report binds."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from django.core.management import call_command
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from requests_app import audit, keys, suppression, training_data, training_gate
from requests_app.identifiers import normal_form
from requests_app.models import AuditEntry, AuditKey, StaffMember
from requests_app.services import suppression as services
from requests_app.services import training
from requests_app.suppression import SuppressionList, make_list, record_kind, tag
from requests_app.training_data import DataError, Source
from requests_app.training_gate import Scanner
from requests_app.verifier import dsse, notes
from tests import factories
from tests.factories import executing_case

pytestmark = pytest.mark.django_db

KEYS = (b"k" * 32,)
CLEAN = {"id": "1", "text": "Ada Other lives in Lyon.", "mail": "ada@mailbox.example"}
HIDDEN = {"id": "2", "chat": [{"role": "user", "text": f"write to {factories.EMAIL.upper()}, ok"}]}


def held_of(*identifiers: tuple[str, str]) -> SuppressionList:
    rows = (
        (kind, 1, tag(KEYS, kind, normal_form(kind, value, phone_prefix="32")))
        for kind, value in identifiers
    )
    return make_list(rows, KEYS)


def build(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command as a pipeline calls it: exit code, standard output, standard error."""

    def called(name: str, *args: object) -> tuple[int, str, str]:
        code = 0
        try:
            call_command(name, *map(str, args))
        except SystemExit as ended:
            code = int(str(ended.code))
        told = capsys.readouterr()
        return code, told.out, told.err

    return called


# --- Command ------------------------------------------------------------------------------------
def test_a_build_that_would_bring_somebody_back_fails_with_its_record_numbers(
    run: Run, tmp_path: Path
) -> None:
    executing_case()
    file = build(tmp_path / "build.jsonl", CLEAN, HIDDEN, {**CLEAN, "id": "3"})
    report = tmp_path / "gate.json"
    code, out, err = run("training_gate", "--file", file, "--report", report)
    assert code == 1
    assert "3 records; 1 would" in out
    assert "Records 2\n" in out
    for canary in (*factories.CANARIES, "mailbox.example"):
        assert canary.lower() not in (out + err + report.read_text()).lower()
    code, _, err = run("check_gate_report", report, "--file", file)
    assert code == 1
    assert "would come back" in err


def test_the_cleaned_build_passes_and_its_report_is_for_its_bytes_alone(
    run: Run, tmp_path: Path
) -> None:
    executing_case()
    file = build(tmp_path / "build.jsonl", CLEAN, HIDDEN, {**CLEAN, "id": "3"})
    clean, report = tmp_path / "clean.jsonl", tmp_path / "gate.json"
    arguments = ("--file", file, "--exclude-to", clean, "--report", report)
    code, out, _ = run("training_gate", *arguments, "--json")
    assert code == 0
    assert json.loads(out)["excluded"] == 1
    lines = file.read_bytes().splitlines(keepends=True)
    assert clean.read_bytes() == lines[0] + lines[2]
    assert run("check_gate_report", report, "--file", clean)[0] == 0
    code, _, err = run("check_gate_report", report, "--file", file)
    assert (code, "another file" in err) == (1, True)
    clean.write_bytes(clean.read_bytes() + b"{}\n")
    assert run("check_gate_report", report, "--file", clean)[0] == 1
    entry = AuditEntry.objects.get(type="training.gated")
    assert b'"verdict":"clear"' in bytes(entry.body)
    audit.verify_log()


def test_a_report_does_not_outlive_the_list_that_it_was_made_with(run: Run, tmp_path: Path) -> None:
    executing_case()
    file, report = build(tmp_path / "build.jsonl", CLEAN), tmp_path / "gate.json"
    assert run("training_gate", "--file", file, "--report", report)[0] == 0
    assert run("check_gate_report", report, "--file", file)[0] == 0
    executing_case(email="ada@mailbox.example")
    code, _, err = run("check_gate_report", report, "--file", file)
    assert (code, "list changed" in err) == (1, True)
    assert run("training_gate", "--file", file)[0] == 1


def test_a_forged_or_foreign_report_is_refused(run: Run, tmp_path: Path) -> None:
    file, report = build(tmp_path / "build.jsonl", CLEAN), tmp_path / "gate.json"
    assert run("training_gate", "--file", file, "--report", report)[0] == 0
    true = report.read_bytes()
    payload = notes.encode(notes.decode(json.loads(true)["payload"], file="").replace(b"0", b"9"))
    report.write_text(
        json.dumps({**json.loads(true), "payload": payload}, separators=(",", ":"), sort_keys=True)
    )
    assert run("check_gate_report", report, "--file", file)[0] == 1
    other = keys.SigningKey("somebody.example", keys._read_or_make(tmp_path / "other.pem"))
    held = services.list_in_force()
    scan = training_gate.scan(Source("jsonl", str(file)), Scanner(held))
    report.write_bytes(training_gate.report(scan, None, held=held, training_set="", key=other))
    assert run("check_gate_report", report, "--file", file)[0] == 1
    report.write_bytes(b"{")
    assert run("check_gate_report", report, "--file", file)[0] == 1
    report.write_bytes(true)
    assert run("check_gate_report", report, "--file", file)[0] == 0
    assert run("check_gate_report", report, "--file", file, "--set", "crm")[0] == 1


@pytest.mark.parametrize("ended", ["valid_to", "revoked_from"])
def test_a_report_of_a_key_that_is_out_of_use_is_refused(
    run: Run, tmp_path: Path, ended: str
) -> None:
    file, report = build(tmp_path / "build.jsonl", CLEAN), tmp_path / "gate.json"
    assert run("training_gate", "--file", file, "--report", report)[0] == 0
    AuditKey.objects.filter(purpose="attest").update(**{ended: 1})
    assert run("check_gate_report", report, "--file", file)[0] == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("build.jsonl", b'{"id": 1}\n{"id": \n'),
        ("build.jsonl", b"[1]\n"),
        ("build.jsonl", b'{"mail": "a@x.example", "mail": "b"}\n'),
        ("build.csv", b"a,b\n1,2,3\n"),
        ("build.csv", b"a,b\n\xff,2\n"),
        ("build.csv", b"a,a\na@x.example,2\n"),
        ("build.txt", b""),
        ("build.parquet", b"PAR1"),
        (None, b""),
    ],
)
def test_what_cannot_be_read_is_not_known_to_be_clear(
    run: Run, tmp_path: Path, name: str | None, content: bytes
) -> None:
    file = tmp_path / (name or "missing.jsonl")
    if name:
        file.write_bytes(content)
    report = tmp_path / "gate.json"
    code, out, err = run("training_gate", "--file", file, "--report", report)
    assert (code, out) == (2, "")
    assert "could not run" in err
    assert "x.example" not in err
    assert not report.exists()
    assert not list(tmp_path.glob(".*unfinished"))


def test_without_the_right_key_the_gate_could_not_run(
    run: Run, tmp_path: Path, vault_keys: Path
) -> None:
    executing_case()
    (vault_keys / "suppression" / "1").unlink()
    assert run("training_gate", "--file", build(tmp_path / "build.jsonl", CLEAN))[0] == 2
    assert run("training_gate")[0] == 2
    assert run("training_gate", "--set", "unknown")[0] == 2


def test_csv_is_cleaned_as_csv_and_fields_may_be_named(run: Run, tmp_path: Path) -> None:
    case = executing_case()
    services.record_identifiers(
        case_id=case.id,
        identifiers=[("customer_id", "77")],
        actor_member=factories.make_staff("officer"),
    )
    file, clean = tmp_path / "build.csv", tmp_path / "clean.csv"
    file.write_text('no,text\n76,"a, ""b"""\n77,short\n78,77 apples\n')
    assert run("training_gate", "--file", file)[0] == 0  # too short to be looked for everywhere
    named = ("--file", file, "--field", "no=customer_id", "--exclude-to", clean)
    assert run("training_gate", *named)[0] == 0
    assert clean.read_text().splitlines() == ["no,text", '76,"a, ""b"""', "78,77 apples"]
    assert run("training_gate", "--file", file, "--field", "no=name")[0] == 2


# --- Nobody missed, nobody else taken -----------------------------------------------------------
WORDS = st.sampled_from(["hello", "42", "2026-11-25", "a@b.example", "(", "C-9", "no. 5", "", "\n"])
PEOPLE = {
    "email": ("zelda@mailbox.example", "ZELDA+x@Mailbox.example", "zelda (at) mailbox.example"),
    "phone": ("+32 2 555 01 77", "02/555.01.77", "0032 25550177", "02 555 0177"),
    "account": ("BE68 5390 0754 7034", "be68539007547034", "BE68-5390-0754-7034"),
    "customer_id": ("C-100234", "c100234", "C 100234", "C/100234"),
}


@given(
    kind=st.sampled_from(sorted(PEOPLE)),
    data=st.data(),
    before=st.lists(WORDS, max_size=4),
    after=st.lists(WORDS, max_size=4),
)
def test_a_person_is_found_in_any_spelling_and_company(
    kind: str, data: st.DataObject, before: list[str], after: list[str]
) -> None:
    held = held_of((kind, PEOPLE[kind][0]))
    written = data.draw(st.sampled_from(PEOPLE[kind]))
    texts = {"text": " ".join([*before, written, *after]), "n": "5"}
    record = training_data.Record(1, "1", texts, {})
    assert Scanner(held).kinds_in(record) == {kind}
    others = training_data.Record(1, "1", {"text": " ".join([*before, *after])}, {})
    assert Scanner(held).kinds_in(others) == set()


def test_exclusions_are_for_their_set_alone() -> None:
    held = make_list([(record_kind("crm"), 1, tag(KEYS, record_kind("crm"), "r-1"))], KEYS)
    record = training_data.Record(1, "r-1", {"id": "r-1"}, {})
    assert Scanner(held, "crm").kinds_in(record) == {"record"}
    assert Scanner(held, "mails").kinds_in(record) == set()


def test_a_set_that_is_kept_by_an_exemption_is_not_gated_for_that_case(
    run: Run, tmp_path: Path, engineer: StaffMember
) -> None:
    case = executing_case()
    file = build(tmp_path / "crm.jsonl", CLEAN, HIDDEN)
    training.register_training_set(
        name="crm", location=str(file), id_field="id", actor_member=engineer
    )
    assert run("training_gate", "--set", "crm")[0] == 1
    case.scope_items.create(
        kind="training_set", target="crm", result="keep", exemption="17-3-b", review_on="2027-01-01"
    )
    assert run("training_gate", "--set", "crm")[0] == 0
    assert run("training_gate", "--file", file)[0] == 1


def test_a_query_is_gated_through_the_file_that_is_written_of_it(
    run: Run, tmp_path: Path, engineer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    executing_case()
    with sqlite3.connect(tmp_path / "crm.sqlite3") as database:
        database.execute("CREATE TABLE notes (id, text)")
        database.executemany(
            "INSERT INTO notes VALUES (?, ?)", [(1, "clean"), (2, f"by {factories.EMAIL}")]
        )
    database.close()
    monkeypatch.setenv("CRM_DSN", f"sqlite:///{tmp_path / 'crm.sqlite3'}")
    training.register_training_set(
        name="crm",
        location="CRM_DSN",
        query="SELECT id, text FROM notes ORDER BY id",
        id_field="id",
        actor_member=engineer,
    )
    report, clean = tmp_path / "gate.json", tmp_path / "clean.jsonl"
    assert run("training_gate", "--set", "crm")[0] == 1
    assert run("training_gate", "--set", "crm", "--report", report)[0] == 2
    assert run("training_gate", "--set", "crm", "--exclude-to", clean, "--report", report)[0] == 0
    assert json.loads(clean.read_text()) == {"id": 1, "text": "clean"}
    assert run("check_gate_report", report, "--file", clean, "--set", "crm")[0] == 0


def test_a_query_cannot_write_and_its_dsn_is_not_quoted(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "crm.sqlite3").close()
    source = Source("sql", f"sqlite:///{tmp_path / 'crm.sqlite3'}", "CREATE TABLE x (y)")
    with pytest.raises(DataError, match="one SELECT"):
        list(training_data.records(source))
    twice = Source("sql", source.location, "SELECT 1 AS a, 2 AS a")
    with pytest.raises(DataError, match="named twice"):
        list(training_data.records(twice))
    source = Source("sql", "postgresql://u:canary@127.0.0.1:1/none", "SELECT 1")
    with pytest.raises(DataError) as refused:
        list(training_data.records(source))
    assert "canary" not in f"{refused.value}{source}"


@pytest.mark.database
def test_rows_of_the_database_at_hand_are_read_and_never_written(tmp_path: Path) -> None:
    if connection.vendor == "sqlite":
        dsn, write = f"sqlite:///{tmp_path / 'a.sqlite3'}", "CREATE TABLE x (y)"
        sqlite3.connect(tmp_path / "a.sqlite3").close()
    else:
        known = connection.get_connection_params()
        names = ("host", "port", "user", "password", "dbname")
        dsn = make_conninfo(**{name: known[name] for name in names if name in known})
        write = "SELECT nextval('requests_app_scopeitem_id_seq')"
    query = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)"
        " SELECT i AS id, 'text' AS t FROM n"
    )
    source = Source("sql", dsn, query, "id")
    found = list(training_data.records(source))
    assert [record.record_id for record in found] == [str(i) for i in range(1, 1201)]
    for query in (write, "SELECT 1 AS a, 2 AS a"):
        with pytest.raises(DataError):
            list(training_data.records(Source("sql", dsn, query)))


def parquet(path: Path, *columns: tuple[str, list[Any]]) -> Path:
    """A table of these columns; two may bear one name."""
    names, values = zip(*columns, strict=True)
    table = pyarrow.Table.from_arrays([pyarrow.array(each) for each in values], names=list(names))
    pyarrow.parquet.write_table(table, path)
    return path


def test_a_build_in_parquet_is_gated_in_every_column_and_batch(run: Run, tmp_path: Path) -> None:
    """Nested values, and a hit behind the first batch; what is written of it passes."""
    executing_case()
    texts: list[dict[str, Any]] = [{"said": ["nothing"]}] * 700
    texts[650] = {"said": ["nothing", f"write to {factories.EMAIL}"]}
    file = parquet(tmp_path / "build.parquet", ("id", list(range(700))), ("note", texts))
    report, clean = tmp_path / "gate.json", tmp_path / "clean.jsonl"
    assert run("training_gate", "--file", file)[0] == 1
    assert run("training_gate", "--file", file, "--exclude-to", clean, "--report", report)[0] == 0
    kept = [json.loads(line)["id"] for line in clean.read_text().splitlines()]
    assert kept == [number for number in range(700) if number != 650]
    assert run("check_gate_report", report, "--file", clean)[0] == 0


@pytest.mark.parametrize(
    "columns",
    [
        [("a", [factories.EMAIL]), ("a", ["hidden behind"])],
        [("a", pyarrow.array([b"\xff"]).view(pyarrow.string()))],
        [("a", pyarrow.array([1], pyarrow.timestamp("ns")))],
    ],
    ids=["a column named twice", "no UTF-8", "a time finer than Python's"],
)
def test_parquet_that_cannot_be_looked_through_is_refused(
    run: Run, tmp_path: Path, columns: list[tuple[str, Any]]
) -> None:
    executing_case()
    code, out, err = run("training_gate", "--file", parquet(tmp_path / "build.parquet", *columns))
    assert (code, out) == (2, "")
    assert factories.EMAIL not in err


def test_the_report_is_a_statement_that_anyone_with_the_key_can_read(
    run: Run, tmp_path: Path
) -> None:
    file, report = build(tmp_path / "build.jsonl", CLEAN), tmp_path / "gate.json"
    run("training_gate", "--file", file, "--report", report)
    key = notes.parse_vkey(keys.attest_key().vkey)
    statement, _ = dsse.open_statement(
        report.read_bytes(), [key], predicate_type=training_gate.GATE_TYPE, file="gate"
    )
    said: Any = statement["predicate"]
    assert said["records"] == 1
    assert said["list"]["sha256"] == services.list_in_force().sha256
    assert suppression.read_keys()[0].hex() not in report.read_text()
