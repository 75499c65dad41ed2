"""`python -m benchmarks [NAME ...] [--all] [--resume] [--list]`: JSON in var/bench/ from each.

Without names: the quick ones of the table F1 to F8 (benchmarks.table). `--all`: every one, hours.
`--resume` leaves out those whose result is newer than the code. Each result is written as its
benchmark ends, so that an interrupted run loses one at most. `--list` tells names and minutes.

Exit code: 0 if every bar holds, 1 if one does not, 2 if a benchmark could not run. `tofu` and the
sets of `field` need public data sets that are not shipped: they run where TOFU_DATA, KNOWUNDO_DATA,
MUSE_DATA, RWKU_DATA or WMDP_DATA names the folder; `vllm` where VLLM_PYTHON names the Python of an
environment that has it.
"""

import argparse
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import field
from benchmarks.report import end_on_sigterm
from benchmarks.table import RESULTS, ROWS

FOLDER = Path(__file__).parent
CODE = ("benchmarks", "requests_app", "rtbf", "workers")
NOT_A_BENCHMARK = {
    "__main__", "faults_injected", "faults_people", "faults_record", "faults_worker", "hf_trainer",
    "load_people", "machines_worker", "on_postgres", "peer_search", "peers", "probes", "report",
    "setting", "table", "tofu_metrics", "tofu_models",
}  # fmt: skip
OTHERWISE: Mapping[str, tuple[str, ...]] = {
    "training": ("benchmarks.training", "--model", "demo"),
    "training-smollm2": ("benchmarks.training", "--model", "smollm2-135m", "--pairs", "2"),
    "gateway": ("benchmarks.gateway", "--model", "demo"),
    "gateway-smollm2": ("benchmarks.gateway", "--model", "smollm2-135m"),
}
"""What follows `python -m` where that is not the module alone."""
NEEDS: Mapping[str, str] = {"tofu": "TOFU_DATA", "vllm": "VLLM_PYTHON"}
"""The variable that names what is not shipped."""
MINUTES: Mapping[str, int] = {
    "audit": 3, "calibration": 13, "consolidation": 20, "continual": 60, "end_to_end": 1,
    "erase_demo": 2, "erase_smollm2": 8, "faults": 60, "gate": 10, "gateway": 2,
    "gateway-smollm2": 10, "load": 10, "loop": 4, "machines": 70, "merged_adapters": 8,
    "methods": 20, "onboarding": 3, "orthogonality": 1, "queue": 5, "scoring": 2, "search": 3,
    "together": 2, "training": 3, "training-smollm2": 20, "training_gate": 1, "verdicts": 11,
    "verification": 5, "vllm": 8,
}  # fmt: skip
"""Estimated on two quiet cores; what a run took stands in its result."""


def runs() -> dict[str, tuple[str, ...]]:
    """By the name of its result file, what follows `python -m` for each benchmark that has what it
    needs."""
    found = {module.name for module in pkgutil.iter_modules([str(FOLDER)])} - NOT_A_BENCHMARK
    without = {name for name, variable in NEEDS.items() if not os.environ.get(variable)}
    commands: dict[str, tuple[str, ...]] = {
        name: (f"benchmarks.{name}",) for name in found - without - {"field"}
    }
    for name in field.SETS:
        if os.environ.get(field.variable(name)):
            commands[f"field-{name}"] = ("benchmarks.field", "--set", name)
    return dict(sorted((commands | dict(OTHERWISE)).items()))


def chosen(names: Sequence[str], known: Mapping[str, object], *, everything: bool) -> list[str]:
    """The names to run, in the order of the table; SystemExit that lists the known ones."""
    if unknown := set(names) - known.keys():
        sys.exit(f"There is no benchmark {', '.join(sorted(unknown))}; known: {', '.join(known)}.")
    usual = [name for row in ROWS for name in row.runs if name in known]
    wanted = list(names) or (list(known) if everything else usual)
    order = usual + wanted
    return sorted(dict.fromkeys(wanted), key=order.index)


def is_newer_than_code(result: Path, root: Path) -> bool:
    """Whether this result was written after every Python file of the project."""
    if not result.is_file():
        return False
    files = (file for folder in CODE for file in (root / folder).rglob("*.py"))
    return result.stat().st_mtime > max(file.stat().st_mtime for file in files)


def lines_of(name: str, result: Path) -> list[tuple[str, ...]]:
    """The bars of a result, for the table on screen."""
    bars = json.loads(result.read_text())["bars"]
    return [
        (name, bar["name"], str(bar["value"]), str(bar["limit"]),
         "holds" if bar["holds"] else "DOES NOT HOLD")
        for bar in bars
    ] or [(name, "figures alone", "", "", "")]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*")
    for option in ("all", "resume", "list"):
        parser.add_argument(f"--{option}", action="store_true")
    options = parser.parse_args()
    commands = runs()
    names = chosen(options.names, commands, everything=options.all)
    if options.list:
        for name in names:
            print(
                f"{name:18}{MINUTES.get(name, '?'):>4} min   python -m {' '.join(commands[name])}"
            )
        return 0
    end_on_sigterm()
    RESULTS.mkdir(parents=True, exist_ok=True)
    worst, table = 0, list[tuple[str, ...]]()
    for name in names:
        result = RESULTS / f"{name}.json"
        if options.resume and is_newer_than_code(result, FOLDER.parent):
            print(f"benchmark {name}: its result is newer than the code", file=sys.stderr)
        else:
            print(f"benchmark {name}, about {MINUTES.get(name, '?')} min …", file=sys.stderr)
            code = run(commands[name], result)
            worst = max(worst, code)
            if code == 2:
                table.append((name, "could not run, or not all of it", "", "", ""))
        if not result.is_file():
            continue
        table += lines_of(name, result)
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    missed = any(row[4].startswith("DOES") for row in table)
    return max(worst, int(missed))


def run(command: Sequence[str], result: Path) -> int:
    """One benchmark in a process of its own; its result is written whole, or there is none."""
    result.unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, "-m", *command, "--json"],
        cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            told, _ = process.communicate()
        except SystemExit:  # it stops what it has started, and is waited for
            process.terminate()
            raise
    if process.returncode not in (0, 1, 2) or not told:
        return 2
    unfinished = result.with_suffix(".unfinished")
    unfinished.write_text(told)
    unfinished.replace(result)
    return process.returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted: what ended before is in var/bench/; --resume goes on from there.")
