"""``manage.py consolidate_release``: many adapters into new weights or into one, with the record; a
thin shell."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandParser

from requests_app.commands import ToldCommand, member_named
from requests_app.services import manifests, releases, roll_backs
from requests_app.services.roll_backs import RollBackReason
from workers.base_models import ModelError
from workers.consolidation import Consolidation, Plan
from workers.management.commands.erase import Progress
from workers.merging import REFUSALS, SEED, Register, Wanted, consolidated, registered, root
from workers.weights import bring_back, destroy, quarantined

if TYPE_CHECKING:
    from requests_app.models import StaffMember

REFUSED = 2


class Command(ToldCommand):
    help = (
        "Consolidates the adapters in force on a model into new weights: every case goes from"
        " gated to merged, measured on the stored weights without its adapter. A case that does"
        " not hold there keeps its adapter, measured again on them. With --cluster several cases"
        " get one adapter instead, which makes room where their neighbourhood is full. Do it"
        " before cases are sealed: without its data a case can be neither carried nor measured."
    )
    examples = (
        (
            "consolidate_release --model demo --by engineer",
            "train all cases in force into new weights and measure each on them",
        ),
        (
            "consolidate_release --model /srv/our-model --by engineer --retained rows.jsonl",
            "the same on a model of your own, the others held in place by data that you still hold",
        ),
        (
            "consolidate_release --model demo --by engineer --cluster REF1 --cluster REF2",
            "one adapter for these two in the place of theirs; each stays behind its gate",
        ),
        (
            "consolidate_release --model demo --by approver --roll-back DIGEST",
            "an earlier release, unless a case would lose its erasure",
        ),
        (
            "consolidate_release --model demo --by engineer --destroy-quarantined",
            "overwrite and delete the weights that were replaced, with a log entry each",
        ),
    )
    exits = "0: done; 2: refused or could not run, and everything is as it was"
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model", required=True, help="as in RTBF_MODELS")
        parser.add_argument(
            "--by", required=True, metavar="USERNAME", help="the engineer or approver in the log"
        )
        parser.add_argument(
            "--retained",
            type=Path,
            metavar="FILE",
            help='the other people\'s training data: {"question", "answer"} or {"text"} a line;'
            " the demo model has its own, any other does without (surrogates) if this is not given",
        )
        parser.add_argument(
            "--subjects",
            type=Path,
            metavar="DIR",
            help="subject files named <reference>.json, for cases whose data is sealed",
        )
        parser.add_argument(
            "--cluster",
            action="append",
            metavar="REFERENCE",
            help="a case that is to share one adapter with the others named so; give it repeatedly",
        )
        parser.add_argument("--seed", type=int, default=SEED, help="default %(default)s")
        parser.add_argument("--roll-back", metavar="RELEASE", help="make an earlier release live")
        parser.add_argument("--destroy-quarantined", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        member = member_named(options["by"])
        try:
            if options["destroy_quarantined"]:
                found = destroyed(options["model"], member)
            elif options["roll_back"]:
                found = rolled_back(options["model"], options["roll_back"], member)
            else:
                with Progress() as progress:
                    found = consolidated(
                        wanted(options),
                        member,
                        register=register(member, options["model"]),
                        report=progress.report,
                    )
        except REFUSALS as error:
            self.stderr.write(str(error))
            sys.exit(REFUSED)
        self.stdout.write(json.dumps(found, indent=None if options["json"] else 1))


def wanted(options: Mapping[str, Any]) -> Wanted:
    return Wanted(
        model=options["model"],
        retained=options["retained"],
        subjects=options["subjects"],
        cluster=tuple(options["cluster"] or ()),
        seed=options["seed"],
    )


def register(member: "StaffMember", model: str) -> Register:
    """Puts a consolidation in force in the record, on the word of this member."""

    def put_in_force(done: Consolidation, fixed: Plan, digest: str) -> None:
        releases.register_consolidation(
            model_name=model, actor_member=member, **registered(done, fixed, digest)
        )

    return put_in_force


def destroyed(model: str, member: "StaffMember") -> dict[str, Any]:
    """Destroy the model's weights in quarantine, with a log entry each; never those in service."""
    found = quarantined(root(), model)
    if manifests.live_base(model) in found:
        raise ModelError(
            f"Quarantined weights of {model!r} are in service: a roll-back to them was cut off."
            " Repeat it (--roll-back), which brings them back; nothing was destroyed."
        )
    for sha256 in found:

        def record(files: int, sha256: str = sha256) -> None:
            releases.record_weights(
                model_name=model, sha256=sha256, what="destroyed", files=files, actor_member=member
            )

        destroy(root(), sha256, record=record)
    return {"model": model, "destroyed": list(found)}


def rolled_back(model: str, release: str, member: "StaffMember") -> dict[str, Any]:
    """Make an earlier release live again and bring its weights back from quarantine. Of one that is
    live already only the weights are brought back: a command was cut off in between."""
    weights = releases.base_of(release)
    live = manifests.live_manifest(model)
    cut_off = live and live.digest == release and weights in quarantined(root(), model)
    if not cut_off:
        roll_backs.roll_back_release(
            digest=release, reason=RollBackReason.UNDO, actor_member=member
        )
    if bring_back(root(), weights):
        releases.record_weights(
            model_name=model, sha256=weights, what="brought_back", actor_member=member
        )
    return {"model": model, "release": release, "weights": weights}
