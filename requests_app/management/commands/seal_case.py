"""`manage.py seal_case ERQ-2026-000123`: close a case for good and destroy its key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from requests_app import selectors
from requests_app.actors import SYSTEM, staff_actor
from requests_app.models import StaffMember
from requests_app.services import cases
from requests_app.services.errors import ServiceError


class Command(BaseCommand):
    help = (
        "Seal a finished case: its key, personal data and commitment salts are destroyed, for good."
        " The log and the bundle keep their proofs. Prepare an export first if one is wanted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="e.g. ERQ-2026-000123")
        parser.add_argument(
            "--by",
            metavar="USERNAME",
            help="the officer or approver to enter in the log; without it, the system",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        actor = SYSTEM
        if options["by"]:
            member = StaffMember.objects.filter(username=options["by"], is_active=True).first()
            if member is None:
                raise CommandError(f"There is no member of staff {options['by']} who is active.")
            actor = staff_actor(member)
        case = selectors.case_by_reference(options["reference"])
        if case is None:
            raise CommandError(f"There is no case {options['reference']}.")
        try:
            cases.seal_case(case_id=case.id, actor=actor)
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        self.stdout.write(f"{case.reference} is sealed.")
