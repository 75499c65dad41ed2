"""A data set's own figures for a model: `python -m benchmarks.field --set muse --data FOLDER`.

Sets: knowundo, muse, rwku, wmdp. The folder may also be named by KNOWUNDO_DATA, MUSE_DATA,
RWKU_DATA or WMDP_DATA. These are figures without bars. Each data set's file says which files it
reads and how its figures differ from those of its authors' code.
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.field import SETS, FieldDataError, muse, variable
from workers.base_models import BaseModel, ModelError, load_base_model


def measure(
    name: str, folder: Path, model: str, *, control: str | None = None, limit: int | None = None
) -> report.Measured:
    """Figures of the model and, if one is named, of the control. Raises FieldDataError, ModelError
    (before anything is measured)."""
    of_set: Any = import_module(f"benchmarks.field.{name}")
    data = of_set.limited(of_set.read(folder), limit)
    base = load_base_model(model)
    never = load_base_model(control) if control else None
    figures: dict[str, Any] = {
        "set": name,
        "limit": limit,
        "model": _of(of_set, data, base),
        "control": _of(of_set, data, never) if never else None,
    }
    if name == "muse":
        figures["privleak"] = muse.privacy_leakage(figures["model"], figures["control"])
    return figures, []


def _of(of_set: Any, data: Any, base: BaseModel) -> dict[str, Any]:
    return {"sha256": base.sha256, **of_set.measure(data, base)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.field", description=__doc__)
    parser.add_argument("--set", choices=SETS, required=True, dest="name")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of the data set, as published")
    parser.add_argument("--model", default="smollm2-135m", help="demo, smollm2-135m or a folder")
    parser.add_argument("--control", metavar="MODEL", help="a model that never saw the texts")
    parser.add_argument("--limit", type=_positive, metavar="N", help="at most so many of each part")
    parser.add_argument("--json", action="store_true", help="the JSON object on one line")
    options = parser.parse_args()
    folder = options.data or os.environ.get(variable(options.name))
    if not folder:
        parser.error(f"name the data set's folder with --data or {variable(options.name)}")
    sys.argv[1:] = ["--json"] * options.json
    return report.run(
        "field",
        str(__doc__),
        lambda: measure(
            options.name, Path(folder), options.model, control=options.control, limit=options.limit
        ),
        cannot_run=(ModelError, FieldDataError),
        has_bars=False,
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number of at least 1 is needed")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
