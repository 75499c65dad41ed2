"""`manage.py recipient_key NAME`: the key under which a recipient makes keyed ids."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand
from requests_app.models import Recipient
from requests_app.services.recipients import match_key


class Command(ToldCommand):
    help = (
        "Print the key that a recipient needs to match keyed ids; hand it over by a safe channel."
    )
    examples = (('recipient_key "Lantern Hosting"', "the key to hand over to this recipient"),)
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:
        recipient = Recipient.objects.filter(name=options["name"]).first()
        if recipient is None:
            raise CommandError("There is no recipient of that name.")
        key = match_key(recipient)
        self.tell({"recipient": recipient.name, "key": key}, options, key)
