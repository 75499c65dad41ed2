"""``manage.py gateway``: serve a guarded model over OpenAI's API."""

from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand
from rtbf.telemetry import traced_gateway
from workers.gateway import GATE_PATH, PATHS, Gateway


class Command(ToldCommand):
    help = (
        "Serves the release in force on a model, behind its gate, over OpenAI's API. A caller needs"
        " a key: create_api_client NAME --scope gateway --controller-id NAME --role controller. The"
        " release in force is followed; Ctrl-C ends what is in the making."
    )
    examples = (
        ("gateway", "the first model of RTBF_MODELS on this machine, port 8010"),
        ("gateway --host 0.0.0.0 --port 8010 --model demo", "for other machines"),
    )
    exits = "0: stopped; 1: it may not serve this model; 2: the command line is wrong"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8010)
        parser.add_argument("--model", default=settings.RTBF_MODELS[0])

    def handle(self, *args: Any, **options: Any) -> None:
        if options["model"] not in settings.RTBF_MODELS:
            raise CommandError(f"RTBF_MODELS names {', '.join(settings.RTBF_MODELS)} alone.")
        uvicorn.run(
            traced_gateway(
                Gateway(options["model"]), {"/healthz", "/v1/models", *PATHS, GATE_PATH}
            ),
            host=options["host"],
            port=options["port"],
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=5,
        )
