"""`manage.py migrate_as_owner`: tables belong to one role, the application uses them as another.

PostgreSQL asks for rights before it asks a trigger: the application's role can add entries and
checkpoints, and cannot change or remove them, empty or alter their tables, or switch triggers off.
"""

import os
from typing import Any

import dj_database_url
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction

from requests_app.commands import ToldCommand
from requests_app.models import AuditEntry, Checkpoint, CheckpointMark, LogHead
from requests_app.vault import OVERWRITTEN

HAS_MAINTAIN = 170000  # the version of PostgreSQL that knows the right to write a table anew
RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
FEWER_RIGHTS = {
    AuditEntry._meta.db_table: "SELECT, INSERT",
    Checkpoint._meta.db_table: "SELECT, INSERT",
    CheckpointMark._meta.db_table: "SELECT, INSERT",
    LogHead._meta.db_table: "SELECT, INSERT, UPDATE",
    "django_migrations": "SELECT",
}


class Command(ToldCommand):
    help = (
        "Migrate as the owner of the tables (DATABASE_MIGRATION_URL), then give the role that"
        " DATABASE_URL names exactly the rights the application needs; the role is made if there is"
        " none. PostgreSQL only. Run it instead of migrate; again after every update."
    )
    examples = (("migrate_as_owner", "after every update, with DATABASE_MIGRATION_URL set"),)

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor != "postgresql":
            raise CommandError("Only PostgreSQL has roles; elsewhere use migrate.")
        if not (url := os.environ.get("DATABASE_MIGRATION_URL")):
            raise CommandError("Set DATABASE_MIGRATION_URL to the owner's address of the database.")
        role, password = (str(connection.settings_dict[key]) for key in ("USER", "PASSWORD"))
        connection.close()
        connection.settings_dict.update(dj_database_url.parse(url))
        call_command("migrate", interactive=False, verbosity=options["verbosity"])
        restrict(role, password)
        self.stdout.write(f"{role} has the application's rights, and no others.")


@transaction.atomic
def restrict(role: str, password: str) -> None:
    """Give `role` the application's rights; make it with `password` if there is none.

    CommandError for a role that could take any right: the owner, a member of it, a superuser.
    """
    name = connection.ops.quote_name(role)
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    with connection.cursor() as cursor:
        has_maintain = cursor.connection.info.server_version >= HAS_MAINTAIN
        cursor.execute(
            "SELECT pg_has_role(oid, current_user, 'MEMBER') FROM pg_roles WHERE rolname = %s",
            [role],
        )
        found = cursor.fetchone()
        if found is None:
            _create(role, password)
        elif found[0]:
            raise CommandError(
                f"{role} is the owner of the tables, or can become it: name another."
            )
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        cursor.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name}")
        for table in {*tables, *FEWER_RIGHTS}:
            rights = FEWER_RIGHTS.get(table, RIGHTS)
            if table in OVERWRITTEN and has_maintain:
                rights += ", MAINTAIN"
            cursor.execute(f"GRANT {rights} ON {connection.ops.quote_name(table)} TO {name}")


def _create(role: str, password: str) -> None:
    """The role; of the password only a SCRAM verifier leaves this process."""
    with connection.cursor() as cursor:
        verifier = cursor.connection.pgconn.encrypt_password(
            password.encode(), role.encode(), b"scram-sha-256"
        )
        name = connection.ops.quote_name(role)
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD %s", [verifier.decode()])
