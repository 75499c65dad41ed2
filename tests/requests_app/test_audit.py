"""The audit log: entries, chains, commitments, and a database that refuses to change them."""

import hashlib
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from threading import Barrier, BoundedSemaphore
from types import SimpleNamespace

import pytest
import rfc8785
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.db.utils import DatabaseError
from django.test.utils import CaptureQueriesContext

from requests_app import audit
from requests_app.lifecycle import CaseStatus
from requests_app.models import AuditEntry, AuditKey, AuditOpening, Case, DataSubject, LogHead
from requests_app.verifier import merkle
from tests.append_only import NODES

pytestmark = [pytest.mark.django_db, pytest.mark.database]


WRITERS = 200


@pytest.fixture
def case() -> Case:
    return make_case("ERQ-2026-000001")


def make_case(reference: str) -> Case:
    day = date(2026, 11, 22)
    return Case.objects.create(
        reference=reference,
        subject=DataSubject.objects.create(),
        status=CaseStatus.IN_REVIEW,
        channel="form",
        received_at=datetime(2026, 11, 22, 9, tzinfo=UTC),
        received_on=day,
        base_due_raw=day,
        base_due=day,
        extension_due=day,
        internal_due=day,
        due=day,
    )


def append(**given: object) -> AuditEntry:
    values = {"type": "case.received", "actor": "system:test", "data": {}, **given}
    return audit.append_entry(**values)  # type: ignore[arg-type]


def body(entry: AuditEntry) -> dict[str, object]:
    return json.loads(bytes(entry.body))


def test_two_like_entries_without_a_case_in_one_second_are_two_entries() -> None:
    with transaction.atomic():
        first, second = (
            audit.append_entry(type="model.registered", actor="system", data={"name": "demo"})
            for _ in range(2)
        )
    assert second.seq == first.seq + 1
    assert bytes(second.leaf_hash) != bytes(first.leaf_hash)
    audit.verify_log()


def test_the_first_entry_of_a_log_says_that_the_log_was_started(case: Case, settings) -> None:
    entry = append(case=case)
    started = AuditEntry.objects.get(seq=0)
    assert started.type == "log.started"
    assert body(started)["data"] == {"origin": settings.RTBF_LOG_ORIGIN}
    assert entry.seq == 1
    assert LogHead.objects.get().size == 2


def test_an_entry_is_stored_as_the_rfc_8785_bytes_that_its_leaf_hash_covers(case: Case) -> None:
    entry = append(case=case, data={"é": "ü", "a": [1, True, None]})
    stored = AuditEntry.objects.get(seq=entry.seq)
    assert bytes(stored.body) == rfc8785.dumps(body(stored))
    assert bytes(stored.leaf_hash) == hashlib.sha256(b"\x00" + bytes(stored.body)).digest()


def test_an_entry_carries_exactly_the_fields_of_version_1(case: Case, settings) -> None:
    found = body(append(case=case, data={"channel": "form"}))
    assert datetime.fromisoformat(str(found.pop("at"))).tzinfo == UTC
    assert found == {
        "v": 1,
        "log": settings.RTBF_LOG_ORIGIN,
        "case": str(case.id),
        "case_seq": 0,
        "prev": None,
        "type": "case.received",
        "actor": "system:test",
        "data": {"channel": "form"},
    }


def test_each_case_has_a_chain_of_its_own_inside_the_log(case: Case) -> None:
    other = make_case("ERQ-2026-000002")
    first, _, second = append(case=case), append(case=other), append(case=case)
    assert [entry.seq for entry in audit.case_entries(case.id)] == [first.seq, second.seq]
    assert body(second)["prev"] == bytes(first.leaf_hash).hex()
    assert (body(second)["case_seq"], second.seq - first.seq) == (1, 2)


def test_an_entry_outside_a_transaction_is_refused(monkeypatch) -> None:
    with monkeypatch.context() as outside:
        outside.setattr(connections["default"], "in_atomic_block", False)
        with pytest.raises(RuntimeError, match="transaction"):
            append()


def test_an_entry_goes_when_its_transaction_is_rolled_back(case: Case) -> None:
    append(case=case)
    savepoint = transaction.savepoint()
    append(case=case)
    transaction.savepoint_rollback(savepoint)
    assert append(case=case).seq == 2
    assert audit.read_log().size == LogHead.objects.get().size == 3


def test_a_repeated_idempotency_key_returns_the_earlier_entry(case: Case) -> None:
    first = append(case=case, idem_key="run:1:verified")
    again = append(case=case, idem_key="run:1:verified", data={"other": True})
    assert again.seq == first.seq
    assert AuditEntry.objects.count() == 2


@pytest.mark.parametrize("value", [0.5, float("nan"), 2**53, b"x", {1: "a"}, "\ud800"])
def test_a_value_without_one_spelling_is_refused(case: Case, value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeEncodeError among them
        append(case=case, data={"value": value})
    assert AuditEntry.objects.filter(case_id=case.id).count() == 0


def test_a_personal_value_enters_only_as_a_salted_commitment(case: Case) -> None:
    entry = append(case=case, commitments={"email": "ada@example.org"})
    opening = AuditOpening.objects.get(entry_seq=entry.seq, field="email")
    message = rfc8785.dumps(
        {"case": str(case.id), "f": "email", "seq": entry.seq, "v": "ada@example.org"}
    )
    expected = hmac.new(bytes(opening.salt), message, hashlib.sha256).hexdigest()
    assert body(entry)["data"] == {"email": {"commitment": expected}}
    assert b"ada@" not in bytes(entry.body)


def test_two_commitments_to_the_same_value_cannot_be_linked(case: Case) -> None:
    first = append(case=case, commitments={"email": "ada@example.org"})
    second = append(case=case, commitments={"email": "ada@example.org"})
    assert body(first)["data"] != body(second)["data"]


def test_erased_openings_leave_the_log_valid(case: Case) -> None:
    append(case=case, commitments={"email": "ada@example.org", "name": "Ada"})
    before = audit.read_log()
    assert audit.erase_openings(case) == 2
    assert not AuditOpening.objects.exists()
    assert audit.read_log() == before


def test_another_origin_than_the_stored_log_is_refused(case: Case, settings) -> None:
    append(case=case)
    settings.RTBF_LOG_ORIGIN = "elsewhere.example/log"
    with pytest.raises(audit.LogError, match="RTBF_LOG_ORIGIN"):
        append(case=case)


def test_the_frontier_gives_the_root_of_the_whole_tree_after_each_append(case: Case) -> None:
    for _ in range(20):
        append(case=case)
        head = LogHead.objects.get()
        root = merkle.frontier_root([bytes.fromhex(node) for node in head.frontier])
        assert root == audit.root(head.size) == audit.read_log().root


def test_proofs_from_the_stored_log_verify(case: Case) -> None:
    for _ in range(12):
        append(case=case)
    for entry in AuditEntry.objects.all():
        merkle.verify_inclusion(
            bytes(entry.leaf_hash),
            index=entry.seq,
            size=13,
            path=audit.inclusion_proof(entry.seq, 13),
            root=audit.root(13),
        )
    merkle.verify_consistency(
        first=5,
        second=13,
        path=audit.consistency_proof(5, 13),
        first_root=audit.root(5),
        second_root=audit.root(13),
    )


def test_a_proof_reads_a_few_rows_in_one_query(case: Case) -> None:
    for _ in range(40):
        append(case=case)
    for ask in (
        lambda: audit.root(41),
        lambda: audit.inclusion_proof(17, 41),
        lambda: audit.consistency_proof(13, 41),
    ):
        with CaptureQueriesContext(connection) as queries:
            ask()
        assert len(queries) == 1
        assert queries[0]["sql"].count(",") < 20  # numbers of entries, of forty


def test_an_append_costs_four_queries(case: Case, django_assert_num_queries) -> None:
    append(case=case)
    with django_assert_num_queries(4):
        append(case=case)


def test_what_is_not_in_the_log_has_no_proof(case: Case) -> None:
    append(case=case)
    with pytest.raises(audit.LogError, match="missing"):
        audit.root(3)
    with pytest.raises(audit.LogError, match="missing"):
        audit.inclusion_proof(0, 7)
    with pytest.raises(ValueError, match="no leaf"):
        audit.inclusion_proof(2, 2)


@pytest.mark.parametrize("wrong", [b"", None, b"\x01" * 96, b"\x01" * 64])
def test_nodes_that_are_wrong_are_named_after_all_else_and_made_anew(
    case: Case, capsys, wrong: bytes | None
) -> None:
    for _ in range(9):
        append(case=case)
    AuditEntry.objects.filter(seq=7).update(nodes=wrong)
    with pytest.raises(audit.NodesDiffer, match="entry 7"):
        audit.verify_log()
    with pytest.raises(CommandError, match="--rebuild-nodes"):
        call_command("verify_log")
    call_command("verify_log", rebuild_nodes=True)
    assert "written anew: 1" in capsys.readouterr().err
    assert audit.root(10) == audit.read_log().root


def test_the_nodes_of_a_log_older_than_they_are_get_filled_in(case: Case, monkeypatch) -> None:
    for _ in range(30):
        append(case=case)
    AuditEntry.objects.update(nodes=None)
    monkeypatch.setattr(NODES, "BATCH", 7)
    NODES.fill_nodes(None, SimpleNamespace(connection=connection))
    assert audit.verify_log().entries == 31
    assert audit.root(31) == audit.read_log().root


def test_a_key_is_made_known_once_and_by_an_entry() -> None:
    for _ in range(2):
        audit.register_key(purpose="log", vkey="a.example+00000000+AA==", name="a.example")
    key = AuditKey.objects.get()
    entry = AuditEntry.objects.get(type="key.added")
    assert key.valid_from == entry.seq == 1
    assert body(entry)["data"] == {"purpose": "log", "vkey": key.vkey}


@pytest.mark.django_db(transaction=True)
def test_appends_from_many_threads_leave_no_gap_and_no_double(transactional_db) -> None:
    def append_some(number: int) -> None:
        try:
            for step in range(5):
                with transaction.atomic():
                    append(type="test.happened", data={"thread": number, "step": step})
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append_some, range(4)))
    assert audit.verify_log().entries == LogHead.objects.get().size == 21


@pytest.mark.django_db(transaction=True)
def test_two_hundred_writers_at_once_make_one_log(transactional_db, case: Case) -> None:
    """Each with a connection of its own, as many at a time as the server takes."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite takes one writer at a time")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('max_connections')::int - count(*) - 5 FROM pg_stat_activity"
        )
        free = BoundedSemaphore(min(WRITERS, cursor.fetchone()[0]))
    together = Barrier(WRITERS)

    def write(number: int) -> None:
        together.wait()
        with free:
            try:
                for step in range(3):
                    with transaction.atomic():
                        append(
                            type="test.happened",
                            case=case if step else None,
                            data={"writer": number, "step": step},
                            idem_key=f"{number}:{step}" if step == 2 else None,
                        )
            finally:
                connection.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    assert audit.verify_log().entries == LogHead.objects.get().size == 3 * WRITERS + 1
    written = [body(entry)["data"] for entry in AuditEntry.objects.filter(type="test.happened")]
    found = sorted((each["writer"], each["step"]) for each in written)  # type: ignore[index]
    assert found == [(number, step) for number in range(WRITERS) for step in range(3)]
    assert audit.root(3 * WRITERS + 1) == audit.read_log().root


STATEMENTS = [
    "UPDATE requests_app_auditentry SET type = 'x'",
    "DELETE FROM requests_app_auditentry",
    "DELETE FROM requests_app_auditentry WHERE seq = 1",
    "UPDATE requests_app_auditentry SET nodes = NULL, leaf_hash = NULL",
    "UPDATE requests_app_checkpoint SET note = 'x'",
    "DELETE FROM requests_app_checkpoint",
]
ONLY_SQLITE = [
    "INSERT OR REPLACE INTO requests_app_auditentry (seq, type, body, leaf_hash) "
    "VALUES (1, 'x', x'00', x'01')",
    "INSERT OR REPLACE INTO requests_app_auditentry (seq, type, body, leaf_hash) "
    "SELECT 9, 'x', x'00', leaf_hash FROM requests_app_auditentry WHERE seq = 1",
    "INSERT OR REPLACE INTO requests_app_auditentry (seq, type, body, leaf_hash, idem_key) "
    "VALUES (9, 'x', x'00', x'01', 'once')",
    "INSERT OR REPLACE INTO requests_app_auditentry "
    "(seq, type, body, leaf_hash, case_id, case_seq) "
    "SELECT 9, 'x', x'00', x'01', case_id, case_seq FROM requests_app_auditentry WHERE seq = 1",
    "INSERT OR REPLACE INTO requests_app_checkpoint (size, root, note, created_at) "
    "VALUES (1, x'00', 'x', '2026-01-01')",
    "INSERT INTO requests_app_auditentry (seq, type, body, leaf_hash) VALUES "
    "(1, 'x', x'00', x'01') ON CONFLICT (seq) DO UPDATE SET type = 'x'",
]
ONLY_POSTGRESQL = [
    "TRUNCATE requests_app_auditentry",
    "TRUNCATE requests_app_checkpoint CASCADE",
    "SET LOCAL session_replication_role = replica; DELETE FROM requests_app_auditentry",
    "SET LOCAL session_replication_role = replica; TRUNCATE requests_app_auditentry",
    "INSERT INTO requests_app_auditentry (seq, type, body, leaf_hash) VALUES "
    "(1, 'x', '\\x00', '\\x01') ON CONFLICT (seq) DO UPDATE SET type = 'x'",
]


@pytest.mark.parametrize("statement", [*STATEMENTS, *ONLY_SQLITE, *ONLY_POSTGRESQL])
def test_the_database_refuses_to_change_the_log(case: Case, statement: str) -> None:
    other = "postgresql" if statement in ONLY_SQLITE else "sqlite"
    if connection.vendor == other and statement not in STATEMENTS:
        pytest.skip("a statement of the other database")
    append(case=case, idem_key="once")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO requests_app_checkpoint (size, root, note, created_at) "
            "VALUES (1, %s, 'note', '2026-01-01')",
            [b"\x00"],
        )
    before = list(AuditEntry.objects.values())
    refused = pytest.raises(DatabaseError, match="append-only")
    with connection.cursor() as cursor, refused, transaction.atomic():
        cursor.execute(statement)
    assert list(AuditEntry.objects.values()) == before
