"""`manage.py rotate_suppression --by ed`: a new key for the suppression list."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app import suppression
from requests_app.commands import ToldCommand, member_named
from requests_app.services.errors import ServiceError
from requests_app.services.suppression import rotate_tags
from requests_app.suppression import SuppressionKeyError


class Command(ToldCommand):
    help = (
        "Make the next key in RTBF_KEY_DIR/suppression and carry every tag on to it; no identifier"
        " is needed. All keys stay in use: back them up. Gate reports made before are not accepted"
        " any more."
    )
    examples = (("rotate_suppression --by ed", "make the next key and carry all tags over"),)
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--by", required=True, metavar="USERNAME")
        parser.add_argument(
            "--given", action="store_true", help="the new key is there already (environment)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        member = member_named(options["by"])
        try:
            if not options["given"]:
                suppression.make_next_key()
            count = rotate_tags(actor_member=member)
        except (ServiceError, SuppressionKeyError) as refused:
            raise CommandError(str(refused)) from None
        key = len(suppression.read_keys())
        self.tell({"tags": count, "key": key}, options, f"{count} tags are under key {key}.")
