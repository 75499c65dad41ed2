"""`manage.py verify_log`: read the whole log again and compare it with all that was signed."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app import audit
from requests_app.commands import ToldCommand


class Command(ToldCommand):
    help = "Hash every stored entry anew; check chains, nodes, the head, checkpoints."
    examples = (
        ("verify_log", "read the whole log and say whether it fits"),
        ("verify_log --json", "the same as one JSON object"),
    )
    exits = (
        "0: all fits together; 1: something does not, and is named; 2: the command line is wrong"
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--rebuild-nodes",
            action="store_true",
            help="write the nodes that proofs are read from anew, if nothing else is wrong; as the"
            " owner of the tables",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            log = self._verified(rebuild=options["rebuild_nodes"])
        except audit.LogError as problem:
            raise CommandError(str(problem)) from None
        self.tell(
            {
                "entries": log.entries,
                "cases": log.cases,
                "checkpoints": log.checkpoints,
                "root": log.root.hex(),
            },
            options,
            f"{log.entries} entries in {log.cases} cases and {log.checkpoints} checkpoints fit"
            f" together. Root of the log: {log.root.hex()}",
        )

    def _verified(self, *, rebuild: bool) -> audit.LogCheck:
        try:
            return audit.verify_log()
        except audit.NodesDiffer as found:
            if not rebuild:
                raise CommandError(
                    f"{found} Nothing else is wrong. Find out who changed them; proofs verify again"
                    " after `manage.py verify_log --rebuild-nodes`, run as the owner of the tables."
                ) from None
        self.stderr.write(f"Nodes written anew: {audit.rebuild_nodes()}.")
        return audit.verify_log()
