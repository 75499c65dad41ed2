"""A person's records in training sets: candidates by machine, the answer by a human."""

import csv
import hashlib
import hmac
import json
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from requests_app import audit, locating, tasks, training_data, vault
from requests_app.models import Case, RecordMatch, RecordSearch, StaffMember
from requests_app.services import cases, suppression, training
from requests_app.services.errors import Invalid, LeaseLost, NotAllowed, WrongState
from requests_app.services.leases import WAKE_AFTER
from requests_app.services.suppression import list_in_force
from requests_app.training_data import Source
from requests_app.verifier import canonical
from tests import factories
from tests.factories import NAME, case_in_review, propose

pytestmark = [pytest.mark.django_db, pytest.mark.database]

ROWS = [
    {"id": "r-1", "text": "Nothing to see in Lyon."},
    {"id": "r-2", "text": f"From: {factories.EMAIL.upper()}"},
    {"id": "r-3", "text": f"{NAME} moved house."},  # a namesake, for all that is known
    {"id": "r-4", "text": f"{NAME.upper()} was born in {factories.ANSWER}."},
    {"id": "r-5", "text": "zelda  quillfeather", "notes": {"town": [f"near {factories.ANSWER}"]}},
    {"id": "r-6", "text": f"Somebody was born in {factories.ANSWER}."},
    {"id": "r-7", "text": "call 02/555.01.77"},
    {"id": "r-8", "text": "Zeldas Quillfeathers of Canarytown"},
]
THEIRS = {"r-2", "r-4", "r-5", "r-7"}


@pytest.fixture
def crm(tmp_path: Path, engineer: StaffMember) -> Path:
    path = tmp_path / "crm.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    training.register_training_set(
        name="crm", location=str(path), id_field="id", actor_member=engineer
    )
    return path


@pytest.fixture
def case(officer: StaffMember) -> Case:
    return suppression.record_identifiers(
        case_id=case_in_review().id,
        identifiers=[("phone", "+32 2 555 01 77")],
        actor_member=officer,
    )


def searched(case: Case, officer: StaffMember) -> RecordSearch:
    (search,) = training.queue_searches(case_id=case.id, actor_member=officer)
    tasks.locate_records(str(search.id))
    return RecordSearch.objects.get(pk=search.pk)


def found(case: Case) -> dict[str, RecordMatch]:
    rows = RecordMatch.objects.filter(case=case)
    return {vault.get(case, f"match/{row.pk}")["record_id"]: row for row in rows}


def last_entry(case: Case) -> dict[str, Any]:
    body: Any = canonical.loads(bytes(audit.case_entries(case.id)[-1].body))
    return {"type": body["type"], **body["data"]}


def test_exact_identifiers_and_names_with_a_second_attribute_are_found(
    crm: Path, case: Case, officer: StaffMember
) -> None:
    search = searched(case, officer)
    assert (search.state, search.records, search.found) == ("done", 8, 4)
    matches = found(case)
    assert matches.keys() == THEIRS
    assert matches["r-2"].matched == ["email"]
    assert matches["r-4"].matched == ["name", "fact"]
    assert matches["r-7"].matched == ["phone"]
    assert last_entry(case)["new_matches"] == 4


def test_what_was_found_lies_in_the_vault_alone(
    crm: Path, case: Case, officer: StaffMember, caplog: pytest.LogCaptureFixture
) -> None:
    searched(case, officer)
    ids = [row.pk for row in found(case).values()]
    training.decide_matches(
        case_id=case.id, confirmed=ids[:2], rejected=ids[2:], actor_member=officer
    )
    told = b"".join(bytes(entry.body) for entry in audit.case_entries(case.id)).decode()
    told += repr(list(RecordMatch.objects.values())) + repr(list(RecordSearch.objects.values()))
    told += caplog.text
    for secret in (*factories.CANARIES, *THEIRS, "555.01", "5550177"):
        assert secret not in told
    entry = last_entry(case)
    assert (entry["n_confirmed"], entry["n_rejected"], entry["sets"]) == (2, 2, {"crm": 4})
    assert set(entry["confirmed"]) == {"commitment"}


COLUMNS = ("id", "text", "town")
TABLE = [(row["id"], row["text"], str(row.get("notes", ""))) for row in ROWS]


def as_jsonl(folder: Path) -> dict[str, str]:
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in TABLE]
    (folder / "crm.jsonl").write_text("\n".join(lines))
    return {"location": str(folder / "crm.jsonl")}


def as_csv(folder: Path) -> dict[str, str]:
    with (folder / "crm.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *TABLE])
    return {"location": str(folder / "crm.csv")}


def as_parquet(folder: Path) -> dict[str, str]:
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in TABLE]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "crm.parquet")
    return {"location": str(folder / "crm.parquet")}


def as_query(folder: Path) -> dict[str, str]:
    with closing(sqlite3.connect(folder / "crm.sqlite3")) as database, database:
        database.execute("CREATE TABLE crm (id, text, town)")
        database.executemany("INSERT INTO crm VALUES (?, ?, ?)", TABLE)
    return {"location": "CRM_DSN", "query": "SELECT id, text, town FROM crm ORDER BY id"}


@pytest.mark.parametrize("made", [as_jsonl, as_csv, as_parquet, as_query])
def test_every_kind_of_set_is_searched_excluded_from_and_gated_alike(
    made: Callable[[Path], dict[str, str]],
    case: Case,
    officer: StaffMember,
    engineer: StaffMember,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRM_DSN", f"sqlite:///{tmp_path / 'crm.sqlite3'}")
    training.register_training_set(
        name="crm", id_field="id", actor_member=engineer, **made(tmp_path)
    )
    search = searched(case, officer)
    assert (search.state, search.records) == ("done", len(ROWS))
    assert found(case).keys() == THEIRS
    confirmed = [row.pk for row in found(case).values()]
    training.decide_matches(case_id=case.id, confirmed=confirmed, rejected=[], actor_member=officer)
    cases.approve_decision(case_id=propose(case).id, actor_member=factories.make_staff("approver"))
    call_command("export_exclusions", "crm", str(tmp_path / "exclusions.json"))
    told = json.loads((tmp_path / "exclusions.json").read_text())
    salt = bytes.fromhex(told["salt"])
    left_out = {hmac.new(salt, each.encode(), hashlib.sha256).hexdigest() for each in THEIRS}
    assert set(told["excluded"]) == left_out
    clean = tmp_path / ("clean.csv" if made is as_csv else "clean.jsonl")
    with pytest.raises(SystemExit) as refused:
        call_command("training_gate", "--set", "crm")
    assert refused.value.code == 1
    call_command("training_gate", "--set", "crm", "--exclude-to", str(clean))
    source = Source(training_data.kind_of(clean), str(clean), id_field="id")
    kept = {record.record_id for record in training_data.records(source)}
    assert kept == {str(row["id"]) for row in ROWS} - THEIRS


def test_confirmed_records_are_left_out_once_erasure_is_decided(
    crm: Path, case: Case, officer: StaffMember, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    searched(case, officer)
    matches = found(case)
    training.decide_matches(
        case_id=case.id,
        confirmed=[matches["r-4"].pk],
        rejected=[matches["r-5"].pk],
        actor_member=officer,
    )
    assert not list_in_force("crm").kinds
    cases.approve_decision(case_id=propose(case).id, actor_member=factories.make_staff("approver"))
    held = list_in_force("crm")
    assert held.holds("record/crm", "r-4")
    assert not held.holds("record/crm", "r-5")
    training.decide_matches(
        case_id=case.id, confirmed=[matches["r-5"].pk], rejected=[], actor_member=officer
    )
    assert list_in_force("crm").holds("record/crm", "r-5")

    path = tmp_path / "exclusions.json"
    call_command("export_exclusions", "crm", str(path))
    told = json.loads(path.read_text())
    salt = bytes.fromhex(told["salt"])
    expected = {hmac.new(salt, i, hashlib.sha256).hexdigest() for i in (b"r-4", b"r-5")}
    assert set(told["excluded"]) == expected
    assert path.stat().st_mode & 0o077 == 0
    clean = tmp_path / "clean.jsonl"
    call_command("training_gate", "--set", "crm", "--exclude-to", str(clean))
    kept = {json.loads(line)["id"] for line in clean.read_text().splitlines()}
    assert kept == {row["id"] for row in ROWS} - THEIRS
    assert "Canary" not in capsys.readouterr().out


def test_a_second_search_finds_the_same_records_once(
    crm: Path, case: Case, officer: StaffMember
) -> None:
    searched(case, officer)
    first = found(case)
    training.decide_matches(
        case_id=case.id, confirmed=[], rejected=[first["r-2"].pk], actor_member=officer
    )
    assert searched(case, officer).found == 0
    assert found(case)["r-2"].state == "rejected"
    assert found(case).keys() == first.keys()


def test_a_search_is_held_by_one_worker_and_taken_up_after_it_died(
    crm: Path, case: Case, officer: StaffMember
) -> None:
    (search,) = training.queue_searches(case_id=case.id, actor_member=officer)
    with pytest.raises(WrongState):
        training.queue_searches(case_id=case.id, actor_member=officer)
    assert training.searches_to_wake() == []  # its own message is on the way
    RecordSearch.objects.update(created_at=timezone.now() - 2 * WAKE_AFTER)
    assert training.searches_to_wake() == [search.id]
    dead = training.lease_search(search_id=search.id, owner="first")
    assert dead is not None
    assert training.lease_search(search_id=search.id, owner="second") is None
    assert training.searches_to_wake() == []
    late = timezone.now() - timedelta(seconds=1)
    RecordSearch.objects.update(lease_expires_at=late)
    assert training.searches_to_wake() == [search.id]
    tasks.locate_records(str(search.id))
    assert RecordSearch.objects.get().state == "done"
    with pytest.raises(LeaseLost):
        training.save_matches(dead, records=1, found=[])


@pytest.mark.parametrize("content", ['{"id": 1}\n{"text": "canary"}\n', "canary\n", None])
def test_a_set_that_cannot_be_read_fails_with_the_record_and_no_value(
    crm: Path, case: Case, officer: StaffMember, content: str | None
) -> None:
    if content is None:
        crm.unlink()
    else:
        crm.write_text(content)
    search = searched(case, officer)
    assert search.state == "failed"
    assert search.error
    assert "canary" not in search.error
    assert audit.verify_log()


def test_a_missing_dsn_is_named_by_its_variable(
    case: Case, officer: StaffMember, engineer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRM_DSN", raising=False)
    training.register_training_set(
        name="crm", location="CRM_DSN", query="SELECT 1", actor_member=engineer
    )
    search = searched(case, officer)
    assert (search.state, "CRM_DSN" in search.error) == ("failed", True)
    with pytest.raises(Invalid, match="variable"):
        training.register_training_set(
            name="crm", location="postgres://u:p@x/y", query="SELECT 1", actor_member=engineer
        )


def test_who_may_search_and_decide(
    crm: Path, case: Case, engineer: StaffMember, officer: StaffMember, intake_clerk: StaffMember
) -> None:
    with pytest.raises(NotAllowed):
        training.queue_searches(case_id=case.id, actor_member=engineer)
    searched(case, intake_clerk)
    match = found(case)["r-2"]
    with pytest.raises(NotAllowed):
        training.decide_matches(
            case_id=case.id, confirmed=[match.pk], rejected=[], actor_member=intake_clerk
        )
    for confirmed, rejected in (([match.pk], [match.pk]), ([0], []), ([], [])):
        with pytest.raises(Invalid):
            training.decide_matches(
                case_id=case.id, confirmed=confirmed, rejected=rejected, actor_member=officer
            )


def test_the_command_searches_here_and_now(
    crm: Path, case: Case, officer: StaffMember, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("locate_records", case.reference, "--by", officer.username)
    told = capsys.readouterr()
    assert "crm: finished, 8 records, 4 new matches." in told.out
    assert "crm" in told.err  # a bar, and nothing that was found
    with pytest.raises(CommandError):
        call_command("locate_records", "ERQ-1999-000001", "--by", officer.username)


def test_memory_does_not_grow_with_the_set(
    tmp_path: Path, case: Case, officer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times the records, the same peak within a fifth of a megabyte."""
    person = locating.Person(frozenset({("email", factories.EMAIL)}), (), {}, {})

    def peak(records: int) -> int:
        path = tmp_path / f"{records}.jsonl"
        with path.open("w") as file:
            for number in range(records):
                file.write(json.dumps({"id": number, "text": f"order {number} " * 20}) + "\n")
        tracemalloc.start()
        try:
            for record in training_data.records(Source("jsonl", str(path), id_field="id")):
                assert locating.matched(record, person) is None
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(50)
    assert peak(2000) < peak(200) + 200_000


Message = dict[str, Any]


def test_the_queue_carries_the_id_alone(
    crm: Path,
    case: Case,
    officer: StaffMember,
    queue_messages: Callable[[str], list[Message]],
) -> None:
    with factories.on_commit():
        (search,) = training.queue_searches(case_id=case.id, actor_member=officer)
    (sent,) = [m for m in queue_messages("legal") if m["task"] == training.SEARCH_TASK]
    assert sent["args"] == [str(search.id)]
    RecordSearch.objects.update(created_at=search.created_at - 2 * WAKE_AFTER)
    tasks.sweep_searches()
    assert [m["args"] for m in queue_messages("legal")] == [[str(search.id)]]
