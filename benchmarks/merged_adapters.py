"""Sixteen cases of the demo model in one place: one joint LoRA merged into the weights, against
PEFT's own way to make one adapter of many (`add_weighted_adapter`, svd).

Both end as new weights without a gate, stored, read back and verified against the control as
`benchmarks.consolidation` does it, on the same people. PEFT's side has sixteen adapters trained as
runs train them, each to act fully on its own person behind a gate, and the best approximation of
their sum by the rank of the joint LoRA. It needs no data and no training; the bars are ours.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import report, setting
from benchmarks.consolidation import OTHERS_KEPT, PERPLEXITY, SEED, row, told_after
from workers import erasure
from workers.adapters import WEIGHTS_FILE, AdapterRef
from workers.base_models import BaseModel, ModelError
from workers.forget_sets import Located, NothingMeasurable
from workers.joint_training import JointRecipe, deltas_of
from workers.summaries import bar

NAME = "merged_adapters"
PEOPLE = 16
MERGED = "merged"


def measure() -> report.Measured:
    """Figures of both sides, and the bars of ours."""
    population = setting.shipped()
    base, control = population.base, population.control
    located = [population.located(index) for index in range(PEOPLE)]
    figures: dict[str, Any] = {
        "rank": JointRecipe().rank,
        "PEFT's svd": by_svd(base, control, located),
    }
    label = f"{PEOPLE} people, retained"
    figures["ours"] = ours = row(base, control, located, "retained", label=label)
    short, kept = ours["unseen"]["above_limit"], ours["others"]["kept"]
    general = ours["perplexity_ratio"]
    return figures, [
        bar(f"{label}: people above the control's upper bound", short, 0, short == 0),
        bar(f"{label}: others kept", kept, OTHERS_KEPT, kept >= OTHERS_KEPT),
        bar(f"{label}: perplexity", general, PERPLEXITY, general <= PERPLEXITY),
    ]


def by_svd(base: BaseModel, control: BaseModel, located: Sequence[Located]) -> dict[str, Any]:
    """An adapter a person, and one of all of them."""
    refs: list[AdapterRef] = []
    with setting.scratch() as root:
        for index, each in enumerate(located):
            done = erasure.train_and_save(
                base,
                each,
                case_id=setting.case_id(index),
                adapters_root=root / "adapters",
                earlier=refs,
                gate_key=setting.KEY,
                seed=SEED + index,
            )
            refs.append(done.ref)
            report.progress(f"adapter {index + 1} of {len(located)}")
        size = sum((ref.folder(root / "adapters") / WEIGHTS_FILE).stat().st_size for ref in refs)
        with setting.released(base, root, refs) as guarded:
            model = guarded._holding(range(len(refs)))
            started = time.perf_counter()
            model.add_weighted_adapter(
                guarded._names, [1.0] * len(refs), MERGED,
                combination_type="svd", svd_rank=JointRecipe().rank,
            )  # fmt: skip
            seconds = time.perf_counter() - started
            deltas = deltas_of(model, MERGED)
    found = told_after(base, control, located, deltas)
    return {"seconds": round(seconds, 1), "bytes of adapters": size, **found}


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(ModelError, NothingMeasurable)))
