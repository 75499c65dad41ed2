"""`manage.py register_training_set crm /srv/crm.jsonl --by ed`: data that models are trained on."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from requests_app import selectors
from requests_app.identifiers import KINDS
from requests_app.services import training
from requests_app.services.errors import ServiceError
from requests_app.training_data import DataError


class Command(BaseCommand):
    help = (
        "Register a training set, or describe one anew: a .jsonl, .csv or .parquet file (Parquet"
        " needs pyarrow), or a query with the environment variable that holds a read-only DSN."
    )

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
        member = selectors.active_staff(options["by"])
        if member is None:
            raise CommandError(f"There is no member of staff {options['by']} who is active.")
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
        self.stdout.write(f"{found.name}: {found.get_kind_display()}")
