"""`python -m benchmarks`: every benchmark of this folder, JSON in var/bench/, a table at the end.

Exit code: 0 if every bar holds, 1 if one does not, 2 if a benchmark could not run. `tofu` and the
sets of `field` need public data sets that are not shipped: they run where TOFU_DATA, KNOWUNDO_DATA,
MUSE_DATA, RWKU_DATA or WMDP_DATA names the folder.
"""

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

from benchmarks import field

FOLDER = Path(__file__).parent
NOT_A_BENCHMARK = {
    "__main__", "faults_injected", "faults_people", "faults_record", "faults_worker", "hf_trainer",
    "load_people", "on_postgres", "report", "setting", "tofu_metrics", "tofu_models",
}  # fmt: skip


def runs() -> dict[str, list[str]]:
    """By the name of its result file, what follows `python -m` for each benchmark that has its
    data."""
    found = {module.name for module in pkgutil.iter_modules([str(FOLDER)])} - NOT_A_BENCHMARK
    without_data = set() if os.environ.get("TOFU_DATA") else {"tofu"}
    commands = {name: [f"benchmarks.{name}"] for name in sorted(found - without_data - {"field"})}
    for name in field.SETS:
        if os.environ.get(field.variable(name)):
            commands[f"field-{name}"] = ["benchmarks.field", "--set", name]
    return commands


def main() -> int:
    out = FOLDER.parent / "var" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    worst, table = 0, []
    for name, command in runs().items():
        print(f"benchmark {name} …", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, "-m", *command, "--json"],
            cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        worst = max(worst, done.returncode if done.returncode in (0, 1) else 2)
        if done.returncode not in (0, 1):
            table.append((name, "could not run", "", "", ""))
            continue
        (out / f"{name}.json").write_text(done.stdout)
        bars = json.loads(done.stdout)["bars"]
        if not bars:
            table.append((name, "figures alone", "", "", ""))
        for bar in bars:
            holds = "holds" if bar["holds"] else "DOES NOT HOLD"
            table.append((name, bar["name"], str(bar["value"]), str(bar["limit"]), holds))
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    return worst


if __name__ == "__main__":
    sys.exit(main())
