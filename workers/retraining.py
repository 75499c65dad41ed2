"""Weights that were trained anew without the persons' data (level *exact*): adopted and measured.

The training is the operator's own; what makes it exact is on what it was done, which the record
holds (`requests_app.services.retraining`). Here every case in force is measured on the new weights,
without an adapter, by a protocol that is logged before they are measured.
"""

from dataclasses import replace
from pathlib import Path

from workers.base_models import BaseModel, ModelError, load_folder
from workers.consolidation import (
    Consolidation,
    ConsolidationError,
    Plan,
    Retrained,
    measured,
    served_by,
    why,
)
from workers.erasure import never, silent
from workers.guarded import GuardedModel
from workers.releases import settings_sha256, write_release
from workers.training import Report, ShouldStop
from workers.verification import WITHIN
from workers.weights import adopt_weights, discard, load_weights


def load_retrained(base: BaseModel, folder: Path) -> BaseModel:
    """The weights in `folder` as a version of `base`. Raises ModelError unless they are others, and
    put and answer a question in the same way."""
    given = load_folder(
        base.name,
        folder,
        lowest_layer=base.lowest_layer,
        answer_tokens=base.answer_tokens,
    )
    if given.sha256 == base.sha256:
        raise ModelError("These are the weights that are served now: give those trained anew.")
    if given.tokenizer_sha256 != base.tokenizer_sha256 or (
        settings_sha256(given) != settings_sha256(base)
    ):
        raise ModelError(
            "The weights trained anew have another tokenizer or chat template than those served:"
            " what the two say could not be compared. Train them with the same ones."
        )
    return given


def release_retrained(
    base: BaseModel,
    given: BaseModel,
    fixed: Plan,
    *,
    folder: Path,
    root: Path,
    adapters_root: Path,
    gate_key: bytes,
    control: BaseModel | None,
    parent: str | None = None,
    report: Report = silent,
    should_stop: ShouldStop = never,
) -> Consolidation:
    """Store `given` (loaded from `folder`), read it back, measure every case of `fixed` on it and
    write the release under `root`.

    Raises ConsolidationError when one case does not hold, Stopped, and the errors of the stores;
    nothing new is then left under `root`.
    """
    if fixed.recipe != Retrained(given.sha256):
        raise ValueError("this plan is for other weights")
    stored = adopt_weights(given, folder, root)
    made = [stored]
    try:
        after = load_weights(root, stored.name)
        everyone = [case.ref.case_id for case in fixed.cases]
        bare = replace(GuardedModel.without_adapters(after).release, merged=tuple(everyone))
        before = GuardedModel.without_adapters(base)
        served = served_by(after, bare, adapters_root, gate_key)
        figures = measured(served, fixed, control, before, report, should_stop)
        if short := [case for case in everyone if figures[case]["verdict"] != WITHIN]:
            raise ConsolidationError(
                f"{len(short)} of {len(everyone)} cases do not hold on the weights trained anew"
                f" ({why(figures)}): {', '.join(short)}. Nothing was released. Look whether their"
                " records were all found and excluded."
            )
        release = write_release(root, base=after, adapters=(), parent=parent, merged=everyone)
        made.append(root / f"{release.sha256}.json")
    except BaseException:  # whatever it was: nothing half-made stays behind
        for each in made:
            discard(each)
        raise
    return Consolidation(
        base=after,
        release=release,
        merged=tuple(everyone),
        individual=(),
        figures=figures,
        made=tuple(made),
    )
