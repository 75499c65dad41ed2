"""Suppress three people of the demo model, one after the other, against its control.

Every probe there is, attacks included, is put to the first of them.
"""

import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks import report, setting
from workers import corpus, erasure
from workers.base_models import ModelError, load_base_model, load_control
from workers.forget_sets import NothingMeasurable
from workers.summaries import bar, summary

NAME = "erase_demo"
PEOPLE = (0, 1, 2)
SECONDS = 30.0


def measure() -> report.Measured:
    """Figures by person; every adapter is orthogonal to the ones before it."""
    started = time.perf_counter()
    base, control = load_base_model("demo"), load_control("demo")
    load = time.perf_counter() - started
    figures: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    earlier: list[erasure.AdapterRef] = []
    with tempfile.TemporaryDirectory() as root:
        for index in PEOPLE:
            person = corpus.people()[index]
            label = f"person {index}"
            done = erasure.erase(
                base,
                setting.subject_of(person),
                case_id=str(uuid.uuid5(uuid.NAMESPACE_URL, label)),
                root=Path(root),
                gate_key=b"a key for this benchmark alone!!",
                seed=1,
                control=control,
                earlier=earlier,
                profile="full" if index == PEOPLE[0] else "fast",
                report=report.phases(label),
            )
            earlier.append(done.trained.ref)
            model = {"name": base.name, "sha256": base.sha256}
            found = summary(done, model=model, seconds={"load": load, **done.seconds})
            bars += [{**each, "name": f"{label}: {each['name']}"} for each in found.pop("bars")]
            spent = done.seconds["train"]
            bars.append(bar(f"{label}: seconds of training", spent, SECONDS, spent <= SECONDS))
            figures[label] = found
    return figures, bars


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(ModelError, NothingMeasurable)))
