"""`manage.py export_exclusions crm exclusions.json`: which records of a set a build leaves out."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app import training_data
from requests_app.commands import ToldCommand
from requests_app.services import suppression, training
from requests_app.services.errors import ServiceError
from requests_app.suppression import record_kind
from requests_app.training_data import DataError


class Command(ToldCommand):
    help = (
        "Write the excluded records of a set for the pipeline that builds from it: JSON with a"
        " fresh salt and, for each record, the hexadecimal HMAC-SHA256 of its id (UTF-8) under it."
        " No id is written. The file is for its owner alone; the gate still reads what is built."
    )
    examples = (
        ("export_exclusions crm exclusions.json", "for the pipeline that builds from the set crm"),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="a registered training set")
        parser.add_argument("path", type=Path, help="the file to write")

    def handle(self, *args: Any, **options: Any) -> None:
        name, salt = options["name"], secrets.token_bytes(32)
        kind = record_kind(name)
        try:
            source, _ = training.source_of(name)
            held = suppression.list_in_force(name)
            digests, count = [], 0
            for record in training_data.records(source):
                count = record.number
                if held.holds(kind, record.record_id):
                    value = record.record_id.encode(errors="surrogatepass")
                    digests.append(hmac.new(salt, value, hashlib.sha256).hexdigest())
        except (DataError, ServiceError) as problem:
            raise CommandError(str(problem)) from None
        content = {
            "set": name,
            "list": held.sha256,
            "records": count,
            "salt": salt.hex(),
            "excluded": sorted(digests),
        }
        descriptor = os.open(options["path"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            json.dump(content, file)
        self.tell(
            {"set": name, "records": count, "excluded": len(digests)},
            options,
            f"{len(digests)} of {count} records of {name} are excluded.",
        )
