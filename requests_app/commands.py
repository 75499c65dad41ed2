"""What all management commands share: help with examples, exit codes, JSON, a progress bar.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from tqdm import tqdm

from requests_app import selectors
from requests_app.models import Case, StaffMember

WIDTH = 79
EXITS = "0: done; 1: refused, and nothing was changed; 2: the command line is wrong"


class ToldCommand(BaseCommand):
    """A command that shows how it is used.

    `examples`: command lines after `manage.py`, each with what it does; `exits`: its exit codes;
    `reports`: whether it has a result that `--json` prints as one object.
    """

    examples: tuple[tuple[str, str], ...] = ()
    exits: str = EXITS
    reports: bool = False

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        shown = "\n".join(f"  manage.py {line}\n      {what}" for line, what in self.examples)
        parser = super().create_parser(
            prog_name,
            subcommand,
            epilog=f"Examples:\n{shown}\n\n{textwrap.fill(f'Exit {self.exits}.', WIDTH)}",
            formatter_class=_Help,
            **kwargs,
        )
        parser.description = textwrap.fill(self.help, WIDTH)
        if self.reports:
            parser.add_argument("--json", action="store_true", help="print one JSON object")
        return parser

    def tell(self, found: Mapping[str, Any], options: Mapping[str, Any], *lines: str) -> None:
        """Print the result: one JSON object on one line where that was asked for, else `lines`."""
        for line in [json.dumps(found)] if options["json"] else lines:
            self.stdout.write(line)


class _Help(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of arguments, with the line breaks of examples kept."""


def member_named(username: str) -> StaffMember:
    """The active member of staff of that log-in name; CommandError if there is none."""
    member = selectors.active_staff(username)
    if member is None:
        raise CommandError(f"There is no member of staff {username} who is active.")
    return member


def case_named(reference: str) -> Case:
    """The case of that reference; CommandError if there is none."""
    case = selectors.case_by_reference(reference)
    if case is None:
        raise CommandError(f"There is no case {reference}.")
    return case


@contextmanager
def progress(what: str, *, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; call what it yields with how much is done."""
    with tqdm(total=total, desc=what, file=sys.stderr) as bar:
        yield lambda done: _to(bar, done)


def _to(bar: tqdm, done: int) -> None:
    bar.update(done - bar.n)
