"""A backup of the whole database, and its restore, as an operator's tools would do it."""

from typing import Any

from django.db import connection, transaction

from tests.append_only import triggers_dropped

Backup = dict[str, tuple[list[str], list[tuple[Any, ...]]]]
KEPT = {"django_migrations", "sqlite_sequence"}


def take_backup() -> Backup:
    """Every row of every table."""
    saved: Backup = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table not in KEPT:
                cursor.execute(f"SELECT * FROM {quoted(table)}")  # noqa: S608
                columns = [column[0] for column in cursor.description]
                saved[table] = (columns, list(cursor.fetchall()))
    return saved


def restore(saved: Backup) -> None:
    """Put the rows of a backup in the place of all that there is now, as the tables' owner."""
    with triggers_dropped(), transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA defer_foreign_keys = ON")
        else:
            cursor.execute("SET LOCAL session_replication_role = replica")
        for table in saved:
            cursor.execute(f"DELETE FROM {quoted(table)}")  # noqa: S608
        for table, (columns, rows) in saved.items():
            names = ", ".join(map(quoted, columns))
            places = ", ".join(["%s"] * len(columns))
            into = f"INSERT INTO {quoted(table)} ({names}) VALUES ({places})"  # noqa: S608
            cursor.executemany(into, rows)


def quoted(name: str) -> str:
    return connection.ops.quote_name(name)
