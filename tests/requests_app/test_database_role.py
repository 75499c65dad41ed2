"""The application's role on PostgreSQL: it adds to the log and can change nothing of it."""

from collections.abc import Iterator

import psycopg.errors
import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, transaction

from requests_app import audit, keys, marks
from requests_app.actors import SYSTEM
from requests_app.management.commands.migrate_as_owner import restrict
from requests_app.models import AuditEntry
from requests_app.services import cases
from requests_app.vault import OVERWRITTEN
from requests_app.verifier.checks import verify
from requests_app.verifier.trust import parse_trust
from tests.factories import completed_case
from tests.requests_app.bundles import export, sign

pytestmark = pytest.mark.database
ROLE = "rtbf_app_test"
LOG = ("requests_app_auditentry", "requests_app_checkpoint")
OF_BOTH_TABLES = [
    "DELETE FROM log",
    "TRUNCATE log",
    "ALTER TABLE log DISABLE TRIGGER ALL",
    "DROP TRIGGER log_rows ON log",
    "DROP TABLE log",
]
REFUSED = [
    *(statement.replace("log", table) for statement in OF_BOTH_TABLES for table in LOG),
    "UPDATE requests_app_auditentry SET body = body",
    "UPDATE requests_app_auditentry SET nodes = NULL",
    "UPDATE requests_app_checkpoint SET note = note",
    "UPDATE requests_app_checkpointmark SET kind = kind",
    "DELETE FROM requests_app_checkpointmark",
    "INSERT INTO requests_app_auditentry (seq, type, body, leaf_hash) VALUES (1, 'x', '', '')"
    " ON CONFLICT (seq) DO UPDATE SET type = 'x'",
    "INSERT INTO requests_app_checkpoint (size, root, note, created_at)"
    " VALUES (1, '', '', now()) ON CONFLICT (size) DO UPDATE SET note = 'x'",
    "MERGE INTO requests_app_auditentry USING (SELECT 1 AS one) AS o ON seq = one"
    " WHEN MATCHED THEN DELETE",
    "SET session_replication_role = replica",
    "CREATE OR REPLACE FUNCTION rtbf_append_only() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RETURN NEW; END $$",
    "CREATE TRIGGER mine BEFORE INSERT ON requests_app_auditentry"
    " FOR EACH ROW EXECUTE FUNCTION rtbf_append_only()",
    "CREATE RULE mine AS ON INSERT TO requests_app_auditentry DO INSTEAD NOTHING",
    "CREATE TABLE mine (id int)",
    "DELETE FROM requests_app_loghead",
    "TRUNCATE requests_app_loghead",
    "DELETE FROM django_migrations",
    "SET ROLE postgres",
]  # fmt: skip


@pytest.fixture
def as_application(transactional_db: None) -> Iterator[None]:
    """Django's own connection, opened anew as the application's role."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has roles")
    restrict(ROLE, "password")
    owner = {key: connection.settings_dict[key] for key in ("USER", "PASSWORD")}
    connection.close()
    connection.settings_dict.update(USER=ROLE, PASSWORD="password")
    yield
    connection.close()
    connection.settings_dict.update(owner)
    with connection.cursor() as cursor:
        cursor.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


def test_a_whole_case_is_handled_with_the_rights_of_the_application(as_application: None) -> None:
    sign()
    case = completed_case()
    verify(export(case), trust=parse_trust(keys.trust_text().encode(), pinned=True, file="trust"))
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    checkpoint = sign()
    assert checkpoint is not None
    with transaction.atomic():
        assert not marks._lock_open(checkpoint)  # closed by the signer, since nobody else is asked
    assert audit.verify_log().entries == AuditEntry.objects.count() > 10


def test_sealing_overwrites_deleted_keys_with_the_rights_of_the_application(
    as_application: None, caplog: pytest.LogCaptureFixture
) -> None:
    case = completed_case()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_filenode(%s)", [OVERWRITTEN[0]])
        before = cursor.fetchone()
        cases.seal_case(case_id=case.id, actor=SYSTEM)
        cursor.execute("SELECT pg_relation_filenode(%s)", [OVERWRITTEN[0]])
        assert cursor.fetchone() != before
        assert "not overwritten" not in caplog.text


def test_the_application_has_no_right_to_change_the_log(as_application: None) -> None:
    with transaction.atomic():
        audit.append_entry(type="test.happened", actor="system:test", data={})
    before = list(AuditEntry.objects.values())
    assert [statement for statement in REFUSED if not refused(statement)] == []
    assert list(AuditEntry.objects.values()) == before


def refused(statement: str) -> bool:
    """By a missing right, so before any trigger was asked."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    except ProgrammingError as problem:
        return isinstance(problem.__cause__, psycopg.errors.InsufficientPrivilege)
    return False


@pytest.mark.django_db
def test_the_owner_of_the_tables_is_refused_as_the_application(settings) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has roles")
    with pytest.raises(CommandError, match="owner of the tables"):
        restrict(str(connection.settings_dict["USER"]), "")


@pytest.mark.django_db
def test_without_an_owner_or_without_roles_nothing_is_migrated(monkeypatch) -> None:
    monkeypatch.delenv("DATABASE_MIGRATION_URL", raising=False)
    words = "DATABASE_MIGRATION_URL" if connection.vendor == "postgresql" else "Only PostgreSQL"
    with pytest.raises(CommandError, match=words):
        call_command("migrate_as_owner")
