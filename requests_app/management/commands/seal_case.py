"""`manage.py seal_case ERQ-2026-000123`: close a case for good and destroy its key."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.actors import SYSTEM, staff_actor
from requests_app.commands import ToldCommand, case_named, member_named
from requests_app.services import cases
from requests_app.services.errors import ServiceError


class Command(ToldCommand):
    help = (
        "Seal a finished case: its key, personal data and commitment salts are destroyed, for good."
        " The log and the bundle keep their proofs. Prepare an export first if one is wanted."
    )
    examples = (
        (
            "seal_case ERQ-2026-000123 --by ana",
            "for good: prepare an export first if one is wanted",
        ),
    )
    reports = True

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
            actor = staff_actor(member_named(options["by"]))
        case = case_named(options["reference"])
        try:
            cases.seal_case(case_id=case.id, actor=actor)
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        self.tell({"sealed": case.reference}, options, f"{case.reference} is sealed.")
