"""`manage.py register_training_set crm /srv/crm.jsonl --by ed`: data that models are trained on."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand, member_named
from requests_app.identifiers import KINDS
from requests_app.services import training
from requests_app.services.errors import ServiceError
from requests_app.training_data import DataError


class Command(ToldCommand):
    help = (
        "Register a training set, or describe one anew: a .jsonl, .csv or .parquet file (Parquet"
        " needs pyarrow), or a query with the environment variable that holds a read-only DSN."
    )
    examples = (
        (
            "register_training_set crm /srv/crm.jsonl --id-field id --field mail=email --by ed",
            "a file, with the fields that hold identifiers",
        ),
        (
            'register_training_set crm CRM_DSN --query "SELECT id, mail FROM people" --by ed',
            "a database, read-only",
        ),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="small letters, digits, hyphens")
        parser.add_argument("location", help="a path; with --query the variable, e.g. CRM_DSN")
        parser.add_argument("--by", required=True, metavar="USERNAME")
        parser.add_argument("--query", default="", help="one SELECT, run read-only")
        parser.add_argument("--id-field", default="", help="without one: a digest of the record")
        parser.add_argument(
            "--field",
            action="append",
            default=[],
            metavar="FIELD=KIND",
            help=f"a field that holds an identifier: {', '.join(KINDS)}",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        member = member_named(options["by"])
        try:
            found = training.register_training_set(
                name=options["name"],
                location=options["location"],
                query=options["query"],
                id_field=options["id_field"],
                fields=dict(each.partition("=")[::2] for each in options["field"]),
                actor_member=member,
            )
        except (DataError, ServiceError) as refused:
            raise CommandError(str(refused)) from None
        self.tell(
            {"set": found.name, "kind": found.kind},
            options,
            f"{found.name}: {found.get_kind_display()}",
        )
