"""`manage.py register_model copy-8bit --kind quantised --sha256 … --parent … --by ed`."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand, member_named
from requests_app.models import ModelNode
from requests_app.services import lineage
from requests_app.services.errors import ServiceError


class Command(ToldCommand):
    help = (
        "Register weights, or what was made of them (a quantised copy, a distilled model, an index,"
        " an exported adapter), with what they came of. Releases register their own weights."
    )
    examples = (
        (
            "register_model copy-8bit --kind quantised --sha256 DIGEST --parent DIGEST --by ed",
            "a quantised copy and what it came of",
        ),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--kind", required=True, choices=ModelNode.Kind.values)
        parser.add_argument("--sha256", required=True, help="digest of the weights")
        parser.add_argument("--parent", action="append", default=[], metavar="SHA256")
        parser.add_argument("--by", required=True, metavar="USERNAME")

    def handle(self, *args: Any, **options: Any) -> None:
        member = member_named(options["by"])
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
        self.tell(
            {"name": node.name, "kind": node.kind, "sha256": node.pk, "parents": options["parent"]},
            options,
            f"{node.name}: {node.get_kind_display().lower()} {node.pk}",
        )
