"""`manage.py create_api_client NAME …`: enter a client of the API and print its key once."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand
from requests_app.models import ApiClient
from requests_app.services import api_requests
from requests_app.services.errors import ServiceError


class Command(ToldCommand):
    help = "Enter a client of the API. Its key is printed once and not stored."
    examples = (
        (
            "create_api_client shop --controller-id shop --role processor --scope write:requests",
            "a client that files requests; prints its key",
        ),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--controller-id", required=True, help="what it is called in answers")
        parser.add_argument(
            "--role",
            choices=ApiClient.Role.values,
            required=True,
            help="what we are towards it: processor acts on its instruction; or agent, of the Data"
            " Rights Protocol, whose --controller-id is its agent-id",
        )
        parser.add_argument(
            "--scope", action="append", choices=api_requests.SCOPES, required=True, dest="scopes"
        )
        parser.add_argument(
            "--callback-host",
            action="append",
            default=[],
            dest="callback_hosts",
            help="host or host:port that it may be called back at",
        )
        parser.add_argument(
            "--verify-key", default="", help="base64 Ed25519 key: its requests must be signed"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        names = ("name", "controller_id", "role", "scopes", "callback_hosts", "verify_key")
        try:
            _, key = api_requests.create_client(**{name: options[name] for name in names})
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        if options["role"] == ApiClient.Role.AGENT:
            words = "Entered; it fetches its token itself."
            self.tell({"name": options["name"]}, options, words)
        else:
            self.tell({"name": options["name"], "key": key}, options, key)
