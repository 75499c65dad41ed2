"""`manage.py run`: serve the whole installation on this machine until Ctrl-C."""

import json
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from rtbf.stack import StackError, start_stack


class Command(BaseCommand):
    help = (
        "Start Redis (unless REDIS_URL is set), web, workers, beat, signer and gateway; Ctrl-C\n"
        "stops them.\n\n"
        "examples:\n"
        "  manage.py run\n"
        "  manage.py run --port 8080\n"
        "  DATABASE_URL=postgres://… REDIS_URL=redis://… manage.py run"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.add_argument("--port", type=int, default=8000, help="port of the web server")
        parser.add_argument(
            "--gateway-port", type=int, default=8010, help="port of the model's API"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with start_stack(
                settings.RTBF_VAR_DIR, port=options["port"], gateway_port=options["gateway_port"]
            ) as stack:
                self.stdout.write(f"\nReady: {stack.url}\n  staff pages: {stack.url}/app/\n")
                self.stdout.write(f"  the guarded model: {stack.env['RTBF_GATEWAY_URL']}/v1\n")
                if settings.RTBF_DEMO_DATA:
                    for login in json.loads(stack.manage("create_staff", "--demo", "--json")):
                        self.stdout.write(
                            f"  log-in {login['username']:14} password {login['password']}\n"
                        )
                self.stdout.write(f"  mail lies in {stack.var_dir / 'outbox'}\nCtrl-C stops it.\n")
                while not (dead := stack.dead()):
                    time.sleep(1)
                raise CommandError(f"{dead[0]} stopped:\n{stack.log_tail(dead[0])}")
        except KeyboardInterrupt:
            self.stdout.write("\nStopped.\n")
        except StackError as error:
            raise CommandError(str(error)) from error
