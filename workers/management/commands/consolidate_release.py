"""``manage.py consolidate_release``: many adapters into new weights or into one, with the record; a
thin shell."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import CommandParser

from requests_app.commands import ToldCommand, member_named
from requests_app.services import manifests, releases, roll_backs
from requests_app.services.errors import ServiceError
from requests_app.services.releases import CaseFigures, CaseInForce
from requests_app.services.roll_backs import RollBackReason
from requests_app.services.run_values import ProbeRow
from workers import shared_files
from workers.adapters import AdapterError, AdapterRef
from workers.base_models import ModelError, load_control
from workers.consolidation import (
    Consolidation,
    ConsolidationError,
    GatedCase,
    Plan,
    cluster,
    consolidate,
    plan,
    read_retained,
    registered_data,
)
from workers.management.commands.erase import Progress
from workers.releases import ReleaseError
from workers.results import probe_results
from workers.subjects import Fact, Subject, SubjectError, read_subject
from workers.weights import bring_back, destroy, load_served, quarantine, quarantined

if TYPE_CHECKING:
    from requests_app.models import StaffMember

REFUSED = 2
REFUSALS = (
    AdapterError,
    ConsolidationError,
    ModelError,
    ReleaseError,
    ServiceError,
    SubjectError,
)


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
        parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
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
                    found = consolidated(options, member, progress)
        except REFUSALS as error:
            self.stderr.write(str(error))
            sys.exit(REFUSED)
        self.stdout.write(json.dumps(found, indent=None if options["json"] else 1))


def root() -> Path:
    return Path(settings.RTBF_RELEASE_DIR)


def consolidated(
    options: Mapping[str, Any], member: "StaffMember", progress: Progress
) -> dict[str, Any]:
    """Plan and log it, train and measure, register, quarantine the replaced weights."""
    model, file = options["model"], options["retained"]
    live, in_force = releases.cases_in_force(model)
    references = {str(each.case_id): each.reference for each in in_force}
    chosen = clustered(in_force, options["cluster"]) if options["cluster"] else in_force
    if live.merged and not options["cluster"]:
        raise ConsolidationError(
            f"{len(live.merged)} cases are merged into these weights already. They would have to be"
            " measured again on newer ones, which this version does not do."
        )
    cases = gated_cases(chosen, options["subjects"])
    base, control = load_served(model, live.base_sha256, root()), load_control(model)
    refs = [AdapterRef(str(a.case_id), a.sha256, a.gate_sha256) for a in live.adapters]
    shared_files.fetch(refs)
    rows = () if options["cluster"] else read_retained(file) if file else registered_data(base)
    try:
        fixed = plan(
            base,
            cases,
            retained=rows,
            control=control,
            level="gated" if options["cluster"] else "merged",
            seed=options["seed"],
            report=progress.report,
        )
        digest = releases.plan_consolidation(
            model_name=model, parent=live.digest, plan=fixed.record(), actor_member=member
        )
        common: dict[str, Any] = {
            "root": root(),
            "adapters_root": Path(settings.RTBF_ADAPTER_DIR),
            "gate_key": str(settings.RTBF_GATE_KEY).encode(),
            "control": control,
            "parent": live.digest,
            "report": progress.report,
        }
        if options["cluster"]:
            done = cluster(
                base,
                fixed,
                in_force=refs,
                merged=[str(case_id) for case_id in live.merged],
                **common,
            )
        else:
            done = consolidate(base, fixed, **common)
    except ConsolidationError as error:
        raise ConsolidationError(with_references(str(error), references)) from None
    register(done, fixed, model=model, plan_sha256=digest, member=member)
    found = {
        "model": model,
        "release": done.release.sha256,
        "merged": [references.get(case_id, case_id) for case_id in done.merged],
        "gated": [references[ref.case_id] for ref in done.individual],
        "figures": {references[case_id]: found for case_id, found in done.figures.items()},
    }
    if options["cluster"]:
        return {**found, "cluster": sorted(each.reference for each in chosen)}
    moved = quarantine(root(), base)
    if moved:
        releases.record_weights(
            model_name=model, sha256=base.sha256, what="quarantined", actor_member=member
        )
    return {
        **found,
        "weights": done.base.sha256,
        "replaced": base.sha256,
        "replaced_weights": "quarantined" if moved else "left where they came from: not ours",
        "retained": fixed.record()["retained"],
    }


def clustered(in_force: tuple[CaseInForce, ...], named: list[str]) -> tuple[CaseInForce, ...]:
    """The cases of these references. Raises ConsolidationError naming those not in force."""
    if unknown := sorted(set(named) - {each.reference for each in in_force}):
        raise ConsolidationError(
            f"No adapter of {', '.join(unknown)} is in force: name cases that are gated now."
        )
    return tuple(each for each in in_force if each.reference in named)


def gated_cases(in_force: tuple[CaseInForce, ...], subjects: Path | None) -> list[GatedCase]:
    """The cases in force with the persons' data. Raises ConsolidationError naming those without."""
    found, without = [], []
    for each in in_force:
        file = subjects / f"{each.reference}.json" if subjects else None
        if file is not None and file.is_file():
            subject = read_subject(file)
        elif each.facts is not None:
            subject = Subject(each.name, each.aliases, tuple(Fact(q, a) for q, a in each.facts))
        else:
            without.append(each.reference)
            continue
        ref = AdapterRef(str(each.case_id), each.adapter.sha256, each.adapter.gate_sha256)
        found.append(GatedCase(ref, subject))
    if without:
        raise ConsolidationError(
            f"The data of {', '.join(without)} is gone, so these cases can be neither carried nor"
            " measured on new weights; all cases stay as they are. If it is still held elsewhere,"
            " give --subjects with a file <reference>.json for each."
        )
    return found


def register(
    done: Consolidation, fixed: Plan, *, model: str, plan_sha256: str, member: "StaffMember"
) -> None:
    """Put the release in force in the record, or remove what was made."""
    try:
        shared_files.put(done.release.adapters)
        releases.register_consolidation(
            model_name=model,
            manifest=(root() / f"{done.release.sha256}.json").read_bytes(),
            plan_sha256=plan_sha256,
            retained=fixed.record()["retained"]["kind"],
            cases=case_figures(done),
            actor_member=member,
        )
    except BaseException:  # whatever it was: what is not in force must not lie about
        done.abandon()
        raise


def case_figures(done: Consolidation) -> dict[UUID, CaseFigures]:
    """What was measured of each case, as the record takes it."""
    return {
        UUID(case_id): CaseFigures(
            verdict=figures["verdict"],
            probes=tuple(ProbeRow(**row) for row in probe_results(figures)),
        )
        for case_id, figures in done.figures.items()
    }


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


def with_references(text: str, references: Mapping[str, str]) -> str:
    """The message with the cases' references in the place of their ids."""
    for case_id, reference in references.items():
        text = text.replace(case_id, reference)
    return text
