"""How often an erasure of the demo model ends within its thresholds, over people and seeds.

The people are those whose unseen phrasings were never looked at while the recipe was chosen (0 to 6
were), so the share is independent evidence about the recipe. Each is erased alone.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import report, setting
from workers import corpus, erasure
from workers.base_models import ModelError, load_base_model, load_control
from workers.forget_sets import NothingMeasurable
from workers.verification import WITHIN

NAME = "verdicts"
PEOPLE = range(7, 20)
SEEDS = (1, 2)


def measure() -> report.Measured:
    """Verdict, figures and seconds of each erasure, and one bar for each on unseen phrasings."""
    base, control = load_base_model("demo"), load_control("demo")
    figures: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    verdicts: Counter[str] = Counter()
    for person in (corpus.people()[index] for index in PEOPLE):
        subject = setting.subject_of(person)
        for seed in SEEDS:
            label = f"person {person.index}, seed {seed}"
            with tempfile.TemporaryDirectory() as root:
                done = erasure.erase(
                    base,
                    subject,
                    case_id=f"00000000-0000-4000-8000-{person.index:012d}",
                    root=Path(root),
                    gate_key=b"a key for this benchmark alone!!",
                    seed=seed,
                    control=control,
                )
            found = done.figures
            verdicts[found["verdict"]] += 1
            unseen = found["probes"]["recall_unseen"]
            limit, after = unseen["limits"][0], unseen["after"]
            figures[label] = {
                "verdict": found["verdict"],
                "reasons": found["reasons"],
                "probes": found["probes"],
                "steps": done.trained.steps,
                "seconds": done.seconds,
            }
            holds = found["verdict"] == WITHIN
            bars.append({"name": label, "value": after, "limit": limit, "holds": holds})
            report.progress(f"{label}: {found['verdict']}, unseen {after:.3f} of {limit:.3f}")
    figures["verdicts"] = dict(verdicts)
    return figures, bars


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(ModelError, NothingMeasurable)))
