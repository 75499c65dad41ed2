"""`manage.py revoke_api_client NAME`: the client's key opens nothing any more."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand
from requests_app.services import api_requests
from requests_app.services.errors import ServiceError


class Command(ToldCommand):
    help = "Revoke a client of the API."
    examples = (("revoke_api_client shop", "its key opens nothing any more"),)
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            api_requests.revoke_client(name=options["name"])
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        self.tell({"name": options["name"], "revoked": True}, options, "Revoked.")
