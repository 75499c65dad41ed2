"""`manage.py run`: serve the whole installation on this machine until Ctrl-C."""

import json
import sys
import time
import webbrowser
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from requests_app.commands import ToldCommand
from rtbf.stack import Stack, StackError, start_stack


class Command(ToldCommand):
    help = (
        "Start Redis (unless REDIS_URL is set), web, workers, beat, signer, gateway; Ctrl-C stops."
        " With DATABASE_URL and REDIS_URL it uses those servers."
    )
    examples = (
        ("run", "on http://127.0.0.1:8000"),
        ("run --port 8080", "on another port"),
        ("run --no-browser", "without opening the browser"),
    )
    exits = "0: stopped by Ctrl-C; 1: a process failed; 2: the command line is wrong"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="port of the web server")
        parser.add_argument(
            "--gateway-port", type=int, default=8010, help="port of the model's API"
        )
        parser.add_argument(
            "--no-browser", action="store_false", dest="browser", help="open no page in a browser"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with start_stack(
                settings.RTBF_VAR_DIR, port=options["port"], gateway_port=options["gateway_port"]
            ) as stack:
                self.stdout.write("\n".join(["", *begin_here(stack), "", "Ctrl-C stops it."]))
                if settings.RTBF_DEMO_DATA and options["browser"] and sys.stdout.isatty():
                    webbrowser.open(f"{stack.url}/welcome")
                while not (dead := stack.dead()):
                    time.sleep(1)
                raise CommandError(f"{dead[0]} stopped:\n{stack.log_tail(dead[0])}")
        except KeyboardInterrupt:
            self.stdout.write("\nStopped.\n")
        except StackError as error:
            raise CommandError(str(error)) from error


def begin_here(stack: Stack) -> list[str]:
    """What a newcomer reads once everything runs: where to click first, and with which log-in."""
    lines = [
        f"  public pages  {stack.url}/",
        f"  staff pages   {stack.url}/app/",
        f"  guarded model {stack.env['RTBF_GATEWAY_URL']}/v1",
        f"  mail          {stack.var_dir / 'outbox'}",
    ]
    if not settings.RTBF_DEMO_DATA:
        return [f"Ready: {stack.url}", *lines]
    staff = json.loads(stack.manage("create_staff", "--demo", "--json"))["staff"]
    lines += [f"  log-in        {each['username']:14} {each['password']}" for each in staff]
    return [f"Ready. Begin at {stack.url}/welcome", *lines, "  made-up cases: make sample"]
