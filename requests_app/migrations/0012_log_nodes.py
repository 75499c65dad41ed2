"""Proofs are read from stored nodes: each entry keeps the roots of the subtrees that it closes.

They are a cache of the bodies: `nodes` is the one column of an entry that the triggers let the owner
of the tables write anew. An existing log gets its nodes here, from its leaf hashes.
"""

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from requests_app.verifier import merkle

TABLE = "requests_app_auditentry"
EVIDENCE = "seq, case_id, case_seq, type, body, leaf_hash, idem_key"  # what never changes
BATCH = 10_000


def spare_nodes(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    _refuse_updates(schema_editor, f"UPDATE OF {EVIDENCE}")


def spare_nothing(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    _refuse_updates(schema_editor, "UPDATE")


def _refuse_updates(schema_editor: BaseDatabaseSchemaEditor, update: str) -> None:
    """Put the update trigger of 0002 anew, for all columns or for some."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"DROP TRIGGER {TABLE}_rows ON {TABLE}")
        schema_editor.execute(
            f"CREATE TRIGGER {TABLE}_rows BEFORE {update} OR DELETE ON {TABLE} "
            "FOR EACH ROW EXECUTE FUNCTION rtbf_append_only()"
        )
        schema_editor.execute(f"ALTER TABLE {TABLE} ENABLE ALWAYS TRIGGER {TABLE}_rows")
    else:
        schema_editor.execute(f"DROP TRIGGER {TABLE}_update")
        schema_editor.execute(
            f"CREATE TRIGGER {TABLE}_update BEFORE {update} ON {TABLE} "
            f"BEGIN SELECT RAISE(ABORT, '{TABLE} is append-only'); END"
        )


def fill_nodes(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    frontier: list[bytes] = []
    with schema_editor.connection.cursor() as cursor:
        for start in range(0, 2**63, BATCH):
            cursor.execute(
                f"SELECT seq, leaf_hash FROM {TABLE} WHERE seq >= %s AND seq < %s ORDER BY seq",
                [start, start + BATCH],
            )
            rows = []
            for seq, leaf in cursor.fetchall():
                nodes = merkle.completed(frontier, seq, bytes(leaf))
                frontier = merkle.extend(frontier, nodes)
                rows.append((b"".join(nodes[1:]), seq))
            if not rows:
                return
            cursor.executemany(f"UPDATE {TABLE} SET nodes = %s WHERE seq = %s", rows)


class Migration(migrations.Migration):
    dependencies = [("requests_app", "0011_around_the_model")]

    operations = [
        migrations.AddField("auditentry", "nodes", models.BinaryField(null=True)),
        migrations.RunPython(spare_nodes, spare_nothing),
        migrations.RunPython(fill_nodes, migrations.RunPython.noop),
    ]
