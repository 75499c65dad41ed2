"""`manage.py recipient_key NAME`: the key under which a recipient makes keyed ids."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from requests_app.models import Recipient
from requests_app.services.recipients import match_key


class Command(BaseCommand):
    help = (
        "Print the key that a recipient needs to match keyed ids; hand it over by a safe channel."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:
        recipient = Recipient.objects.filter(name=options["name"]).first()
        if recipient is None:
            raise CommandError("There is no recipient of that name.")
        self.stdout.write(match_key(recipient))
