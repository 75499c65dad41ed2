"""Audit entries and checkpoints are append-only: the database refuses to change or remove them.

PostgreSQL: row triggers before UPDATE and DELETE and a statement trigger before TRUNCATE, ENABLE
ALWAYS so that `session_replication_role = replica` does not pass them. SQLite: triggers that abort,
and one before INSERT, since `INSERT OR REPLACE` removes rows without a delete trigger.
The owner of the tables can still drop a trigger; the Merkle log shows it (`manage.py verify_log`).
"""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

TABLES = ("requests_app_auditentry", "requests_app_checkpoint")

# A row that any unique column already holds; only such an INSERT could replace an old row.
SQLITE_TAKEN = {
    "requests_app_auditentry": (
        "SELECT 1 FROM requests_app_auditentry WHERE seq = NEW.seq OR leaf_hash = NEW.leaf_hash "
        "OR idem_key = NEW.idem_key OR (case_id = NEW.case_id AND case_seq = NEW.case_seq)"
    ),
    "requests_app_checkpoint": "SELECT 1 FROM requests_app_checkpoint WHERE size = NEW.size",
}


def refuse_changes(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    vendor = schema_editor.connection.vendor
    if vendor == "postgresql":
        schema_editor.execute(
            "CREATE OR REPLACE FUNCTION rtbf_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ "
            "BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$",
            params=None,  # or the percent sign would be a placeholder
        )
        for table in TABLES:
            schema_editor.execute(
                f"CREATE TRIGGER {table}_rows BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION rtbf_append_only()"
            )
            schema_editor.execute(
                f"CREATE TRIGGER {table}_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION rtbf_append_only()"
            )
            for name in ("rows", "truncate"):
                schema_editor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{name}")
    elif vendor == "sqlite":
        for table in TABLES:
            for event in ("UPDATE", "DELETE"):
                schema_editor.execute(
                    f"CREATE TRIGGER {table}_{event.lower()} BEFORE {event} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
            schema_editor.execute(
                f"CREATE TRIGGER {table}_insert BEFORE INSERT ON {table} "
                f"WHEN EXISTS ({SQLITE_TAKEN[table]}) "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    else:
        raise NotImplementedError(f"The audit log runs on PostgreSQL or SQLite, not on {vendor}.")


def allow_changes(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    postgresql = schema_editor.connection.vendor == "postgresql"
    for table in TABLES:
        for name in ("rows", "truncate") if postgresql else ("update", "delete", "insert"):
            on = f" ON {table}" if postgresql else ""
            schema_editor.execute(f"DROP TRIGGER {table}_{name}{on}")
    if postgresql:
        schema_editor.execute("DROP FUNCTION rtbf_append_only()")


class Migration(migrations.Migration):
    dependencies = [("requests_app", "0001_initial")]

    operations = [migrations.RunPython(refuse_changes, allow_changes)]
