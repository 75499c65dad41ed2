"""``manage.py gateway``: serve a guarded model over OpenAI's API."""

import argparse
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from workers.gateway import Gateway

EXAMPLES = """examples:
  python manage.py gateway
      serves the first model of RTBF_MODELS on this machine, port 8010
  python manage.py gateway --host 0.0.0.0 --port 8010 --model smollm2-135m

A caller needs a key: manage.py create_api_client NAME --scope gateway --controller-id NAME
--role controller. The release in force is loaded and followed; Ctrl-C ends what is in the making.
"""


class Command(BaseCommand):
    help = "Serves the release in force on a model, behind its gate, over OpenAI's API."

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            *args, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8010)
        parser.add_argument("--model", default=settings.RTBF_MODELS[0])

    def handle(self, *args: Any, **options: Any) -> None:
        if options["model"] not in settings.RTBF_MODELS:
            raise CommandError(f"RTBF_MODELS names {', '.join(settings.RTBF_MODELS)} alone.")
        uvicorn.run(
            Gateway(options["model"]),
            host=options["host"],
            port=options["port"],
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=5,
        )
