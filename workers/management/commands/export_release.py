"""``manage.py export_release``: the release in force as files for PEFT, vLLM or from_pretrained."""

from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand, member_named
from requests_app.services import gateway as record
from requests_app.services.errors import ServiceError
from workers import shared_files
from workers.adapters import AdapterError
from workers.base_models import ModelError, model_folder
from workers.release_export import FORMATS, ExportRefused, export_release
from workers.releases import ReleaseError, release_of
from workers.weights import load_served


class Command(ToldCommand):
    help = (
        "Writes the release in force on a model as files for another server. The gate stays behind:"
        " no other server does what the gateway does, and README.txt in the folder says what each"
        " cannot do."
    )
    examples = (
        (
            "export_release --model smollm2-135m --to export --format vllm --by ed",
            "adapters for vLLM, and a router that asks the gate which one may act",
        ),
        (
            "export_release --model demo --to export --format merged",
            "weights for from_pretrained, where all cases are merged or exact",
        ),
    )
    exits = "0: done; 1: refused, and nothing was written; 2: the command line is wrong"
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model", required=True, help="as in RTBF_MODELS")
        parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
        parser.add_argument("--format", choices=FORMATS, required=True)
        parser.add_argument(
            "--every-adapter-on",
            action="store_true",
            help="with merged: add all adapters at full strength, which is not what the gate does",
        )
        parser.add_argument("--by", metavar="USERNAME", help="the engineer or approver in the log")

    def handle(self, *args: Any, **options: Any) -> None:
        member = member_named(options["by"]) if options["by"] else None
        model, root = options["model"], Path(settings.RTBF_RELEASE_DIR)
        try:
            wanted = record.to_serve(model)
            if wanted.blocked or wanted.release is None or wanted.base_sha256 is None:
                raise ExportRefused(wanted.blocked or f"No release of {model} is in force.")
            release = release_of(wanted.manifest)
            shared_files.fetch(release.adapters)
            weights = root / "weights" / wanted.base_sha256
            lies_in = weights if weights.is_dir() else model_folder(model)
            export_release(
                load_served(model, wanted.base_sha256, root),
                release,
                manifest=wanted.manifest,
                form=options["format"],
                to=options["to"],
                adapters_root=Path(settings.RTBF_ADAPTER_DIR),
                weights=weights if weights.is_dir() else None,
                all_on=options["every_adapter_on"],
                note=partial(
                    record.record_export,
                    model_name=model,
                    release=release.sha256,
                    form=options["format"],
                    actor_member=member,
                ),
            )
        except (AdapterError, ExportRefused, ModelError, ReleaseError, ServiceError) as error:
            raise CommandError(str(error)) from None
        found = {"model": model, "release": release.sha256, "format": options["format"]}
        found |= {"adapters": len(release.adapters), "base": str(lies_in)}
        line = f"The release {release.sha256} is in {options['to']}; README.txt says what it is."
        more = [] if options["format"] == "merged" else [f"Its base model lies in {lies_in}."]
        self.tell(found, options, line, *more)
