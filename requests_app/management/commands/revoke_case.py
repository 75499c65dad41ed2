"""`manage.py revoke_case ERQ-2026-000123`: take one case's adapter out of force again."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand, case_named, member_named
from requests_app.models import Revocation
from requests_app.services import releases
from requests_app.services.errors import ServiceError


class Command(ToldCommand):
    help = (
        "Revoke the erasure of one case after a successful appeal, or because it met the wrong"
        " person: once with --cause to propose it, once with --approve by another person. All"
        " other adapters stay as they are. What is merged into the weights cannot be revoked."
    )
    examples = (
        ("revoke_case ERQ-2026-000123 --by ana --cause wrong_person", "propose it"),
        ("revoke_case ERQ-2026-000123 --by ben --approve", "approve it, as another person"),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="e.g. ERQ-2026-000123")
        parser.add_argument("--by", required=True, metavar="USERNAME")
        step = parser.add_mutually_exclusive_group(required=True)
        step.add_argument("--cause", choices=Revocation.Cause.values, help="propose it")
        step.add_argument("--approve", action="store_true", help="approve what was proposed")

    def handle(self, *args: Any, **options: Any) -> None:
        member = member_named(options["by"])
        case = case_named(options["reference"])
        try:
            if options["cause"]:
                releases.propose_revocation(
                    case_id=case.id, cause=options["cause"], actor_member=member
                )
                live = []
            else:
                live = releases.revoke_case(case_id=case.id, actor_member=member)
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        said = [f"{each.model_name}: release {each.digest} is in force." for each in live]
        self.tell(
            {
                "case": case.reference,
                "state": "proposed" if options["cause"] else "revoked",
                "releases": {each.model_name: each.digest for each in live},
            },
            options,
            *(said or [f"{case.reference}: proposed; another person approves it."]),
        )
