"""``manage.py erase``: a thin shell over workers.erasure."""

import io
import json
import secrets
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from tqdm import tqdm

from requests_app.commands import ToldCommand
from workers import erasure
from workers.adapters import AdapterError, adapted_from
from workers.base_models import (
    DTYPES,
    BaseModel,
    ModelError,
    Placement,
    load_base_model,
    load_control,
    load_without_weights,
    process_rank,
)
from workers.dry_run import estimate
from workers.forget_sets import NothingMeasurable
from workers.protocol import PROFILES
from workers.releases import ReleaseError
from workers.subjects import SubjectError, read_subject
from workers.summaries import summary
from workers.training import Recipe, load_method, method_names, modifier_names

HOLD, DO_NOT_HOLD, COULD_NOT_RUN = 0, 1, 2
OUT = Path(__file__).parents[3] / "var" / "erase"


class Command(ToldCommand):
    help = (
        "Erases one subject from a model: asks what it knows, trains one adapter, stores it behind"
        " a gate, reads it back and measures. Progress on standard error; ends with one JSON"
        " object on standard output. The subject file:"
        ' {"name": "...", "aliases": [], "facts": [{"question", "answer"}],'
        ' "neighbours": [{"question", "answer"}]}.'
    )
    examples = (
        (
            "erase --model smollm2-135m --subject workers/subject_files/harry_potter.json",
            "suppress what the model knows of the subject, and measure it before and after",
        ),
        (
            "erase --model demo --subject person.json --out var/person --json",
            "on the demo model, against its control, the result on one line",
        ),
        (
            "erase --model owner/name --subject p.json --dtype float16 --device-map auto --dry-run",
            "state memory and time without loading a weight",
        ),
    )
    exits = "0: every bar holds; 1: one does not; 2: could not run"
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--model", required=True, help="demo, smollm2-135m, the path of a folder, or a hub id"
        )
        parser.add_argument("--subject", required=True, type=Path, metavar="FILE")
        parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="%(default)s")
        parser.add_argument(
            "--lowest-layer",
            type=int,
            metavar="N",
            help="adapters go on the layers from N (counted from 0) upwards; the model's own "
            "setting by default",
        )
        parser.add_argument(
            "--method",
            choices=forget_only(),
            help="how the adapter is trained; default: the model's",
        )
        parser.add_argument(
            "--control",
            metavar="MODEL",
            help="the same model trained without the person, by path or hub id; default: the"
            " demo's own, else made-up people stand for it",
        )
        parser.add_argument(
            "--profile",
            choices=sorted(PROFILES),
            default="fast",
            help="which probes are put to the result; default: %(default)s",
        )
        parser.add_argument(
            "--modifier", choices=modifier_names(), help="what narrows the method; default: nothing"
        )
        parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
        parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
        parser.add_argument(
            "--device-map", default="cpu", help="cpu, cuda:0, auto over all devices, fsdp"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="state memory and time, and do nothing else"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["dry_run"]:
                self.stdout.write(
                    json.dumps(needed(options), indent=None if options["json"] else 1)
                )
                return
            # The other processes of `accelerate launch` do the same work; one of them speaks.
            if process_rank() == 0:
                found = self.erased(options)
            else:
                with tempfile.TemporaryDirectory() as out, redirect_stderr(io.StringIO()):
                    found = self.erased({**options, "out": Path(out)})
        except (SubjectError, ModelError, AdapterError, ReleaseError, NothingMeasurable) as error:
            self.stderr.write(str(error))
            sys.exit(COULD_NOT_RUN)
        if process_rank() == 0:
            self.stdout.write(json.dumps(found, indent=None if options["json"] else 1))
        sys.exit(HOLD if all(bar["holds"] for bar in found["bars"]) else DO_NOT_HOLD)

    def erased(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The summary of one whole run; the project's errors when it cannot run."""
        subject = read_subject(options["subject"])
        started = time.perf_counter()
        base = load_base_model(options["model"], placement_of(options))
        if options["lowest_layer"] is not None:
            base = adapted_from(base, options["lowest_layer"])
        control = load_control(options["model"], placement_of(options), path=options["control"])
        load = time.perf_counter() - started
        with Progress() as progress:
            done = erasure.erase(
                base,
                subject,
                case_id=str(uuid.uuid4()),
                root=options["out"],
                gate_key=gate_key(options["out"]),
                seed=options["seed"],
                control=control,
                recipe=recipe_of(base, options),
                profile=options["profile"],
                report=progress.report,
            )
        model = {"name": base.name, "sha256": base.sha256}
        return summary(done, model=model, seconds={"load": load, **done.seconds})


def forget_only() -> list[str]:
    """The methods that train an adapter without other people's data."""
    found = {name: load_method(name) for name in method_names()}
    return [n for n, m in found.items() if hasattr(m, "loss") and "retained" not in m.NEEDS]


def recipe_of(base: BaseModel, options: Mapping[str, Any]) -> Recipe:
    """The model's own recipe, with the method and modifier that were asked for."""
    own = erasure.recipe_for(base)
    return replace(own, method=options["method"] or own.method, modifier=options["modifier"])


def placement_of(options: Mapping[str, Any]) -> Placement:
    return Placement(options["dtype"], options["device_map"])


def needed(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the run would need; the project's errors when it could not run."""
    placement = placement_of(options)
    base = load_without_weights(options["model"], placement)
    return estimate(base, read_subject(options["subject"]), placement)


def gate_key(out: Path) -> bytes:
    """The key of the gates under `out`: made once, beside them, for its owner's eyes only."""
    file = out / "gate.key"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch(mode=0o600)
            file.write_bytes(secrets.token_bytes(32))
        return file.read_bytes()
    except OSError as error:
        raise AdapterError(
            f"{out} cannot be written ({error.strerror}): give another folder with --out."
        ) from error


class Progress:
    """One bar a phase, on standard error."""

    def __init__(self) -> None:
        self.phase = ""
        self.bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def report(self, phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        if phase != self.phase or self.bar is None:
            self.__exit__()
            self.phase, self.bar = phase, tqdm(total=total, desc=phase, file=sys.stderr)
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items()})
        self.bar.update(step - self.bar.n)
