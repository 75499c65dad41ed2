"""`manage.py gateway_use`: how much each key asked of the gateway, by day."""

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from requests_app.commands import ToldCommand
from requests_app.services import gateway


class Command(ToldCommand):
    help = "How much each API client asked of the gateway, by day (UTC): counts, and no prompts."
    examples = (("gateway_use --days 7", "the last week, a line for each client and day"),)
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, default=30, help="default: 30")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = [
            {
                "day": use.day.isoformat(),
                "client": use.client.name,
                "requests": use.requests,
                "prompt_tokens": use.prompt_tokens,
                "completion_tokens": use.completion_tokens,
            }
            for use in gateway.use_since(timezone.now().date() - timedelta(days=options["days"]))
        ]
        lines = [
            "{day}  {client}: requests {requests}, tokens read {prompt_tokens}, "
            "said {completion_tokens}".format(**row)
            for row in rows
        ]
        self.tell({"use": rows}, options, *lines or ["No key asked anything in these days."])
