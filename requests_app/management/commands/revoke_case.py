"""`manage.py revoke_case ERQ-2026-000123`: take one case's adapter out of force again."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from requests_app import selectors
from requests_app.models import Revocation
from requests_app.services import releases
from requests_app.services.errors import ServiceError


class Command(BaseCommand):
    help = (
        "Revoke the erasure of one case after a successful appeal, or because it met the wrong"
        " person: once with --cause to propose it, once with --approve by another person. All"
        " other adapters stay as they are. What is merged into the weights cannot be revoked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="e.g. ERQ-2026-000123")
        parser.add_argument("--by", required=True, metavar="USERNAME")
        step = parser.add_mutually_exclusive_group(required=True)
        step.add_argument("--cause", choices=Revocation.Cause.values, help="propose it")
        step.add_argument("--approve", action="store_true", help="approve what was proposed")

    def handle(self, *args: Any, **options: Any) -> None:
        member = selectors.active_staff(options["by"])
        if member is None:
            raise CommandError(f"There is no member of staff {options['by']} who is active.")
        case = selectors.case_by_reference(options["reference"])
        if case is None:
            raise CommandError(f"There is no case {options['reference']}.")
        try:
            if options["cause"]:
                releases.propose_revocation(
                    case_id=case.id, cause=options["cause"], actor_member=member
                )
                self.stdout.write(f"{case.reference}: proposed; another person approves it.")
                return
            for release in releases.revoke_case(case_id=case.id, actor_member=member):
                self.stdout.write(f"{release.model_name}: release {release.digest} is in force.")
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
