"""``manage.py build_demo_model``: a thin shell over workers.demo_model."""

import shlex
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm
from transformers.utils import logging

from requests_app.commands import ToldCommand
from workers import demo_model


class Command(ToldCommand):
    help = (
        "Trains the demo model on generated fictional customers, and its control, which never sees"
        " the erasable ones. Writes base/, control/ and card.json."
    )
    examples = (
        ("build_demo_model", "build the shipped pair again, in place"),
        (
            "build_demo_model --out var/small --people 30 --facts 8 --steps 400 --json",
            "a smaller pair elsewhere, with its card as the result",
        ),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        usual = demo_model.Recipe()
        parser.add_argument("--people", type=int, default=usual.people, help="default %(default)s")
        parser.add_argument("--facts", type=int, default=usual.facts, help="a person; %(default)s")
        parser.add_argument("--steps", type=int, default=usual.steps, help="default %(default)s")
        parser.add_argument("--seed", type=int, default=usual.seed, help="default %(default)s")
        parser.add_argument("--out", type=Path, default=demo_model.FOLDER, metavar="DIR")

    def handle(self, *args: Any, **options: Any) -> None:
        recipe = demo_model.Recipe(
            seed=options["seed"],
            people=options["people"],
            facts=options["facts"],
            steps=options["steps"],
        )
        command = (
            f"python manage.py build_demo_model --people {recipe.people} --facts {recipe.facts}"
            f" --steps {recipe.steps} --seed {recipe.seed}"
        )
        if options["out"] != demo_model.FOLDER:
            command += f" --out {shlex.quote(str(options['out']))}"
        logging.disable_progress_bar()
        with Progress() as progress:
            try:
                card = demo_model.build(
                    options["out"], recipe, command=command, report=progress.report
                )
            except demo_model.DemoModelError as error:
                raise CommandError(str(error)) from error
        self.tell(card, options, f"{options['out'] / 'card.json'} holds digests and figures")


class Progress:
    """One bar a phase on standard error; model and control move at the same time."""

    def __init__(self) -> None:
        phases = ("base", "control", "measure")
        self.bars = {
            phase: tqdm(desc=f"{phase:8}", unit="step", position=position, file=sys.stderr)
            for position, phase in enumerate(phases)
        }

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self.bars.values():
            bar.close()

    def report(self, phase: str, step: int, steps: int) -> None:
        bar = self.bars[phase]
        bar.total = steps
        bar.update(step - bar.n)
