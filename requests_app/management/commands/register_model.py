"""`manage.py register_model copy-8bit --kind quantised --sha256 … --parent … --by ed`."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from requests_app import selectors
from requests_app.models import ModelNode
from requests_app.services import lineage
from requests_app.services.errors import ServiceError


class Command(BaseCommand):
    help = (
        "Register weights, or what was made of them (a quantised copy, a distilled model, an index,"
        " an exported adapter), with what they came of. Releases register their own weights."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--kind", required=True, choices=ModelNode.Kind.values)
        parser.add_argument("--sha256", required=True, help="digest of the weights")
        parser.add_argument("--parent", action="append", default=[], metavar="SHA256")
        parser.add_argument("--by", required=True, metavar="USERNAME")

    def handle(self, *args: Any, **options: Any) -> None:
        member = selectors.active_staff(options["by"])
        if member is None:
            raise CommandError(f"There is no member of staff {options['by']} who is active.")
        try:
            node = lineage.register_model(
                name=options["name"],
                kind=options["kind"],
                sha256=options["sha256"],
                parents=options["parent"],
                actor_member=member,
            )
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        self.stdout.write(f"{node.name}: {node.get_kind_display().lower()} {node.pk}")
