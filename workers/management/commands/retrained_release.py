"""``manage.py retrained_release``: weights trained anew, measured, put in force (exact)."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import CommandParser

from requests_app import training_gate
from requests_app.commands import ToldCommand, member_named
from requests_app.services import releases, retraining, suppression
from requests_app.services.retraining import TrainedOn
from requests_app.training_data import DataError, file_sha256
from requests_app.training_gate import GateRefused
from workers.base_models import load_control
from workers.consolidation import (
    Consolidation,
    ConsolidationError,
    Retrained,
    plan,
    read_retained,
    registered_data,
)
from workers.management.commands.consolidate_release import REFUSED
from workers.management.commands.erase import Progress
from workers.merging import REFUSALS, case_figures, gated_cases, root, with_references
from workers.retraining import load_retrained, release_retrained
from workers.weights import load_served, quarantine

if TYPE_CHECKING:
    from requests_app.models import StaffMember


class Command(ToldCommand):
    help = (
        "Puts weights in force that were trained anew on data which the training gate let pass:"
        " every case goes from gated to exact, measured on them without its adapter. All cases have"
        " to hold. The weights of before go into quarantine (consolidate_release"
        " --destroy-quarantined destroys them)."
    )
    examples = (
        (
            "retrained_release --model /srv/our-model --weights /srv/new-weights"
            " --build clean.jsonl --gate-report gate.json --by engineer",
            "after training_gate --exclude-to clean.jsonl --report gate.json, and your own training"
            " on it: measure every case in force on the new weights, and put them in force",
        ),
    )
    exits = "0: done; 2: refused or could not run, and everything is as it was"
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model", required=True, help="as in RTBF_MODELS")
        parser.add_argument("--weights", type=Path, required=True, metavar="DIR")
        parser.add_argument("--build", type=Path, required=True, help="what they were trained on")
        parser.add_argument("--gate-report", type=Path, required=True, metavar="FILE")
        parser.add_argument("--set", default="", metavar="NAME", help="as it was given to the gate")
        parser.add_argument(
            "--started-from",
            default="",
            metavar="SHA256",
            help="registered weights that the training started from, if not from nothing",
        )
        parser.add_argument(
            "--by", required=True, metavar="USERNAME", help="the engineer or approver in the log"
        )
        parser.add_argument(
            "--others",
            type=Path,
            metavar="FILE",
            help='questions about others, to measure what they cost: {"question", "answer"} a line',
        )
        parser.add_argument("--subjects", type=Path, metavar="DIR", help="as consolidate_release")
        parser.add_argument("--seed", type=int, default=1, help="default %(default)s")

    def handle(self, *args: Any, **options: Any) -> None:
        member = member_named(options["by"])
        try:
            with Progress() as progress:
                found = retrained(options, member, progress)
        except (*REFUSALS, DataError, GateRefused, OSError) as error:
            self.stderr.write(str(error))
            sys.exit(REFUSED)
        self.stdout.write(json.dumps(found, indent=None if options["json"] else 1))


def retrained(
    options: Mapping[str, Any], member: "StaffMember", progress: Progress
) -> dict[str, Any]:
    """Check the report, plan and log it, measure, register, quarantine the replaced weights."""
    model, trained_on = options["model"], checked_training(options)
    live, in_force = releases.cases_in_force(model)
    if live.merged:
        raise ConsolidationError(
            f"{len(live.merged)} cases stand in these weights already, so no test plan can be fixed"
            " for them on what they tell: this version carries gated cases alone."
        )
    references = {str(each.case_id): each.reference for each in in_force}
    base, control = load_served(model, live.base_sha256, root()), load_control(model)
    given = load_retrained(base, options["weights"])
    try:
        fixed = plan(
            base,
            gated_cases(in_force, options["subjects"]),
            retained=read_retained(options["others"])
            if options["others"]
            else registered_data(base),
            control=control,
            recipe=Retrained(given.sha256),
            level="exact",
            seed=options["seed"],
            report=progress.report,
        )
        digest = releases.plan_consolidation(
            model_name=model, parent=live.digest, plan=fixed.record(), actor_member=member
        )
        done = release_retrained(
            base,
            given,
            fixed,
            folder=options["weights"],
            root=root(),
            adapters_root=Path(settings.RTBF_ADAPTER_DIR),
            gate_key=str(settings.RTBF_GATE_KEY).encode(),
            control=control,
            parent=live.digest,
            report=progress.report,
        )
    except ConsolidationError as error:
        raise ConsolidationError(with_references(str(error), references)) from None
    register(done, model=model, plan_sha256=digest, trained_on=trained_on, member=member)
    moved = quarantine(root(), base)
    if moved:
        releases.record_weights(
            model_name=model, sha256=base.sha256, what="quarantined", actor_member=member
        )
    return {
        "model": model,
        "release": done.release.sha256,
        "weights": done.base.sha256,
        "exact": [references[case_id] for case_id in done.merged],
        "replaced": base.sha256,
        "replaced_weights": "quarantined" if moved else "left where they came from: not ours",
        "figures": {references[case_id]: found for case_id, found in done.figures.items()},
    }


def checked_training(options: Mapping[str, Any]) -> TrainedOn:
    """What the report says of the build, if it let it pass with the list as it is now."""
    envelope = options["gate_report"].read_bytes()
    training_gate.check(
        envelope,
        options["build"],
        list_sha256=suppression.list_in_force(options["set"]).sha256,
        training_set=options["set"],
    )
    return TrainedOn(
        gate_report=hashlib.sha256(envelope).hexdigest(),
        build=file_sha256(options["build"]),
        started_from=options["started_from"],
    )


def register(
    done: Consolidation,
    *,
    model: str,
    plan_sha256: str,
    trained_on: TrainedOn,
    member: "StaffMember",
) -> None:
    """Put the release in force in the record, or remove what was made."""
    try:
        retraining.register_retrained(
            model_name=model,
            manifest=(root() / f"{done.release.sha256}.json").read_bytes(),
            plan_sha256=plan_sha256,
            trained_on=trained_on,
            cases=case_figures(done),
            actor_member=member,
        )
    except BaseException:  # whatever it was: what is not in force must not lie about
        done.abandon()
        raise
