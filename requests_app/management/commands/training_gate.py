"""`manage.py training_gate --file build.jsonl`: may this be trained on?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from requests_app import training_gate
from requests_app.commands import ToldCommand, progress
from requests_app.identifiers import KINDS
from requests_app.keys import KeyFileError, attest_key
from requests_app.services import suppression, training
from requests_app.services.errors import ServiceError
from requests_app.training_data import DataError, Source, kind_of
from requests_app.training_gate import Scanner

HOLDS, FOUND, COULD_NOT_RUN = 0, 1, 2


class Command(ToldCommand):
    help = (
        "Look through a build of training data for people who must not come back. Prints counts and"
        " record numbers, never a value, and writes a signed report about the build's bytes."
    )
    examples = (
        ("training_gate --file build.jsonl --report gate.json", "a build of no registered set"),
        ("training_gate --set crm --report gate.json --json", "a registered set as it lies there"),
        (
            "training_gate --set crm --file build.jsonl --exclude-to new.jsonl --report gate.json",
            "a build, without the records that would bring somebody back",
        ),
    )
    exits = (
        "0: nobody on the suppression list is in it (with --exclude-to: in what was written);"
        " 1: somebody would come back; 2: it could not run, and nothing is known"
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--set", default="", metavar="NAME", help="a registered training set")
        parser.add_argument("--file", type=Path, help="a build: .jsonl, .csv or .parquet")
        parser.add_argument("--id-field", default="", help="without a set: the field of the id")
        parser.add_argument(
            "--field",
            action="append",
            default=[],
            metavar="FIELD=KIND",
            help=f"a field that holds an identifier: {', '.join(KINDS)}",
        )
        parser.add_argument("--exclude-to", type=Path, metavar="FILE", help="write what may stay")
        parser.add_argument("--report", type=Path, metavar="FILE", help="write the signed report")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            code = self._run(options)
        except (DataError, KeyFileError, ServiceError) as problem:
            self.stderr.write(f"The gate could not run: {problem}")
            code = COULD_NOT_RUN
        if code:
            sys.exit(code)

    def _run(self, options: dict[str, Any]) -> int:
        name, file = options["set"], options["file"]
        source, fields = training.source_of(name) if name else (None, {})
        if file is not None:
            id_field = source.id_field if source else options["id_field"]
            source = Source(kind_of(file), str(file), id_field=id_field)
        if source is None:
            raise DataError("Name a registered set (--set) or a build (--file).")
        fields = {**fields, **_fields(options["field"])}
        held = suppression.list_in_force(name)
        with progress("records") as bar:
            found, cleaned = training_gate.gate(
                source,
                Scanner(held, name, fields),
                exclude_to=options["exclude_to"],
                progress=lambda records, hits: bar(records),
            )
        judged = cleaned or found
        if not judged.sha256 and options["report"]:
            raise DataError(
                "A query has no bytes that a report could be about: write it with --exclude-to."
            )
        if options["report"]:
            envelope = training_gate.report(
                found, cleaned, held=held, training_set=name, key=attest_key()
            )
            options["report"].write_bytes(envelope)
            training.record_gate(
                envelope=envelope,
                training_set=name,
                clear=not judged.hits,
                build=judged.sha256,
            )
        self._tell(found, judged, options)
        return FOUND if judged.hits else HOLDS

    def _tell(
        self, found: training_gate.Scan, judged: training_gate.Scan, options: dict[str, Any]
    ) -> None:
        told = {
            "records": judged.records,
            "found": len(judged.hits),
            "excluded": len(found.hits) if judged is not found else 0,
            "found_by": dict(found.kinds),
            "numbers": list(found.hits),
            "sha256": judged.sha256,
        }
        lines = [f"{found.records} records; {len(found.hits)} would bring somebody back."]
        lines += [f"  by {kind}: {count}" for kind, count in found.kinds.items()]
        if found.hits:
            lines.append(f"Records {training_gate.numbers(found.hits)}")
        if judged is not found:
            lines.append(f"{judged.records} records written without them.")
        self.tell(told, options, *lines)


def _fields(given: list[str]) -> dict[str, str]:
    pairs = dict(each.partition("=")[::2] for each in given)
    if not all(name and kind in KINDS for name, kind in pairs.items()):
        raise DataError(f"Write --field FIELD=KIND with a kind of {', '.join(KINDS)}.")
    return pairs
