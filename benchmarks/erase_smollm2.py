"""Suppress two public subjects in SmolLM2-135M, one after the other, and measure the damage."""

import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks import report
from workers import erasure
from workers.base_models import ModelError, load_base_model
from workers.forget_sets import NothingMeasurable
from workers.subjects import read_subject
from workers.summaries import summary

NAME = "erase_smollm2"
SUBJECTS = Path(erasure.__file__).parent / "subject_files"
FILES = ("harry_potter.json", "william_shakespeare.json")


def measure() -> report.Measured:
    """Figures by subject; the second subject's adapter is orthogonal to the first one's."""
    report.progress("loading smollm2-135m")
    started = time.perf_counter()
    base = load_base_model("smollm2-135m")
    load = time.perf_counter() - started
    figures: dict[str, Any] = {}
    bars = []
    earlier: list[erasure.AdapterRef] = []
    with tempfile.TemporaryDirectory() as root:
        for file in FILES:
            done = erasure.erase(
                base,
                read_subject(SUBJECTS / file),
                case_id=str(uuid.uuid5(uuid.NAMESPACE_URL, file)),
                root=Path(root),
                gate_key=b"a key for this benchmark alone!!",
                seed=1,
                earlier=earlier,
                report=report.phases(file),
            )
            earlier.append(done.trained.ref)
            model = {"name": base.name, "sha256": base.sha256}
            found = summary(done, model=model, seconds={"load": load, **done.seconds})
            bars += [{**bar, "name": f"{file}: {bar['name']}"} for bar in found.pop("bars")]
            figures[file] = found
    return figures, bars


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(ModelError, NothingMeasurable)))
